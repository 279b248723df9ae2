"""The report of one run."""

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ....checkpoint.manifest import Head
from ..progress import duration
from ..reading.follow import told
from ..reading.run import Line, Run
from ..reading.status import Status
from ..reading.timeline import Span, spans
from . import charts, goodput
from .figures import markup
from .page import Section, page
from .tables import facts, flat, table, text

_QUIET_EVENTS = ("snapshots", "energy", "eval")
_MOST_EVENTS = 500
_NO_METER = (
    "Not measured: where this run trained, no counter could be read (NVML for GPUs, RAPL under "
    "/sys/class/powercap for CPUs, which mostly only root may read). Nothing is estimated."
)


def report(run: Run, status: Status, head: Head | None) -> str:
    """One HTML page.

    Args:
        head: of the newest checkpoint, for its lineage; None where there is none.

    Raises:
        ConfigError: plotly is not installed.
    """
    steps, found = run.steps(), spans(run.metrics, run.ledger)
    heading = (
        f'<h1>{text(run.name)}<span class="state {status.state}">{status.state}</span></h1>'
        f"<p>{text(status.why)}</p>"
    )
    return page(
        f"{run.name}: keepstep report",
        heading=heading,
        cards=_cards(run, status, steps, found),
        sections=[
            *(first := _curves(run, steps))[:1],
            _timeline(run, found),
            *first[1:],
            _ledger(found),
            _lineage(run, head),
            _summary(run),
            _energy(run),
            _events(run),
            _configuration(run),
        ],
        footer=f"Made {time.strftime('%Y-%m-%d %H:%M:%S %Z')} from {run.folder}",
    )


def _cards(
    run: Run, status: Status, steps: Sequence[Line], found: Sequence[Span]
) -> list[tuple[str, str]]:
    rates = [float(line["tokens_per_second"]) for line in steps]
    wall = found[-1].end if found else 0.0
    evaluations = run.of_kind("eval")
    good = run.summary.get("goodput") or status.goodput
    cards = [
        ("steps", f"{status.step:,} / {status.steps:,}" if status.steps else f"{status.step:,}"),
        ("loss", "-" if status.loss is None else f"{status.loss:.4f}"),
        ("held-out loss", f"{evaluations[-1]['loss']:.4f}" if evaluations else "-"),
        ("tokens / s, median", f"{statistics.median(rates):,.0f}" if rates else "-"),
        ("goodput", "-" if good is None else f"{good:.1%}"),
        ("wall time", duration(wall)),
        ("failures", str(len(run.of_kind("failure", "hang", "corruption")))),
        ("recoveries", str(len(run.of_kind("recovery")))),
    ]
    if any((mfu := line.get("mfu")) is not None for line in reversed(steps)):
        cards.insert(4, ("MFU", f"{mfu:.1%}"))
    return cards


def _curves(run: Run, steps: Sequence[Line]) -> list[Section]:
    if not steps:
        return [Section(title="Curves", body="<p>No step is finished yet.</p>", is_wide=True)]
    made = [
        ("loss", "Loss", charts.loss(run, steps), ""),
        ("throughput", "Throughput", charts.throughput(steps), ""),
        ("step-time", "Step time", charts.step_time(steps), _spread(steps)),
        (
            "gradient-norm",
            "Gradient norm",
            charts.gradient_norm(run, steps),
            "Before clipping. Single blocks: telemetry.gradient_groups=true.",
        ),
        ("memory", "Memory", charts.memory(steps), "Of rank 0's training process."),
        ("stall", "Data stall by cause", charts.stall(steps), _stalled(steps)),
    ]
    return [
        Section(title=title, note=note, body=markup(one, name), is_wide=name == "loss")
        for name, title, one, note in made
    ]


def _spread(steps: Sequence[Line]) -> str:
    seconds = sorted(float(line["step_seconds"]) for line in steps)
    parts = (0.5, 0.95, 0.99)
    values = [1000 * seconds[min(len(seconds) - 1, int(part * len(seconds)))] for part in parts]
    named = zip(parts, values, strict=True)
    return "Whole run: " + ", ".join(f"p{part * 100:g} {value:,.1f} ms" for part, value in named)


