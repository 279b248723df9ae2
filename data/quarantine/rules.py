"""What a good value is, by declaration. Checks records and rows of tensors alike; skips nothing."""

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from ..errors import DataError

_WORDS = {"str": str, "bytes": bytes, "list": list, "dict": dict, "bool": bool, "none": type(None)}


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """What the value under one name must be. What is None, or left out, is not checked.

    Token ids of a vocabulary of V: Column(name="tokens", dtype="int64", lowest=0, highest=V - 1).
    """

    name: str
    dtype: str | None = None
    """"str", "bytes", "list", "dict", "bool", or numpy's name of an array's or number's type;
    "int" and "float" stand for any of theirs, and for Python's own."""
    shape: tuple[int | None, ...] | None = None
    """Of a sample's array; None stands for any size."""
    lowest: float | None = None
    """No number is less."""
    highest: float | None = None
    """No number is more."""
    finite: bool = False
    """Whether NaN and infinities are refused."""
    least_size: int | None = None
    """Characters, bytes, items or elements, at least."""
    most_size: int | None = None
    """The same, at most."""
    required: bool = True
    """Whether a record without it, or with None, is bad."""

    def __post_init__(self) -> None:
        if self.dtype is None or self.dtype in (*_WORDS, "int", "float"):
            return
        try:
            np.dtype(self.dtype)
        except TypeError as error:
            raise DataError(
                f"Column {self.name!r} dtype: found {self.dtype!r}, needed one of "
                f"{', '.join(_WORDS)}, int, float or a numpy type; correct it"
            ) from error

    def reason(self, values: Any) -> str | None:
        """Why a record or sample, its values by name, breaks the rule; None where it does not."""
        value = values.get(self.name)
        if value is None:
            is_bad = self.required and self.dtype != "none"
            return f"{self.name!r} is missing" if is_bad else None
        found = self._kind(value) or self._size(value) or self._content(value)
        return None if found is None else f"{self.name!r} {found}"

    def hold(self, rows: npt.NDArray[Any]) -> bool:
        """Whether all rows of a batch keep the rule, at the cost of a pass or two over them."""
        is_kept = self._kind_of(rows.dtype, rows.shape[1:]) is None
        size = int(np.prod(rows.shape[1:], dtype=np.int64))
        return len(rows) == 0 or (is_kept and not self._sized(size) and not self._numbers(rows))

    def _kind(self, value: Any) -> str | None:
        if isinstance(value, np.ndarray | np.generic):
            return self._kind_of(value.dtype, value.shape)
        kinds = {"int": int, "float": float, **_WORDS}
        needed = kinds.get(self.dtype or "", object)
        is_number = isinstance(value, bool) and self.dtype == "int"
        if not isinstance(value, needed) or is_number or (self.dtype and self.dtype not in kinds):
            return f"is {type(value).__name__}, needed {self.dtype}"
        if self.shape and not isinstance(value, list):
            return f"is a single value, needed {self._shaped()}"
        return None

    def _content(self, value: Any) -> str | None:
        if isinstance(value, np.ndarray | np.generic | int | float):
            return self._numbers(np.asarray(value))
        if not isinstance(value, list) or (self.shape is None and not self._has_bounds):
            return None
        try:
            array = np.asarray(value)
        except ValueError:
            return "is a list of lists of unequal lengths, needed equal ones"
        return self._shape_of(array.shape) or self._numbers(array)

    @property
    def _has_bounds(self) -> bool:
        return self.finite or (self.lowest, self.highest) != (None, None)

    def _kind_of(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> str | None:
        families = {"int": "iu", "float": "f", "bool": "b", "str": "U", "bytes": "S"}
        kinds = families.get(self.dtype or "")
        if kinds is not None:
            is_right = dtype.kind in kinds
        else:
            is_right = self.dtype is None or (
                self.dtype not in _WORDS and dtype.newbyteorder("=") == np.dtype(self.dtype)
            )
        if not is_right:
            return f"is of {dtype}, needed {self.dtype}"
        return self._shape_of(shape)

    def _shape_of(self, shape: tuple[int, ...]) -> str | None:
        if self.shape is not None and (
            len(shape) != len(self.shape)
            or any(
                needed not in (None, found) for needed, found in zip(self.shape, shape, strict=True)
            )
        ):
            return f"has shape {list(shape)}, needed {self._shaped()}"
        return None

    def _shaped(self) -> str:
        words = ["any" if size is None else str(size) for size in self.shape or ()]
        return f"shape [{', '.join(words)}]"

    def _size(self, value: Any) -> str | None:
        if isinstance(value, np.ndarray):
            return self._sized(int(value.size))
        return self._sized(len(value)) if hasattr(value, "__len__") else None

    def _sized(self, size: int) -> str | None:
        if self.least_size is not None and size < self.least_size:
            return f"has size {size}, needed {self.least_size} or more"
        if self.most_size is not None and size > self.most_size:
            return f"has size {size}, needed {self.most_size} or less"
        return None

    def _open_bounds(self, dtype: np.dtype[Any]) -> tuple[float | None, float | None]:
        """The bounds that numbers of this type can break: a pass over them is saved else."""
        low, high = self.lowest, self.highest
        if dtype.kind in "iu":
            facts = np.iinfo(dtype)
            low = None if low is not None and low <= facts.min else low
            high = None if high is not None and high >= facts.max else high
        return low, high

    def _numbers(self, values: npt.NDArray[Any]) -> str | None:
        if values.size == 0 or not self._has_bounds:
            return None
        if values.dtype.kind not in "biufc":
            return f"is of {values.dtype}, needed numbers"
        if values.dtype.kind in "fc" and not np.isfinite(values).all():
            # A NaN is neither below nor above anything: bounds alone would let it pass.
            bad = values[~np.isfinite(values)].flat[0]
            return f"holds {bad}, needed finite numbers"
        low, high = self._open_bounds(values.dtype)
        if low is not None and (least := values.min()) < low:
            return f"holds {least}, needed {self.lowest} or more"
        if high is not None and (most := values.max()) > high:
            return f"holds {most}, needed {self.highest} or less"
        return None
