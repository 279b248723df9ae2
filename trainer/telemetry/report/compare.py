"""Several runs side by side: what differs between them, and their curves in one frame."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ....checkpoint.manifest import Head
from ..progress import duration
from ..reading.run import Line, Run
from ..reading.status import Status
from ..reading.timeline import spans
from . import goodput
from .figures import ACCOUNTS, COLOURS, figure, graph_objects, line, markup
from .page import Section, page
from .series import column, smoothed, thinned
from .tables import flat, table

_ABSENT = "-"
# Where a run lies and what it is called says nothing of what it is.
_NAMES = ("run.name", "run.dir", "checkpoint.path")
_CURVES = (
    ("loss", "Loss", "loss", ("loss",)),
    ("throughput", "Throughput", "tokens / s", ("tokens_per_second",)),
    ("step-time", "Step time", "seconds", ("step_seconds",)),
    ("gradient-norm", "Gradient norm", "norm", ("grad_norm",)),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """One of the runs."""

    label: str
    """What tells it from the others."""
    run: Run
    status: Status
    head: Head | None
    """Of its newest checkpoint, for what code and data it was made of; None where there is none."""


Row = tuple[str, ...]


def labels(runs: Sequence[Run]) -> list[str]:
    """The folders' names; their paths where names repeat, and numbers where those do."""
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run.folder) for run in runs]
    if len(set(names)) < len(names):
        names = [f"{number}: {name}" for number, name in enumerate(names, 1)]
    return names


def settings_that_differ(compared: Sequence[Compared]) -> list[Row]:
    """Keys of the configuration that are not one value in all runs, with each run's."""
    found = [flat(one.run.config) for one in compared]
    return [row for row in _differing(found) if row[0] not in _NAMES]


def origins_that_differ(compared: Sequence[Compared]) -> list[Row]:
    """The same of code, data, versions and layout, as the newest checkpoints have them."""
    found = []
    for one in compared:
        facts = flat(one.head.lineage) if one.head else {}
        for name in ("config_digest", "parent"):  # say again that settings and folders differ
            facts.pop(name, None)
        layout = {f"layout.{k}": n for k, n in one.head.topology.items()} if one.head else {}
        found.append({**facts, **layout})
    return _differing(found)


def figures_side_by_side(compared: Sequence[Compared]) -> list[Row]:
    """What the runs came to, a row a figure."""
    columns = [_figures(one) for one in compared]
    return [(name, *(found[name] for found in columns)) for name in columns[0]]


def compare_page(compared: Sequence[Compared]) -> str:
    """One HTML page. Raises ConfigError where plotly is not installed."""
    names = [one.label for one in compared]
    settings, origins = settings_that_differ(compared), origins_that_differ(compared)
    sections = [
        _table("Side by side", ("figure", *names), figures_side_by_side(compared)),
        *_curves(compared),
        _accounts(compared),
        _table("Configuration that differs", ("key", *names), settings),
        _table("Code, data and layout that differ", ("what", *names), origins),
    ]
    return page(
        f"{' and '.join(names)}: keepstep compare",
        heading="<h1>Comparison</h1>",
        cards=[("runs", str(len(names))), ("settings that differ", str(len(settings)))],
        sections=sections,
        footer=f"Made {time.strftime('%Y-%m-%d %H:%M:%S %Z')}",
    )


def _figures(one: Compared) -> dict[str, str]:
    steps, summary = one.run.steps(), one.run.summary
    evaluations = [event["loss"] for event in one.run.of_kind("eval")]
    seconds = [float(row["step_seconds"]) for row in steps]
    rates = [float(row["tokens_per_second"]) for row in steps]
    found = spans(one.run.metrics, one.run.ledger)
    energy = summary.get("energy") or {}
    return {
        "state": one.status.state.value,
        "steps": f"{one.status.step:,}",
        "loss": _number(one.status.loss, ".5f"),
        "held-out loss": _number(evaluations[-1] if evaluations else None, ".5f"),
        "tokens": _number(steps[-1]["tokens"] if steps else None, ",d"),
        "tokens/s, median": _number(statistics.median(rates) if rates else None, ",.0f"),
        "step time, median": _number(statistics.median(seconds) if seconds else None, ".4f", " s"),
        "goodput": _number(one.status.goodput, ".1%"),
        "wall time": duration(found[-1].end) if found else _ABSENT,
        "failures": str(len(one.run.of_kind("failure", "hang", "corruption"))),
        "recoveries": str(len(one.run.of_kind("recovery"))),
        "energy": _number(energy.get("kwh"), ".4g", " kWh"),
        "state digest": str(summary.get("state_digest", _ABSENT)),
    }


def _curves(compared: Sequence[Compared]) -> list[Section]:
    made = []
    for name, title, unit, path in _CURVES:
        drawn = figure(x="step", y=unit, height=340 if name == "loss" else 300)
        for one, colour in zip(compared, _colours(len(compared)), strict=True):
            x, y = column(one.run.steps(), *path)
            line(drawn, *thinned(x, smoothed(y)), one.label, colour=colour)
            if name == "loss":
                _evaluations(drawn, one.run.of_kind("eval"), one.label, colour)
        note = "Running medians; dotted: held out." if name == "loss" else ""
        is_wide = name == "loss"
        made.append(Section(title=title, note=note, body=markup(drawn, name), is_wide=is_wide))
    return made


def _evaluations(drawn: Any, events: Sequence[Line], label: str, colour: str) -> None:
    if events:
        x, y = column(events, "loss")
        line(drawn, x, y, f"{label}, held out", colour=colour, dash="dot", mode="lines+markers")


def _accounts(compared: Sequence[Compared]) -> Section:
    """Where each run's time went, one bar a run."""
    totals = [goodput.total(spans(one.run.metrics, one.run.ledger)) for one in compared]
    drawn = figure(x="% of wall time", y="", height=140 + 44 * len(compared))
    for name, colour in ACCOUNTS.items():
        shares = [100 * sums.get(name, 0.0) / max(sum(sums.values()), 1e-9) for sums in totals]
        if any(shares):
            drawn.add_trace(
                graph_objects().Bar(
                    x=shares,
                    y=[one.label for one in compared],
                    orientation="h",
                    name=name,
                    marker={"color": colour, "line": {"width": 0}},
                    hovertemplate="%{x:.1f} %",
                )
            )
    drawn.update_layout(barmode="stack", hovermode="y unified")
    drawn.update_yaxes(autorange="reversed", type="category")
    return Section(title="Where the time went", body=markup(drawn, "accounts"))


def _table(title: str, heads: Sequence[str], rows: Sequence[Row]) -> Section:
    body = table(heads, rows) if rows else "<p>Nothing.</p>"
    return Section(title=title, body=body, is_wide=True)


def _differing(found: Sequence[Mapping[str, Any]]) -> list[Row]:
    keys = sorted({key for one in found for key in one})
    rows = [(key, *(str(one.get(key, _ABSENT)) for one in found)) for key in keys]
    return [row for row in rows if len(set(row[1:])) > 1]


def _colours(count: int) -> list[str]:
    return [COLOURS[place % len(COLOURS)] for place in range(count)]


def _number(value: float | None, shape: str, unit: str = "") -> str:
    return _ABSENT if value is None else f"{value:{shape}}{unit}"