def _stalled(steps: Sequence[Line]) -> str:
    waited = sum(float(line.get("data_seconds") or 0.0) for line in steps)
    total = sum(float(line["step_seconds"]) for line in steps)
    return f"Steps waited for data {waited / max(total, 1e-9):.2%} of their time."


def _timeline(run: Run, found: Sequence[Span]) -> Section:
    title, note = "Goodput over wall time", "Every second of the run, over failures and jobs."
    if not found:
        return Section(title=title, body="<p>No ledger was kept.</p>", is_wide=True)
    body = markup(goodput.timeline(run, found), "timeline")
    return Section(title=title, note=note, body=body, is_wide=True)


def _ledger(found: Sequence[Span]) -> Section:
    sums = goodput.total(found)
    whole = sum(sums.values())
    rows = [(name, f"{seconds:,.2f} s", f"{seconds / whole:.1%}") for name, seconds in sums.items()]
    rows.append(("sum", f"{whole:,.2f} s", "100.0%" if whole else "-"))
    return Section(title="Ledger", body=table(("account", "time", "share"), rows))


def _energy(run: Run) -> Section:
    found: Mapping[str, Any] | None = run.summary.get("energy")
    power = goodput.power(run)
    if power is None:
        meters = {name for event in run.of_kind("start") for name in event.get("energy_meters", ())}
        words = _NO_METER if not meters else f"{', '.join(sorted(meters))}: read only once so far."
        return Section(title="Energy", body=f"<p>{text(words)}</p>", is_wide=True)
    body = markup(power, "power")
    if found:
        shown = {f"{kind}": f"{joules:,.0f} J" for kind, joules in found["joules"].items()}
        shown["all"] = f"{found['kwh']:.4g} kWh"
        grams = found["grams_co2"]
        unknown = "not known: set telemetry.grid_grams_per_kwh"
        shown["CO2"] = unknown if grams is None else f"{grams:,.1f} g"
        body += facts(shown)
    note = "By the devices' own counters, which count all that uses them."
    return Section(title="Energy", note=note, body=body, is_wide=True)


def _lineage(run: Run, head: Head | None) -> Section:
    if head is None:
        return Section(title="Lineage", body="<p>No checkpoint can be read.</p>")
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(head.created))
    degrees = {key: n for key, n in head.topology.items() if n > 1}
    shown = {
        "newest checkpoint": f"step {head.step:,}, {when}",
        "layout": ", ".join(f"{key} {n}" for key, n in degrees.items()) or "one rank",
        **{key.replace("_", " "): value for key, value in flat(head.lineage).items()},
        "state digest": run.summary.get("state_digest"),
    }
    return Section(title="Lineage", body=facts(shown))


def _summary(run: Run) -> Section:
    plain = {k: v for k, v in run.summary.items() if not isinstance(v, Mapping) and v is not None}
    if not plain:
        return Section(title="Summary", body="<p>The run has not finished.</p>")
    return Section(title="Summary", body=facts({k.replace("_", " "): v for k, v in plain.items()}))


def _events(run: Run) -> Section:
    events = [event for event in run.events if event["kind"] not in _QUIET_EVENTS]
    rows = [told(event).split("  ", 2) for event in events[-_MOST_EVENTS:]]
    rows = [[*row, ""][:3] for row in rows]
    note = f"The last {_MOST_EVENTS:,} of {len(events):,}." if len(events) > _MOST_EVENTS else ""
    body = table(("time", "event", "what"), rows)
    return Section(title="Events", note=note, body=body, is_wide=True, is_folded=True)


def _configuration(run: Run) -> Section:
    body = table(("key", "value"), flat(run.config).items(), kind="facts")
    return Section(title="Configuration", body=body, is_wide=True, is_folded=True)
