"""Sources by index: torch's map-style dataset, and Grain's random-access data source."""

from collections.abc import Sequence
from typing import Any, SupportsIndex, final

import numpy as np
import torch.utils.data
from torch import Tensor

from ..errors import DataError
from ..sources import Source
from .opened import Opened, Opener

Sample = dict[str, Tensor]


@final
class IndexedDataset(torch.utils.data.Dataset[Sample]):
    """The samples of a source by index, for a torch DataLoader with any sampler.

    Where an epoch matters (random transforms) epoch 0 is shown.

    Args:
        source: one, or a function that opens it, called in each process that reads.
        length: samples in all; needed with a function.

    Raises:
        DataError: a function without a length.
    """

    def __init__(self, source: Source | Opener, *, length: int | None = None) -> None:
        self._opened = Opened(source)
        self._length = _length(self._opened, length)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: SupportsIndex) -> Sample:
        """One sample: a row of each of the source's tensors. Negative indices count from the end.

        Raises:
            IndexError: there is no such sample.
        """
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[SupportsIndex]) -> list[Sample]:
        """Several samples by one reading, as the DataLoader asks for them."""
        numbers = [_checked(index, self._length) for index in indices]
        rows = self._opened.source().read(np.array(numbers, dtype=np.int64))
        return [{name: one[place] for name, one in rows.items()} for place in range(len(numbers))]


@final
class GrainSource:
    """The samples of a source by index, as dicts of numpy arrays: a `RandomAccessDataSource` of
    Grain, for `grain.MapDataset.source` and `grain.DataLoader`.

    Args:
        source: one, or a function that opens it, called in each process that reads; with worker
            processes Grain must be able to pickle it.
        length: samples in all; needed with a function.
        name: what a checkpoint of Grain knows the source by; the source's digest where it is given
            open, and needed with a function.

    Raises:
        DataError: a function without a length or a name.
    """

    def __init__(
        self, source: Source | Opener, *, length: int | None = None, name: str | None = None
    ) -> None:
        self._opened = Opened(source)
        self._length = _length(self._opened, length)
        if name is None and not self._opened.is_open:
            raise DataError(
                "GrainSource name: found None with a function that opens the source, needed what "
                "a checkpoint knows the data by; give e.g. its digest"
            )
        self._name = name if name is not None else self._opened.source().digest

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        """One sample, in new memory; safe to call from many threads.

        Raises:
            IndexError: there is no such sample.
        """
        number = _checked(index, self._length)
        rows = self._opened.source().read(np.array([number], dtype=np.int64))
        return {name: one[0].numpy() for name, one in rows.items()}

    def __repr__(self) -> str:
        return f"GrainSource(name={self._name!r}, length={self._length})"


def _length(opened: Opened, length: int | None) -> int:
    if length is not None:
        return length
    if not opened.is_open:
        raise DataError(
            "the dataset's length: found None with a function that opens the source, needed the "
            "number of samples, as nothing may be opened before worker processes start; give "
            "length"
        )
    return len(opened.source())


def _checked(index: SupportsIndex, length: int) -> int:
    number = index.__index__()
    if not -length <= number < length:
        raise IndexError(f"sample {number}: found {length} samples, needed a number below that")
    return number % length
