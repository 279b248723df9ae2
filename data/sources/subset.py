"""A few samples of a source, spread evenly over it. Reads nothing itself."""

import numpy as np
import numpy.typing as npt
from torch import Tensor

from .source import Source, reading


class Subset:
    """At most `count` samples of `source`, evenly spaced, the same each time."""

    def __init__(self, source: Source, count: int) -> None:
        self._source = source
        self._read = reading(source)
        self._ids = np.linspace(0, len(source), min(count, len(source)), endpoint=False).astype(
            np.int64
        )

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def digest(self) -> str:
        return f"{self._source.digest}[{len(self)}]"

    def read(self, ids: npt.NDArray[np.int64]) -> dict[str, Tensor]:
        return self._source.read(self._ids[ids])

    def read_at(
        self, ids: npt.NDArray[np.int64], epochs: npt.NDArray[np.int64]
    ) -> dict[str, Tensor]:
        return self._read(self._ids[ids], epochs)
