"""Sources put end to end under one numbering, for an order that interleaves them."""

from collections.abc import Mapping, Sequence
from typing import final

import numpy as np
import torch
import xxhash
from torch import Tensor

from ..access import Access, NextUse
from ..errors import DataError
from ..sources import Source, Stored
from ..sources.source import Ids, Times


@final
class Mixed:
    """Several named sources as one; ids of the second follow those of the first.

    Args:
        weights: (position, one weight a source) pairs, for the order: see `order.mix`.
    """

    def __init__(
        self, parts: Mapping[str, Source], weights: Sequence[tuple[int, Sequence[float]]]
    ) -> None:
        self.parts = parts
        self.weights = weights
        self._sources = list(parts.values())
        self._firsts = np.cumsum([0, *(len(one) for one in self._sources)], dtype=np.int64)
        words = " ".join(f"{name} {source.digest}" for name, source in parts.items())
        self.digest = xxhash.xxh3_128_hexdigest(words.encode())

    def __len__(self) -> int:
        return int(self._firsts[-1])

    @property
    def sample_bytes(self) -> int:
        return max((s.sample_bytes for s in self._sources if isinstance(s, Stored)), default=1)

    @property
    def accesses(self) -> Sequence[Access]:
        return [a for s in self._sources if isinstance(s, Stored) for a in s.accesses]

    def want(self, ids: Ids, due: Times) -> None:
        owners = self._owners(ids)
        for number, source in enumerate(self._sources):
            here = owners == number
            if isinstance(source, Stored) and here.any():
                source.want(ids[here] - self._firsts[number], due[here])

    def follow(self, next_use: NextUse) -> None:
        for first, source in zip(self._firsts.tolist(), self._sources, strict=False):
            if isinstance(source, Stored):
                source.follow(lambda ids, first=first: next_use(ids + first))  # type: ignore[misc]

    def read(self, ids: Ids) -> dict[str, Tensor]:
        """The samples, in the order asked for.

        Raises:
            DataError: the sources' samples have other names, shapes or types than one another.
        """
        owners = self._owners(ids)
        rows: dict[str, Tensor] = {}
        for number in np.unique(owners).tolist() or [0]:
            here = owners == number
            part = self._sources[number].read(ids[here] - self._firsts[number])
            rows = rows or {
                name: torch.empty((len(ids), *one.shape[1:]), dtype=one.dtype)
                for name, one in part.items()
            }
            self._check(number, rows, part)
            index = torch.from_numpy(np.flatnonzero(here))
            for name, one in part.items():
                rows[name][index] = one
        return rows

    def _owners(self, ids: Ids) -> Ids:
        return np.searchsorted(self._firsts, ids, side="right") - 1

    def _check(self, number: int, rows: dict[str, Tensor], part: dict[str, Tensor]) -> None:
        found = {name: (one.shape[1:], one.dtype) for name, one in part.items()}
        needed = {name: (one.shape[1:], one.dtype) for name, one in rows.items()}
        if found != needed:
            raise DataError(
                f"data.mixture: found samples of {list(self.parts)[number]!r} with {found}, needed "
                f"{needed} as in the others; mix sources of one kind"
            )
