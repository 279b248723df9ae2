"""Samples one by one -> tensors of one row a sample. Says which record does not fit, and why."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from .function import check_sample


class Kind(NamedTuple):
    """What all samples of a batch have in common under one name."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} {list(self.shape)}"


_Put = Callable[[int, Any], None]


@final
class Batch:
    """`size` rows a name, allocated when the first sample is put in.

    Numbers become int64, float64 and bool; arrays and tensors keep their type.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._first = -1
        self._kinds: dict[str, Kind] = {}
        self._puts: dict[str, _Put] = {}
        self.rows: dict[str, Tensor] = {}

    def put(self, place: int, record: int, sample: Any) -> None:
        """Copies a sample into row `place`; `record` is its id, for errors.

        Raises:
            DataError: it is no dict, holds what is no tensor, or does not fit the other rows.
        """
        values = check_sample(sample, record)
        if not self._kinds:
            self._allocate(record, values)
        if values.keys() != self._kinds.keys():
            raise DataError(
                f"the sample of record {record}: found {', '.join(map(str, values))}, needed "
                f"{', '.join(self._kinds)} as of record {self._first}; let the transform give all "
                "samples the same names"
            )
        for name, value in values.items():
            found = kind_of(value, name, record)
            if found != self._kinds[name]:
                raise DataError(
                    f"the sample of record {record}: found {name!r} of {found}, needed "
                    f"{self._kinds[name]} as of record {self._first}; let the transform give all "
                    "samples one shape and type, e.g. by cropping or padding"
                )
            self._puts[name](place, value)

    def _allocate(self, record: int, values: Mapping[str, Any]) -> None:
        self._first = record
        for name, value in values.items():
            kind = kind_of(value, name, record)
            self._kinds[name] = kind
            rows = torch.empty((self._size, *kind.shape), dtype=kind.dtype)
            self.rows[name] = rows
            self._puts[name] = _into_tensor(rows) if isinstance(value, Tensor) else _into(rows)


def kind_of(value: Any, name: str, record: int) -> Kind:
    """Shape and type that a value has as a tensor.

    Raises:
        DataError: it cannot be one.
    """
    if isinstance(value, Tensor):
        return Kind(tuple(value.shape), value.dtype)
    if isinstance(value, np.ndarray | np.generic):
        dtype = _DTYPES.get(value.dtype.newbyteorder("="))
        if dtype is not None:
            return Kind(value.shape, dtype)
    for kind, dtype in ((bool, torch.bool), (int, torch.int64), (float, torch.float64)):
        if isinstance(value, kind) and (dtype is not torch.int64 or -_WORD <= value < _WORD):
            return Kind((), dtype)
    said = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
    raise DataError(
        f"the sample of record {record}: found {said} in {name!r}, needed a number, an array or a "
        "tensor; give a transform that decodes it or leaves it out"
    )


_WORD = 2**63
_DTYPES = {
    np.dtype(code): getattr(torch, "bool" if code == "?" else np.dtype(code).name)
    for code in ("?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "c8", "c16")
}


def _into(rows: Tensor) -> _Put:
    # Ten times as fast as torch's own assignment, which weighs for small rows.
    table = rows.numpy()

    def put(place: int, value: Any) -> None:
        table[place] = value.detach().cpu().numpy() if isinstance(value, Tensor) else value

    return put


def _into_tensor(rows: Tensor) -> _Put:
    def put(place: int, value: Any) -> None:
        rows[place] = value.detach() if isinstance(value, Tensor) else torch.as_tensor(value)

    return put
