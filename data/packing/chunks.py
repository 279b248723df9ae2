"""Concatenate and cut: sample k is tokens [k T, k T + T + 1) of all documents put end to end.

The last token of a sample, its last target, is the first of the next.
"""

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from torch import Tensor

from ..access import Access, NextUse, Ranges
from ..errors import DataError
from ..sources.source import Ids, Times, Tokens


@final
class Chunks:
    """Every token once, in samples of `sequence_length` + 1.

    With `isolate` each sample says where its documents are, so that a model can keep them apart:
    attention stays inside a document and positions begin anew with each.

    Args:
        end_token: the id that ends a document; needed to isolate where the tokens do not say where
            documents begin.

    Raises:
        DataError: fewer tokens than one sample needs, or no way to tell documents apart.
    """

    def __init__(
        self,
        tokens: Tokens,
        sequence_length: int,
        *,
        isolate: bool = False,
        end_token: int | None = None,
    ) -> None:
        if len(tokens) < sequence_length + 1:
            raise DataError(
                f"data.sequence_length: found {sequence_length}, needed "
                f"{max(len(tokens) - 1, 0)} or less, since the data holds {len(tokens)} tokens; "
                "set it lower or prepare more text"
            )
        self._tokens = tokens
        self._length = sequence_length
        self._isolate = isolate
        self._documents = tokens.documents
        self._end_token = end_token
        if isolate and self._documents is None and end_token is None:
            raise DataError(
                "data.packing=isolated: found tokens that do not say where documents begin, needed "
                "their ends; set data.end_token to the id that ends each document"
            )
        words = f"{tokens.digest} T={sequence_length}"
        if isolate:
            words += f" isolated {None if self._documents is not None else end_token}"
        self.digest = xxhash.xxh3_128_hexdigest(words.encode())

    def __len__(self) -> int:
        return (len(self._tokens) - 1) // self._length

    @property
    def sample_bytes(self) -> int:
        return self._length * self._tokens.dtype.itemsize

    @property
    def accesses(self) -> Sequence[Access]:
        return [self._tokens.access]

    def follow(self, next_use: NextUse) -> None:
        last = len(self) - 1
        self._tokens.access.follow(
            lambda tokens: next_use(np.minimum(tokens // self._length, last))
        )

    def want(self, ids: Ids, due: Times) -> None:
        self._tokens.want(ids * self._length, self._length + 1, due)

    def where(self, sample: int) -> tuple[Access, Ranges]:
        return self._tokens.access, self._tokens.where(sample * self._length, self._length + 1)

    def read(self, ids: Ids) -> dict[str, Tensor]:
        """ "tokens": (len(ids), T + 1), of the type they have in their objects. Isolated also
        "documents" and "positions", int64 (len(ids), T): the number of each token's document in
        its sample, and its place in it."""
        starts = ids * self._length
        rows = self._tokens.gather(starts, self._length + 1)
        batch = {"tokens": torch.from_numpy(rows)}
        if self._isolate:
            begins = self._begins(rows, starts)
            places = np.arange(self._length)
            firsts = np.maximum.accumulate(np.where(begins, places, 0), axis=1)
            batch["documents"] = torch.from_numpy(np.cumsum(begins, axis=1))
            batch["positions"] = torch.from_numpy(places - firsts)
        return batch

    def _begins(self, rows: npt.NDArray[Any], starts: Ids) -> Ids:
        """(n, T): 1 where a document begins inside a sample, after its first token."""
        begins = np.zeros((len(rows), self._length), dtype=np.int64)
        if self._documents is None:
            begins[:, 1:] = rows[:, : self._length - 1] == self._end_token
            return begins
        lows = np.searchsorted(self._documents, starts + 1)
        highs = np.searchsorted(self._documents, starts + self._length)
        counts = highs - lows
        samples = np.repeat(np.arange(len(rows)), counts)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        found = self._documents[np.repeat(lows, counts) + within]
        begins[samples, found - starts[samples]] = 1
        return begins
