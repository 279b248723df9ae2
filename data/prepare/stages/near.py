"""Signatures of texts by MinHash, and which of them are near-duplicates by bands of equal values.

Broder, "On the resemblance and containment of documents" (1997); bands as in Leskovec, Rajaraman,
Ullman, "Mining of Massive Datasets", chapter 3. Signatures and the choice of bands are
datasketch's; its index takes kilobytes a document in memory, so bands are sorted in files instead.
"""

from collections.abc import Iterator, Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt
import xxhash

from ...errors import DataError
from ..config import PrepareConfig
from ..text.ngrams import ngram_hashes, plain_words, word_hashes
from .groups import Sorted, groups

BAND = np.dtype([("key", "<u8"), ("place", "<u4")])
Array = npt.NDArray[Any]
# n-grams hashed at once: so many times the permutations, 4 bytes each.
_BATCH = 8192
_PAIRS = 1 << 16


@final
class Signatures:
    """Collects the signatures of a part's texts."""

    def __init__(self, settings: PrepareConfig) -> None:
        try:
            import datasketch
        except ImportError as error:
            raise DataError(
                "data.prepare.deduplicate: found near but no datasketch, needed it for MinHash; "
                "run `pip install keepstep[dedup]` or set data.prepare.deduplicate=exact"
            ) from error
        count = settings.near_permutations
        self._n = settings.near_words
        self._minhash = datasketch.MinHash(count, seed=1, hashfunc=int, scheme="affine32")
        index = datasketch.MinHashLSH(threshold=settings.near_threshold, num_perm=count)
        self._bands, self._rows = int(index.b), int(index.r)
        self._found: list[Array] = []

    def add(self, text: str) -> None:
        """Adds the signature of the next text."""
        hashes = word_hashes(plain_words(text))
        ngrams = ngram_hashes(hashes, min(self._n, len(hashes))) if len(hashes) else hashes
        if not len(ngrams):
            # A text without words is like those that are equal to it, and no other.
            ngrams = word_hashes([text])
        values = np.unique(ngrams >> np.uint64(32))
        self._minhash.clear()
        for start in range(0, len(values), _BATCH):
            self._minhash.update_batch(values[start : start + _BATCH].tolist())
        self._found.append(self._minhash.hashvalues.astype(np.uint32))

    def arrays(self) -> dict[str, Array]:
        """ "signatures", uint32 (texts, permutations), and "bands", BAND (bands, texts), each band
        sorted by its key; places count the texts."""
        table = np.array(self._found, dtype=np.uint32).reshape(-1, self._minhash.num_perm)
        bands = np.zeros((self._bands, len(table)), dtype=BAND)
        for band in range(self._bands):
            values = np.ascontiguousarray(table[:, band * self._rows : (band + 1) * self._rows])
            keys = np.fromiter(
                (xxhash.xxh3_64_intdigest(row.data) for row in values), np.uint64, len(table)
            )
            order = np.argsort(keys, kind="stable")
            bands["key"][band], bands["place"][band] = keys[order], order
        return {"signatures": table, "bands": bands}


def near_duplicates(
    signatures: Sequence[Array], bands: Sequence[Array], threshold: float
) -> Iterator[int]:
    """The texts that are near-duplicates of an earlier one, directly or over others between, as
    places among all texts; `signatures` and `bands` by part. Memory grows with those found.
    """
    tree = _Tree()
    bases = np.concatenate([[0], np.cumsum([len(x) for x in signatures])]).astype(np.int64)
    count = bands[0].shape[0] if bands else 0
    for band in range(count):
        columns = [
            Sorted(part[band]["key"], None, part[band]["place"].astype(np.int64) + base)
            for part, base in zip(bands, bases[:-1].tolist(), strict=True)
        ]
        for firsts, previous, others in groups(columns):
            # The first of a group may share the band by chance; the one before shares more often.
            pairs = np.concatenate(
                [np.stack([firsts, others], axis=1), np.stack([previous, others], axis=1)]
            )
            for start in range(0, len(pairs), _PAIRS):
                tree.join(_alike(pairs[start : start + _PAIRS], signatures, bases, threshold))
    return tree.later()


def _alike(
    pairs: npt.NDArray[np.int64],
    signatures: Sequence[Array],
    bases: npt.NDArray[np.int64],
    threshold: float,
) -> npt.NDArray[np.int64]:
    """The pairs whose signatures agree in at least `threshold` of their values."""
    sides = [_gather(pairs[:, side], signatures, bases) for side in (0, 1)]
    is_alike: npt.NDArray[np.bool_] = (sides[0] == sides[1]).mean(axis=1) >= threshold
    return pairs[is_alike]


def _gather(
    places: npt.NDArray[np.int64], signatures: Sequence[Array], bases: npt.NDArray[np.int64]
) -> Array:
    parts = np.searchsorted(bases, places, side="right") - 1
    found = np.empty((len(places), signatures[0].shape[1]), dtype=np.uint32)
    for part in np.unique(parts).tolist():
        rows = np.flatnonzero(parts == part)
        found[rows] = signatures[part][places[rows] - bases[part]]
    return found


@final
class _Tree:
    """Sets of texts that belong together; the root of each is its first text."""

    def __init__(self) -> None:
        self._parents: dict[int, int] = {}

    def join(self, pairs: npt.NDArray[np.int64]) -> None:
        for one, other in pairs.tolist():
            first, second = sorted((self._root(one), self._root(other)))
            if first != second:
                self._parents[second] = first

    def later(self) -> Iterator[int]:
        """All but the first of each set."""
        return iter(sorted(self._parents))

    def _root(self, place: int) -> int:
        root = place
        while root in self._parents:
            root = self._parents[root]
        while place != root:
            self._parents[place], place = root, self._parents[place]
        return root
