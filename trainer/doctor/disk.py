"""How fast the disk of a run's folder is, tried with a file that has no name: nothing is left over,
whatever ends the try."""

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from .finding import GIB, MIB, Finding, Level, judged

_AREA = "disk"
_BLOCK = 8 * MIB
_MOST_BYTES, _WRITE_SECONDS = 256 * MIB, 1.5
_SLOW = 50e6
_SAVE_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """What a place did; bytes a second."""

    written: float
    read: float
    latency: float
    """Seconds of its smallest answer: a flush to the disk, a request to a store."""
    free: int | None
    """Bytes; None where there is no such bound."""


def existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there already."""
    path = folder.absolute()
    while not path.is_dir():
        path = path.parent
    return path


def measure_disk(folder: Path) -> Speed:
    """Writes, flushes and reads back at most 256 MiB for about two seconds.

    Raises:
        OSError: it cannot be written, is full, or gave other bytes back than were written.
    """
    place = existing(folder)
    with tempfile.TemporaryFile(dir=place, buffering=0) as file:
        fd, block = file.fileno(), os.urandom(_BLOCK)
        begun, written = time.monotonic(), 0
        while written < _MOST_BYTES and time.monotonic() - begun < _WRITE_SECONDS:
            written += os.write(fd, block)
        os.fsync(fd)
        write_seconds = time.monotonic() - begun
        read_seconds = _read_back(fd, block, written)
        latency = _flush_seconds(fd)
    found = os.statvfs(place)
    return Speed(
        written=written / write_seconds,
        read=written / read_seconds,
        latency=latency,
        free=found.f_bavail * found.f_frsize,
    )


def _read_back(fd: int, block: bytes, count: int) -> float:
    """Seconds of reading it all, past the kernel's cache where that lets go."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.lseek(fd, 0, os.SEEK_SET)
    begun, done = time.monotonic(), 0
    while done < count:
        found = os.read(fd, _BLOCK - done % _BLOCK)
        start = done % _BLOCK
        if not found or found != block[start : start + len(found)]:
            raise OSError("found other bytes than were written a moment ago")
        done += len(found)
    return time.monotonic() - begun


def _flush_seconds(fd: int) -> float:
    took = []
    for _ in range(3):
        os.write(fd, b"x")
        begun = time.monotonic()
        os.fsync(fd)
        took.append(time.monotonic() - begun)
    return sorted(took)[1]


def judge_speed(area: str, place: str, found: Speed, *, state: int, kept: int) -> list[Finding]:
    """Whether a place is fast and large enough for checkpoints.

    Args:
        state: bytes of one checkpoint, all that goes there from this node.
        kept: checkpoints that lie there at once.
    """
    save = state / found.written
    is_slow = found.written < _SLOW or found.read < _SLOW or save > _SAVE_SECONDS
    words = (
        f"{place}: writes {found.written / 1e6:,.0f} MB/s, reads {found.read / 1e6:,.0f} MB/s, "
        f"answers in {found.latency * 1e3:,.1f} ms"
    )
    speed = judged(
        *(area, "speed", words),
        worst=Level.warning if is_slow else None,
        needed=f"{_SLOW / 1e6:.0f} MB/s; a checkpoint of {state / GIB:.2f} GiB takes {save:,.1f} s",
        remedy="save less often (checkpoint.every_seconds=auto), or set checkpoint.path to a "
        "faster place; the loop never waits for it",
    )
    if found.free is None:
        return [speed]
    return [speed, _room(area, place, found.free, state * (kept + 1))]


def _room(area: str, place: str, free: int, wanted: int) -> Finding:
    return judged(
        *(area, "room", f"{place}: {free / GIB:,.1f} GiB free"),
        worst=Level.problem if wanted > free else None,
        needed=f"{wanted / GIB:,.2f} GiB for the checkpoints that are kept, and one more",
        remedy="a lower checkpoint.keep, or another run.dir or checkpoint.path",
    )


def judge_dead(area: str, place: str, words: str) -> Finding:
    """The finding for a place that could not be tried at all."""
    return judged(
        *(area, "use", f"{place}: {words}"),
        worst=Level.problem,
        needed="a place that can be written and read",
        remedy="mend it, or set another run.dir or checkpoint.path",
    )
