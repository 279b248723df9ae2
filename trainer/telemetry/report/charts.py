"""The curves of one run over its steps."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..reading.run import Line, Run
from .figures import COLOURS, QUIET, figure, graph_objects, line
from .series import Array, column, percentiles, smoothed, summed, thinned

_FAILURES = ("failure", "hang", "corruption")
_SKIPS = ("skip", "overflow", "rollback")
_SIZES = ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"))
_LEAST_SHARE = 0.001


def loss(run: Run, steps: Sequence[Line]) -> Any:
    """Training loss, its running median, evaluations; failures where they struck."""
    made = figure(x="step", y="loss", height=340)
    x, y = column(steps, "loss")
    is_long = len(x) >= 100
    line(
        made,
        *thinned(x, y),
        "training",
        colour=QUIET if is_long else COLOURS[0],
        width=1.0 if is_long else 1.6,
    )
    if is_long:
        line(made, *thinned(x, smoothed(y)), "running median", width=2.2)
    evaluations = _last_of_step(run.of_kind("eval"))
    if evaluations:
        at, found = column(evaluations, "loss")
        marks = {"size": 7}
        line(made, at, found, "held out", colour=COLOURS[1], mode="lines+markers", marker=marks)
    _marks(made, run, x, y)
    return made


def throughput(steps: Sequence[Line]) -> Any:
    """Tokens a second, over the whole world."""
    made = figure(x="step", y="tokens / s")
    x, y = column(steps, "tokens_per_second")
    line(made, *thinned(x, y), "each step", colour=QUIET, width=0.8)
    line(made, *thinned(x, smoothed(y)), "running median", width=2.2)
    made.update_yaxes(rangemode="tozero")
    return made


def step_time(steps: Sequence[Line]) -> Any:
    """Percentiles of a step's time."""
    made = figure(x="step", y="milliseconds")
    x, y = column(steps, "step_seconds")
    if len(x):
        middles, found = percentiles(x, y * 1000, (50, 95, 99))
        for (percent, values), colour in zip(
            found.items(), (COLOURS[2], COLOURS[3], COLOURS[1]), strict=True
        ):
            line(made, middles, values, f"p{percent:g}", colour=colour)
    made.update_yaxes(rangemode="tozero")
    return made


def gradient_norm(run: Run, steps: Sequence[Line]) -> Any:
    """The norm before clipping; that of each block where it was kept; steps not applied."""
    made = figure(x="step", y="norm")
    x, y = column(steps, "grad_norm")
    line(made, *thinned(x, y), "all", width=2.0)
    groups = sorted({name for one in steps for name in one.get("grad_norms") or ()}, key=_natural)
    for place, name in enumerate(groups):
        at, norms = column(steps, "grad_norms", name)
        colour = COLOURS[1 + place % (len(COLOURS) - 1)]
        shown = True if len(groups) <= 8 else "legendonly"
        line(made, *thinned(at, norms), name, colour=colour, width=1.0, visible=shown)
    skipped = {int(event["step"]) for event in run.of_kind(*_SKIPS)}
    places = [i for i, step in enumerate(x) if int(step) in skipped]
    if places:
        _points(made, x[places], y[places], "not applied", COLOURS[1], "x")
    if len(y) and y.min() > 0 and y.max() > 20 * y.min():
        made.update_yaxes(type="log")
    return made


def memory(steps: Sequence[Line]) -> Any:
    """Bytes of rank 0's process, and of its device where it has one."""
    keys = {
        "rss_bytes": "resident",
        "peak_rss_bytes": "resident, peak",
        "cuda_bytes": "CUDA tensors",
        "peak_cuda_bytes": "CUDA tensors, peak",
        "reserved_cuda_bytes": "CUDA held by torch",
    }
    found = {name: column(steps, "memory", key) for key, name in keys.items()}
    found = {name: one for name, one in found.items() if len(one[0])}
    most = max((values.max() for _, values in found.values()), default=0.0)
    size, unit = next(((s, u) for s, u in _SIZES if most >= s), (1.0, "bytes"))
    made = figure(x="step", y=unit)
    for (name, (x, y)), colour in zip(found.items(), COLOURS, strict=False):
        dash = "dot" if "peak" in name else "solid"
        line(made, *thinned(x, y / size), name, colour=colour, dash=dash)
    made.update_yaxes(rangemode="tozero")
    return made


def stall(steps: Sequence[Line]) -> Any:
    """Share of the steps' time in which data was waited for, by cause."""
    made = figure(x="step", y="% of step time")
    names = sorted({name for one in steps for name in one.get("data_causes") or ()})
    x = np.array([float(one["step"]) for one in steps])
    waits = [np.array([float(one.get("data_seconds") or 0.0) for one in steps])]
    waits += [
        np.array([float((one.get("data_causes") or {}).get(name, 0.0)) for one in steps])
        for name in names
    ]
    total = np.array([float(one["step_seconds"]) for one in steps])
    if not len(x):
        return made
    middles, (whole, every, *causes) = summed(x, total, *waits)
    unexplained = np.clip(every - sum(causes, np.zeros_like(every)), 0.0, None)
    rows = list(zip(names, causes, strict=True))
    if unexplained.sum() > _LEAST_SHARE * every.sum():
        rows.append(("other", unexplained))
    for (name, seconds), colour in zip(rows, (*COLOURS[2:], *COLOURS[:2]), strict=False):
        share = 100 * seconds / np.maximum(whole, 1e-9)
        line(made, middles, share, name, colour=colour, width=0.8, stackgroup="causes")
    made.update_yaxes(rangemode="tozero")
    return made


def _marks(made: Any, run: Run, x: Array, y: Array) -> None:
    """Failures on the curve: at the step that they cut short."""
    if not len(x):
        return
    at = sorted({int(event["step"] or 0) for event in run.of_kind(*_FAILURES)})
    heights = np.interp(at, x, y)
    if at:
        _points(made, np.array(at, dtype=float), heights, "failure", COLOURS[1], "x")


def _points(made: Any, x: Array, y: Array, name: str, colour: str, symbol: str) -> None:
    marker = {"color": colour, "size": 10, "symbol": symbol}
    made.add_trace(
        graph_objects().Scatter(x=list(x), y=list(y), mode="markers", name=name, marker=marker)
    )


def _last_of_step(events: Sequence[Line]) -> list[Line]:
    found = {int(event["step"]): event for event in events}
    return [found[step] for step in sorted(found)]


def _natural(name: str) -> list[tuple[int, str]]:
    """`layers.2` before `layers.10`."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]
