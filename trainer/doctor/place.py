"""How fast a place of checkpoints is, and whether it keeps the one promise that commits rest on."""

import secrets
import time
from dataclasses import replace

from ...checkpoint import PlaceConfig, Store, open_place
from ...checkpoint.stores import is_exclusive
from ...checkpoint.stores.probe import PROBE
from .disk import Speed
from .finding import MIB, Finding, Level, judged

AREA = "store"
_BYTES = 16 * MIB
_ANSWERS = 5
_NAME = "speed"
# A node is looked at in seconds; a run is more patient.
_RETRY_SECONDS, _STALL_SECONDS = 3.0, 5.0


def open_quickly(url: str, config: PlaceConfig) -> Store:
    """The place, asked again for a few seconds only."""
    return open_place(
        url,
        replace(
            config,
            retry_seconds=min(config.retry_seconds, _RETRY_SECONDS),
            stall_seconds=min(config.stall_seconds, _STALL_SECONDS),
        ),
    )


def new_folder() -> str:
    """A hidden folder of a place: what is left in one is collected with the place's debris."""
    return f"{PROBE}{secrets.token_hex(8)}"


def clear(place: Store, folder: str) -> None:
    """Removes what a measurement that was ended has left. Raises OSError as the place does."""
    place.remove(folder, first=_NAME)


def measure_place(place: Store, folder: str) -> Speed:
    """Writes 16 MiB into `folder`, reads them back, asks five times for their size, and removes
    them.

    Raises:
        OSError: it cannot be reached or written, or gave other bytes back.
    """
    data, name = secrets.token_bytes(_BYTES), f"{folder}/{_NAME}"
    try:
        begun = time.monotonic()
        place.create(name, [data])
        written, begun = time.monotonic() - begun, time.monotonic()
        found = bytearray(_BYTES)
        with place.opened(name) as fill:
            count = fill(0, memoryview(found))
        read = time.monotonic() - begun
        if count != _BYTES or bytes(found) != data:
            raise OSError(f"{place.address(name)}: found other bytes than were written")
        latency = sorted(_asked(place, name) for _ in range(_ANSWERS))[_ANSWERS // 2]
    finally:
        clear(place, folder)
    return Speed(
        written=_BYTES / written, read=_BYTES / read, latency=latency, free=place.free_bytes()
    )


def _asked(place: Store, name: str) -> float:
    begun = time.monotonic()
    place.size(name)
    return time.monotonic() - begun


def judge_exclusive(place: Store) -> Finding:
    """Tries whether the place refuses to create what is there. Raises OSError as the place does."""
    holds = is_exclusive(place)
    words = "refused" if holds else "ignored: what was there is overwritten"
    return judged(
        *(AREA, "conditional puts", f"{place.address()}: a second creation is {words}"),
        worst=None if holds else Level.problem,
        needed="a store that honours If-None-Match, so that two jobs cannot commit one checkpoint",
        remedy="use another server, or a newer one; never let two jobs of a run write there",
    )
