"""What every source offers, from bytes to samples. Owns no order and no batching.

objects --Tokens or Records--> token ids or records of any kind --Source--> rows of tensors
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ..access import Access, NextUse, Ranges

Ids = npt.NDArray[np.int64]
Times = npt.NDArray[np.float64]
Record = dict[str, Any]


class Source(Protocol):
    """A fixed number of samples, each read by its id, in any order."""

    def __len__(self) -> int: ...

    @property
    def digest(self) -> str:
        """A digest of the content, equal on every rank and wherever the bytes lie."""
        ...

    def read(self, ids: Ids) -> dict[str, Tensor]:
        """The samples `ids`, gathered into new tensors of `len(ids)` rows; `ids` may be empty.

        Called from the loader's thread. Blocks while bytes come in.
        """
        ...


@runtime_checkable
class Stored(Protocol):
    """A source whose bytes lie in objects: it can be told ahead what will be read, and when."""

    @property
    def sample_bytes(self) -> int:
        """Bytes of a sample in its objects, on average; at least 1."""
        ...

    @property
    def accesses(self) -> Sequence[Access]:
        """Where its bytes come from; several for a mixture."""
        ...

    def want(self, ids: Ids, due: Times) -> None:
        """Says that sample ids[i] is read at time due[i] (time.monotonic seconds). Never blocks."""
        ...

    def follow(self, next_use: NextUse) -> None:
        """Says how to tell at which position each sample id is next wanted; see `Access.follow`."""
        ...


@runtime_checkable
class Placed(Protocol):
    """A source whose samples also depend on the epoch that shows them, as random crops do."""

    def read_at(self, ids: Ids, epochs: Ids) -> dict[str, Tensor]:
        """As `read`: sample ids[i] as epoch epochs[i] shows it, a pure function of the two."""
        ...


@runtime_checkable
class Timed(Protocol):
    """A source whose reading takes time beside that of its accesses."""

    @property
    def spent(self) -> Mapping[str, float]:
        """Seconds that `read` has spent so far, by cause, e.g. "transform"."""
        ...


def reading(source: Source) -> Callable[[Ids, Ids], dict[str, Tensor]]:
    """Reads samples as their epochs show them, where the source tells epochs apart.

    Found out once: to look a Protocol's methods up takes as long as to read a dozen samples.
    """
    if isinstance(source, Placed):
        return source.read_at
    return lambda ids, epochs: source.read(ids)


def spending(*sources: Source) -> Callable[[], Mapping[str, float]]:
    """What reading these has spent so far, by cause, beside what their accesses have waited."""
    timed = [source for source in sources if isinstance(source, Timed)]

    def total() -> Mapping[str, float]:
        found: Counter[str] = Counter()
        for source in timed:
            found.update(source.spent)
        return found

    return total


@runtime_checkable
class Locatable(Protocol):
    """A source that can say where one of its samples lies."""

    def where(self, sample: int) -> tuple[Access, Ranges]:
        """The ranges of bytes that reading the sample alone reads, and of which objects. Blocks
        where an object's header must be read to tell."""
        ...


def locatable(source: Source) -> Locatable:
    """The source, where it can say where its samples lie.

    Raises:
        TypeError: it cannot.
    """
    if not isinstance(source, Locatable):
        raise TypeError(
            f"{type(source).__name__}: found a source without a method where, needed one to say "
            "where its samples lie; add it"
        )
    return source


class Records(Protocol):
    """A fixed number of records, each a dict of values by column or file extension.

    Values are what the format holds: str, bytes, int, float, bool, None, numpy arrays, and lists
    and dicts of these where it holds JSON.
    """

    def __len__(self) -> int: ...

    @property
    def digest(self) -> str: ...

    @property
    def sample_bytes(self) -> int: ...

    @property
    def access(self) -> Access: ...

    def records(self, ids: Ids) -> list[Record]:
        """The records `ids`, in that order. Blocks while bytes come in; any thread.

        Raises:
            CorruptDataError: an object is not what its index says.
        """
        ...

    def want(self, ids: Ids, due: Times) -> None: ...

    def where(self, sample: int) -> Ranges:
        """The ranges that hold the record: its own bytes, or those of the group it is decoded with.
        Blocks where a header must be read to tell."""
        ...


class FixedColumn(NamedTuple):
    """Where a column lies in each record of one size."""

    start: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    """() for a number."""


@runtime_checkable
class Fixed(Protocol):
    """Records of which some are bytes of one length, columns at the same places in each: a batch
    is then one gather, and no record is made."""

    @property
    def layout(self) -> dict[str, FixedColumn] | None:
        """The columns, in order and without gaps; None where records differ in size."""
        ...

    def fill(self, rows: npt.NDArray[np.uint8], ids: Ids) -> None:
        """Copies the bytes of record ids[i] into row i, of as many bytes as the layout; blocks.

        Raises:
            CorruptDataError: a record has another size.
        """
        ...


class Tokens(Protocol):
    """The token ids of all objects, put end to end."""

    def __len__(self) -> int:
        """Tokens in all."""
        ...

    @property
    def digest(self) -> str: ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the ids, in objects and in the rows that `fill` fills."""
        ...

    @property
    def access(self) -> Access: ...

    @property
    def documents(self) -> Ids | None:
        """The first token of each document, ascending, beginning with 0; None where the format
        does not say."""
        ...

    def gather(self, starts: Ids, width: int) -> npt.NDArray[Any]:
        """(n, width) of `dtype`, in new memory: the tokens from starts[i] on in row i; any thread;
        blocks."""
        ...

    def want(self, starts: Ids, width: int, due: Times) -> None: ...

    def where(self, start: int, width: int) -> Ranges:
        """The ranges that hold the `width` tokens from `start` on."""
        ...
