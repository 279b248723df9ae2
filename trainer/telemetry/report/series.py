"""Columns of metrics made fit to draw: gaps left out, long ones thinned, spread shown by
percentiles. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_MOST_POINTS = 2000
_MOST_BUCKETS = 120


def column(lines: Iterable[Mapping[str, Any]], *path: str) -> tuple[Array, Array]:
    """Steps, and the value at `path` of each line that has one."""
    steps, values = [], []
    for line in lines:
        value: Any = line
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            steps.append(float(line["step"]))
            values.append(float(value))
    return np.array(steps), np.array(values)


def thinned(x: Array, y: Array, most: int = _MOST_POINTS) -> tuple[Array, Array]:
    """At most so many points, among them the least and the greatest of every stretch, so that no
    spike is lost."""
    if len(x) <= most:
        return x, y
    kept: set[int] = set()
    for places in np.array_split(np.arange(len(x)), most // 2):
        kept |= {int(places[y[places].argmin()]), int(places[y[places].argmax()])}
    order = np.array(sorted(kept))
    return x[order], y[order]


def smoothed(y: Array) -> Array:
    """The running median over a fiftieth of the curve; the curve itself where it is short."""
    half = len(y) // 100
    if half < 1:
        return y
    padded = np.pad(y, half, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)
    middle: Array = np.median(windows, axis=1)
    return middle


def percentiles(x: Array, y: Array, which: Sequence[float]) -> tuple[Array, dict[float, Array]]:
    """Middles of stretches of equally many points, and each percentile of `y` over them."""
    parts = np.array_split(np.arange(len(x)), max(1, min(_MOST_BUCKETS, len(x) // 20)))
    middles = np.array([x[part].mean() for part in parts if len(part)])
    rows = [np.percentile(y[part], which) for part in parts if len(part)]
    return middles, {p: np.array([row[i] for row in rows]) for i, p in enumerate(which)}


def summed(x: Array, *columns: Array) -> tuple[Array, list[Array]]:
    """Middles of stretches of equally many points, and the sum of each column over them."""
    parts = np.array_split(np.arange(len(x)), max(1, min(_MOST_BUCKETS, len(x))))
    middles = np.array([x[part].mean() for part in parts if len(part)])
    return middles, [np.array([c[part].sum() for part in parts if len(part)]) for c in columns]


def unit_of_time(seconds: float) -> tuple[float, str]:
    """The length of the unit that a span of so many seconds is drawn in, and its name."""
    for length, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 3 * length:
            return length, name
    return 1.0, "seconds"
