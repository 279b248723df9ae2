"""What a transform is, and the randomness it is given. Runs nothing in other processes."""

import traceback
from collections.abc import Callable, Mapping
from typing import Any, final

import numpy as np

from ..errors import CorruptDataError, DataError, TransformError
from ..order.permutation import derive_key
from ..sources.source import Ids, Record

Transform = Callable[[Record, np.random.Generator], Mapping[str, Any]]
"""One record and its own randomness -> its sample: arrays, tensors and numbers by name."""

# Keeps these keys apart from those of the order, which are made of the same seed.
_DRAWS = 6


def pass_numbers(record: Record, rng: np.random.Generator) -> Record:
    """The record as it is, for those whose values all are numbers and arrays."""
    return record


@final
class Draws:
    """The generators of the samples of one reading: the state of each is a pure function of
    (seed, epoch, sample id), whoever reads it, among whatever others, and however often.

    Philox4x64-10, a counter-based generator (Salmon et al., "Parallel random numbers: as easy as
    1, 2, 3", 2011), keyed by the sample's id and a hash of the other two.
    """

    def __init__(self) -> None:
        self._bits = np.random.Philox(key=np.zeros(2, dtype=np.uint64))
        self._state = self._bits.state
        self._generator = np.random.Generator(self._bits)

    def generator(self, key: tuple[int, int]) -> np.random.Generator:
        """At the beginning of the sequence of `key`; valid until the next call."""
        # Ten times as fast as to make one anew, which seeds it from the system first.
        self._state["state"]["key"][:] = key
        self._bits.state = self._state
        return self._generator


def draw_keys(seed: int, ids: Ids, epochs: Ids) -> list[tuple[int, int]]:
    """The generators' keys of those samples."""
    words = np.broadcast_to(derive_key(seed, _DRAWS, epochs), len(ids))
    return list(zip(words.tolist(), ids.tolist(), strict=True))


def apply(transform: Transform, record: Record, draws: Draws, key: tuple[int, int]) -> Any:
    """What the transform makes of a record.

    Raises:
        TransformError: it raised; with its traceback.
        CorruptDataError: it said so of the record.
    """
    try:
        return transform(record, draws.generator(key))
    except CorruptDataError:
        raise
    except Exception as error:
        raise TransformError(key[1], traceback_of(error)) from error


def traceback_of(error: BaseException) -> str:
    """The traceback from the user's first line on."""
    frames = error.__traceback__.tb_next if error.__traceback__ else None
    return "".join(traceback.format_exception(type(error), error, frames)).strip()


def check_sample(sample: Any, record: int) -> Mapping[str, Any]:
    """Raises DataError where a transform made no dict."""
    if not isinstance(sample, Mapping) or not sample:
        raise DataError(
            f"the transform of record {record}: found {type(sample).__name__} "
            f"{str(sample)[:80]!r}, needed a dict of arrays and numbers by name; return one"
        )
    return sample
