"""Decoded Arrow tables -> records, one row at a time."""

from collections.abc import Callable
from typing import Any, final

import numpy as np

from ...errors import DataError
from ..source import Record

# Whole tables of an hour's nanoseconds do not fit Python's datetime: they stay numbers.
_NANOSECONDS = ("timestamp[ns", "duration[ns", "time64[ns")


@final
class TableRows:
    """The rows of an Arrow table or record batch.

    A list of numbers without nulls is an array; other values are what Python has for them; times
    in nanoseconds are whole numbers.
    """

    def __init__(self, table: Any) -> None:
        self.nbytes = max(1, int(table.nbytes))
        self._rows = int(table.num_rows)
        self._columns = [
            (name, column, _getter(column.type))
            for name, column in zip(table.schema.names, table.columns, strict=True)
        ]

    def __len__(self) -> int:
        return self._rows

    def record(self, row: int) -> Record:
        return {name: get(column[row]) for name, column, get in self._columns}


def import_arrow(url: str) -> Any:
    """pyarrow, or DataError that says how to install it; `url` is what it is needed for."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            f"{url}: found Arrow or Parquet data but no pyarrow, needed it to read them; run "
            "`pip install keepstep[parquet]`"
        ) from error
    return pyarrow


def check_names(names: list[str], first: list[str], url: str) -> None:
    """Raises DataError where an object's columns are not those of the first, or one is twice."""
    if names != first or len(set(names)) != len(names):
        raise DataError(
            f"{url}: found columns {', '.join(names)[:200]}, needed {', '.join(first)[:200]} as in "
            "the dataset's first object, each once; give one kind of objects"
        )


def _getter(kind: Any) -> Callable[[Any], Any]:
    import pyarrow as arrow

    if str(kind).startswith(_NANOSECONDS):
        return lambda scalar: scalar.value
    is_list = (
        arrow.types.is_list(kind)
        or arrow.types.is_large_list(kind)
        or arrow.types.is_fixed_size_list(kind)
    )
    if is_list and (
        arrow.types.is_integer(kind.value_type) or arrow.types.is_floating(kind.value_type)
    ):
        return _numbers
    return lambda scalar: scalar.as_py()


def _numbers(scalar: Any) -> Any:
    values = scalar.values
    if values is None or values.null_count:
        return scalar.as_py()
    return np.asarray(values.to_numpy(zero_copy_only=False))
