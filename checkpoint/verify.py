"""Checks a whole checkpoint, every byte of it, in one process and without a model.

Needs no key: digests are of the bytes as they lie there, encrypted or not.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from .errors import CorruptError, VersionError
from .listing import read_manifest
from .manifest import MANIFEST
from .pieces import num_pieces
from .shardfile import verify_file
from .stores import Store
from .transfer import Run, Span, Transfer, Unit, runs_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """What is wrong with `file` of the checkpoint at `path`."""

    path: str
    file: str
    reason: str


def verify(
    place: Store, name: str, *, progress: Callable[[int, int], None] | None = None
) -> list[Damage]:
    """Everything that is wrong with the checkpoint in folder `name`, in the files' order, each
    damaged piece by its byte range and its tensor; empty if it is whole.

    Reads with as many threads as the place takes, and holds little. A damaged manifest hides what
    else may be wrong.

    Args:
        progress: told bytes read and bytes in all, by one thread at a time; called often.
    """
    path = place.address(name)
    try:
        manifest = read_manifest(place, name)
    except (CorruptError, VersionError, OSError) as error:
        return [damage_of(error, path=path)]
    found = []
    for file in sorted(manifest.files, key=lambda file: file.name):
        try:
            verify_file(place, name, file)
        except (CorruptError, OSError) as error:
            found.append(damage_of(error, path=path, file=file.name))
    missing = {damage.file for damage in found if "is missing" in damage.reason}
    spans = [
        Span(entry, index, 1, lambda data: None)
        for entry in manifest.chunks
        if entry.file not in missing
        for index in range(num_pieces(entry.end - entry.start))
    ]
    total = sum(entry.end - entry.start for entry in manifest.chunks)
    check = _Check(place, name, _Counted(total, progress))
    with ThreadPoolExecutor(place.reads.threads, "keepstep-verify") as pool:
        for damages in pool.map(check.look, runs_of(spans, place.reads)):
            found += damages
    return found


class _Check:
    """Looks at the pieces of one checkpoint, from any thread."""

    def __init__(self, place: Store, name: str, counted: "_Counted") -> None:
        self._path = place.address(name)
        self._transfer = Transfer(place, name, opener=lambda *_: None)
        self._counted = counted

    def look(self, run: Run) -> list[Damage]:
        found: list[Damage] = []
        try:
            with self._transfer.opened(run) as read:
                for unit in run:
                    damages = self._damages(read, unit)
                    if damages and len(unit) > 1:  # which of them it is
                        damages = [one for span in unit for one in self._damages(read, [span])]
                    found += damages
                    self._counted.add(sum(span.end - span.start for span in unit))
        except (CorruptError, OSError) as error:
            found.append(self._said(error, run[0]))
        return found

    def _damages(self, read: Callable[[Unit], None], unit: Unit) -> list[Damage]:
        try:
            read(unit)
        except (CorruptError, OSError) as error:
            return [self._said(error, unit)]
        return []

    def _said(self, error: Exception, unit: Unit) -> Damage:
        return damage_of(error, path=self._path, file=unit[0].entry.file)


class _Counted:
    def __init__(self, total: int, progress: Callable[[int, int], None] | None) -> None:
        self._done, self._total, self._progress = 0, total, progress
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._done += count
            if self._progress is not None:
                self._progress(self._done, self._total)


def damage_of(error: Exception, *, path: str, file: str = MANIFEST) -> Damage:
    """An exception as damage of `file`, or of the file that it names itself."""
    if isinstance(error, CorruptError):
        return Damage(path=error.path, file=error.file, reason=error.reason)
    return Damage(path=path, file=file, reason=f"{type(error).__name__}: {error}")
