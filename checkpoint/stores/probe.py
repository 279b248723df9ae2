"""Whether a place keeps the promise of `create`, found out by trying: some servers say that they
created what was there already (rclone's, JuiceFS's)."""

import contextlib
import secrets

from .store import Store

PROBE = ".probe-"


def is_exclusive(place: Store) -> bool:
    """Creates a hidden object twice and removes it; whether the second time was refused.

    Raises:
        OSError: the place cannot be written.
    """
    folder = f"{PROBE}{secrets.token_hex(8)}"
    try:
        place.create(f"{folder}/probe", [b"first"])
        try:
            place.create(f"{folder}/probe", [b"second"])
        except FileExistsError:
            return True
        return False
    finally:
        with contextlib.suppress(OSError):
            place.remove(folder, first="probe")
