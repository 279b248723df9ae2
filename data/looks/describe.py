"""What is in a dataset of any format, for a person who sees it for the first time."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import DataFormat
from ..corpus.locate import locate
from ..corpus.supply import Supply
from ..dataset import Dataset
from ..sources.open import TOKEN_FORMATS, open_records, open_tokens
from ..sources.source import Record

_SHOWN, _RUNS, _RUN = 3, 8, 32
_LETTERS, _ENTRIES = 60, 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Described:
    """Facts of a dataset, and of some of its records."""

    dataset: Dataset
    samples: int
    """Records; tokens where it holds tokens."""
    schema: dict[str, str]
    """Types by column, as found in the records that were looked at."""
    excerpts: list[str]
    """A few records or beginnings of documents, shortened."""
    lengths: npt.NDArray[np.int64]
    """Of documents, in tokens: all of them where the format says where they begin, else empty. Of
    records, in bytes, letters and numbers of all columns: of those that were looked at."""


def describe(
    url: str,
    supply: Supply,
    *,
    format: DataFormat = DataFormat.auto,
    dtype: str | None = None,
    split: str | None = None,
) -> Described:
    """Surveys what lies at `url`, or takes its lock, and reads some 250 records spread over it.

    Raises:
        DataError: nothing of a known format is there.
        CorruptDataError: an index or a record is damaged.
        StoreError: the store does not give what is asked for.
    """
    dataset = locate(
        url,
        supply.store(url),
        format=format,
        split=split,
        dtype=dtype,
        kept=supply.folder / "locks",
        report=lambda words: None,
    )
    count = int(dataset.counts.sum())
    if dataset.format in TOKEN_FORMATS:
        return _tokens(dataset, supply, count)
    records = open_records(dataset, supply.access(dataset))
    found = records.records(_spread(len(records)))
    return Described(
        dataset=dataset,
        samples=len(records),
        schema=_schema(found),
        excerpts=[_record(one) for one in found[:_SHOWN]],
        lengths=np.array([_length(list(one.values())) for one in found], dtype=np.int64),
    )


def histogram(lengths: npt.NDArray[np.int64], *, width: int = 40) -> list[str]:
    """Bars of text, a bin for each doubling of the length; [] of none."""
    if not len(lengths):
        return []
    bins = np.array([int(length).bit_length() for length in lengths.tolist()])
    counts = np.bincount(bins)
    lines = []
    for number in range(int(bins.min()), len(counts)):
        low, high = (1 << number) >> 1, (1 << number) - 1
        bar = "#" * int(np.ceil(counts[number] * width / counts.max()))
        words = f"{low:,}" if low == high else f"{low:,}-{high:,}"
        lines.append(f"{words:>25} {counts[number]:>11,} {bar}")
    return lines


def _tokens(dataset: Dataset, supply: Supply, count: int) -> Described:
    tokens = open_tokens(dataset, supply.access(dataset))
    documents = tokens.documents
    starts = np.arange(1) if documents is None else documents[:_SHOWN]
    excerpts = []
    for start in starts.tolist():
        if start < count:
            row = tokens.gather(np.array([start]), min(_ENTRIES, count - start))
            excerpts.append(" ".join(map(str, row[0].tolist())) + " ...")
    none = np.empty(0, dtype=np.int64)
    ends = none if documents is None else np.append(documents[1:], count) - documents
    return Described(
        dataset=dataset,
        samples=count,
        schema={"tokens": str(tokens.dtype)},
        excerpts=excerpts,
        lengths=ends,
    )


def _spread(count: int) -> npt.NDArray[np.int64]:
    """Runs of consecutive records, evenly spread, so that few ranges are read."""
    if count <= _RUNS * _RUN:
        return np.arange(count, dtype=np.int64)
    firsts = np.linspace(0, count - _RUN, _RUNS).astype(np.int64)
    return np.unique((firsts[:, None] + np.arange(_RUN)).reshape(-1))


def _schema(records: Sequence[Record]) -> dict[str, str]:
    kinds: dict[str, dict[str, None]] = {}
    for record in records:
        for name, value in record.items():
            kinds.setdefault(name, {})[_kind(value)] = None
    return {
        name: " or ".join(list(found)[:_SHOWN]) + (" or others" if len(found) > _SHOWN else "")
        for name, found in kinds.items()
    }


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    if isinstance(value, list) and value:
        return f"list of {type(value[0]).__name__}"
    return "bytes" if isinstance(value, memoryview) else type(value).__name__


def _record(record: Record) -> str:
    return ", ".join(f"{name}: {_excerpt(value)}" for name, value in record.items())


def _excerpt(value: Any) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{len(value):,} bytes"
    if isinstance(value, np.ndarray):
        some = " ".join(map(str, value.reshape(-1)[:_ENTRIES].tolist()))
        words = f"{value.dtype} {list(value.shape)} {some}"
    else:
        words = json.dumps(value, default=str)
    return words if len(words) <= _LETTERS else words[:_LETTERS] + "..."


def _length(value: Any) -> int:
    """Bytes, letters and numbers in it."""
    if isinstance(value, np.ndarray | memoryview):
        return int(value.nbytes)
    if isinstance(value, str | bytes | bytearray):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_length, value.values()))
    return sum(map(_length, value)) if isinstance(value, list | tuple) else 1
