"""Sources put end to end under one numbering, for an order that interleaves them."""

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
import xxhash
from torch import Tensor

from ..access import Access, NextUse, Ranges
from ..errors import DataError
from ..sources import Source, Stored, locatable, reading, spending
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
        self._stored = [one if isinstance(one, Stored) else None for one in self._sources]
        self._read = [reading(one) for one in self._sources]
        self._spent = spending(*self._sources)
        self._firsts = np.cumsum([0, *(len(one) for one in self._sources)], dtype=np.int64)
        words = " ".join(f"{name} {source.digest}" for name, source in parts.items())
        self.digest = xxhash.xxh3_128_hexdigest(words.encode())

    def __len__(self) -> int:
        return int(self._firsts[-1])

    @property
    def sample_bytes(self) -> int:
        return max((one.sample_bytes for one in self._stored if one), default=1)

    @property
    def accesses(self) -> Sequence[Access]:
        return [access for one in self._stored if one for access in one.accesses]

    def want(self, ids: Ids, due: Times) -> None:
        owners = self._owners(ids)
        for number, source in enumerate(self._stored):
            here = owners == number
            if source is not None and here.any():
                source.want(ids[here] - self._firsts[number], due[here])

    def follow(self, next_use: NextUse) -> None:
        for first, source in zip(self._firsts.tolist(), self._stored, strict=False):
            if source is not None:
                source.follow(lambda ids, first=first: next_use(ids + first))  # type: ignore[misc]

    @property
    def spent(self) -> Mapping[str, float]:
        return self._spent()

    def read(self, ids: Ids) -> dict[str, Tensor]:
        """The samples, in the order asked for.

        Raises:
            DataError: the sources' samples have other names or shapes than one another.
        """
        return self.read_at(ids, np.zeros_like(ids))

    def read_at(self, ids: Ids, epochs: Ids) -> dict[str, Tensor]:
        """As `read`; each epoch is that of the sample's own source."""
        owners = self._owners(ids)
        parts = {}
        for number in np.unique(owners).tolist() or [0]:
            here = owners == number
            own = ids[here] - self._firsts[number]
            parts[number] = self._read[number](own, epochs[here])
        rows = self._empty(len(ids), parts)
        for number, part in parts.items():
            for name, one in part.items():
                rows[name][owners == number] = one.numpy()
        return {name: torch.from_numpy(array) for name, array in rows.items()}

    def owner(self, sample: int) -> tuple[str, int]:
        """The source that a sample is of, by its name, and its id there."""
        number = int(self._owners(np.array([sample]))[0])
        return list(self.parts)[number], sample - int(self._firsts[number])

    def where(self, sample: int) -> tuple[Access, Ranges]:
        name, own = self.owner(sample)
        return locatable(self.parts[name]).where(own)

    def _owners(self, ids: Ids) -> Ids:
        return np.searchsorted(self._firsts, ids, side="right") - 1

    def _empty(self, size: int, parts: dict[int, dict[str, Tensor]]) -> dict[str, Any]:
        """Room for all rows; types that differ become one that holds both."""
        shapes = {
            number: {name: tuple(one.shape[1:]) for name, one in part.items()}
            for number, part in parts.items()
        }
        needed = next(iter(shapes.values()))
        for number, found in shapes.items():
            if found != needed:
                raise DataError(
                    f"data.mixture: found samples of {list(self.parts)[number]!r} with {found}, "
                    f"needed {needed} as in the others; mix sources of one kind"
                )
        types = {
            name: np.result_type(*(part[name].numpy().dtype for part in parts.values()))
            for name in needed
        }
        return {name: np.empty((size, *shape), types[name]) for name, shape in needed.items()}
