"""Seeds of the random numbers that a micro-batch draws, dropout's above all: functions of where it
stands in the run, so that a step done twice draws the same (hazard T16)."""

import struct
from collections.abc import Callable

import xxhash


def seed_of(seed: int, step: int, place: int) -> Callable[[int, int], int]:
    """The seeds of one step on one rank.

    Args:
        seed: of the run.
        step: counted from 0.
        place: equal on ranks that must draw alike; 0 where nothing but samples is cut.

    Returns:
        (pipeline stage, number of the micro-batch in the step) -> a seed of 63 bits. All bits
        depend on all of these: torch's generator on the CPU takes the lower 32 alone.
    """

    def of(stage: int, number: int) -> int:
        key = struct.pack("<5q", seed, step, place, stage, number)
        return xxhash.xxh3_64_intdigest(key) & (2**63 - 1)

    return of
