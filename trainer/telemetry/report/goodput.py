"""Wall time by what it went into, as a timeline with what happened, and as a total; energy."""

from collections.abc import Sequence
from typing import Any

from ..energy import intervals, job_begins, readings_of
from ..progress import duration
from ..reading.follow import told
from ..reading.run import Line, Run
from ..reading.timeline import Span, begin_of, binned
from .figures import ACCOUNTS, COLOURS, QUIET, figure, graph_objects, line
from .series import unit_of_time

_BINS = 160
# What happened: colour, symbol, and the row of marks above the bars.
_MARKS = {
    "start": (QUIET, "line-ns-open", 0),
    "checkpoint": (COLOURS[0], "circle", 0),
    "failure": (COLOURS[1], "x", 1),
    "hang": (COLOURS[1], "hourglass", 1),
    "corruption": (COLOURS[1], "square-x", 1),
    "recovery": (COLOURS[2], "triangle-up", 1),
    "preemption": (COLOURS[3], "diamond", 1),
    "rollback": (COLOURS[4], "triangle-left", 1),
    "skip": (COLOURS[3], "cross", 1),
    "straggler": (COLOURS[6], "triangle-down", 1),
    "outage": (COLOURS[6], "pentagon", 1),
    "save_failed": (COLOURS[6], "circle-x", 0),
    "end": ("#0f172a", "line-ns-open", 0),
}


def timeline(run: Run, found: Sequence[Span]) -> Any:
    """Stacked shares of each stretch of wall time by account, and above them what happened."""
    length, unit = unit_of_time(found[-1].end if found else 0.0)
    made = figure(x=f"{unit} since the run began", y="% of wall time", height=380)
    width, bins = binned(found, _BINS)
    for name in (name for name in ACCOUNTS if name in bins):
        made.add_trace(
            graph_objects().Bar(
                x=[(place + 0.5) * width / length for place in range(_BINS)],
                y=[100 * seconds / width for seconds in bins[name]],
                width=width / length,
                name=name,
                marker={"color": ACCOUNTS[name], "line": {"width": 0}},
                hovertemplate="%{y:.1f} %",
            )
        )
    begin = begin_of(run.metrics, run.ledger)
    if begin is not None:
        _mark(made, run.events, begin, length)
    made.update_layout(barmode="stack", bargap=0, margin={"t": 64})
    made.update_yaxes(range=[0, 116], tickvals=[0, 25, 50, 75, 100])
    made.update_xaxes(rangemode="tozero")
    return made


def total(found: Sequence[Span]) -> dict[str, float]:
    """Seconds by account over all spans, the greatest first."""
    sums: dict[str, float] = {}
    for span in found:
        for name, seconds in span.seconds.items():
            sums[name] = sums.get(name, 0.0) + seconds
    return {k: v for k, v in sorted(sums.items(), key=lambda item: -item[1]) if v > 0}


def power(run: Run) -> Any | None:
    """Watts of each counter over wall time; None where nothing was measured."""
    spans = intervals(readings_of(run.metrics, run.events), job_begins(run.events))
    begin = begin_of(run.metrics, run.ledger)
    if not spans or begin is None:
        return None
    length, unit = unit_of_time(spans[-1][1] - begin)
    made = figure(x=f"{unit} since the run began", y="watts")
    sources = sorted({source for *_, source, _ in spans})
    for place, source in enumerate(sources):
        own = [(a, b, joules) for a, b, name, joules in spans if name == source and b > a]
        x = [((a + b) / 2 - begin) / length for a, b, _ in own]
        watts = [joules / (b - a) for a, b, joules in own]
        line(made, x, watts, source, colour=COLOURS[place % len(COLOURS)])
    made.update_yaxes(rangemode="tozero")
    return made


def _mark(made: Any, events: Sequence[Line], begin: float, length: float) -> None:
    for kind, (colour, symbol, row) in _MARKS.items():
        own = [event for event in events if event["kind"] == kind]
        if not own:
            continue
        made.add_trace(
            graph_objects().Scatter(
                x=[(float(event["time"]) - begin) / length for event in own],
                y=[105 + 6 * row] * len(own),
                mode="markers",
                name=kind.replace("_", " "),
                text=[_said(event, begin) for event in own],
                hovertemplate="%{text}<extra></extra>",
                marker={"color": colour, "symbol": symbol, "size": 9, "line": {"width": 1.5}},
            )
        )


def _said(event: Line, begin: float) -> str:
    words = told(event).split("  ", 1)[1][:120]
    return f"{duration(float(event['time']) - begin)}: {words}".replace("<", "&lt;")
