"""Records that hold token ids -> samples of one length."""

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from torch import Tensor

from ..access import Access, NextUse, Ranges
from ..errors import CorruptDataError, DataError
from ..sources import Records
from ..sources.source import Ids, Times


@final
class TokenRows:
    """One sample a record: the first `sequence_length` + 1 ids in its column `field`.

    Args:
        dtype: of the ids where the column holds bytes; arrays know theirs.
    """

    def __init__(
        self, records: Records, sequence_length: int, *, field: str, dtype: str | None
    ) -> None:
        self._records = records
        self._length = sequence_length
        self._field = field
        self._dtype = dtype
        words = f"{records.digest} T={sequence_length} {field} {dtype}"
        self.digest = xxhash.xxh3_128_hexdigest(words.encode())

    def __len__(self) -> int:
        return len(self._records)

    @property
    def sample_bytes(self) -> int:
        return self._records.sample_bytes

    @property
    def accesses(self) -> Sequence[Access]:
        return [self._records.access]

    def want(self, ids: Ids, due: Times) -> None:
        self._records.want(ids, due)

    def follow(self, next_use: NextUse) -> None:
        self._records.access.follow(next_use)

    def where(self, sample: int) -> tuple[Access, Ranges]:
        return self._records.access, self._records.where(sample)

    def read(self, ids: Ids) -> dict[str, Tensor]:
        """One entry, "tokens": int64 of shape (len(ids), sequence_length + 1).

        Raises:
            DataError: the records have no such column, or one of another kind.
            CorruptDataError: a record has too few ids.
        """
        rows = np.empty((len(ids), self._length + 1), dtype=np.int64)
        for row, sample, record in zip(rows, ids.tolist(), self._records.records(ids), strict=True):
            tokens = self._tokens(record, sample)
            if len(tokens) < len(row):
                raise CorruptDataError(
                    f"record {sample}",
                    f"{len(tokens)} tokens in {self._field!r}",
                    f"{len(row)} for data.sequence_length={self._length}",
                    "set it lower, or leave the record out",
                )
            row[:] = tokens[: len(row)]
        return {"tokens": torch.from_numpy(rows)}

    def _tokens(self, record: dict[str, Any], sample: int) -> npt.NDArray[Any]:
        value = record.get(self._field)
        if isinstance(value, bytes | memoryview) and self._dtype is not None:
            return np.frombuffer(value, dtype=self._dtype)
        found = np.asarray(value) if isinstance(value, np.ndarray | list) else None
        if found is None or found.ndim != 1 or found.dtype.kind not in "iu":
            raise DataError(
                f"data.token_field: found {type(value).__name__} in {self._field!r} of record "
                f"{sample}, which has {', '.join(record)}; needed a list or array of ids; set "
                "data.token_field, or data.token_dtype where ids are bytes"
            )
        return found
