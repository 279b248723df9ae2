"""What lies in a place: committed checkpoints, newest first, and debris; and removing either.

A folder counts as a checkpoint only once it has a manifest.
"""

import logging
import re
from dataclasses import dataclass
from datetime import timedelta

from .errors import CorruptError, VersionError
from .manifest import MANIFEST, Check, Head, Manifest, accept, decode, decode_head, head_end
from .stores import Store, read_bytes
from .stores.probe import PROBE

_FOLDER = re.compile(r"step-(\d{9,})-([0-9a-f]{8,})", re.ASCII)
# Heads of a few hundred ranks come with the first read.
_HEAD_BYTES = 64 * 2**10
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A committed checkpoint; `head` is None where it cannot be read. What lies behind the head in
    its manifest is not looked at.

    `created` is in unix seconds; with no head to say it, when the manifest last changed.
    """

    step: int
    folder: str
    created: float
    head: Head | None


def folder_name(step: int, attempt: str) -> str:
    """The folder of one attempt to save one step."""
    return f"step-{step:09d}-{attempt}"


def committed(place: Store) -> list[Found]:
    """Every committed checkpoint, the last committed first.

    By claim, then by time of commit, not by step: what a fenced job publishes after all is never
    the newest, and a run that went back to an earlier step continues from what it saved since, not
    from the line it left. What has no readable head counts as of the newest claim.
    """
    found = []
    for name, changed in place.list().items():
        folder, _, file = name.partition("/")
        matched = _FOLDER.fullmatch(folder)
        if file == MANIFEST and matched:
            head = _head_or_none(place, folder)
            created = head.created if head else changed
            found.append(Found(step=int(matched[1]), folder=folder, created=created, head=head))
    claims = {one.folder: one.head.claim or 0 for one in found if one.head}
    newest = max(claims.values(), default=0)
    return sorted(
        found,
        key=lambda one: (claims.get(one.folder, newest), one.created, one.step, one.folder),
        reverse=True,
    )


def read_manifest(place: Store, folder: str) -> Manifest:
    """The manifest of a checkpoint, by folder; raises as `parse_manifest`, or OSError."""
    return parse_manifest(place, folder, read_bytes(place, f"{folder}/{MANIFEST}"))


def parse_manifest(place: Store, folder: str, raw: bytes, check: Check = accept) -> Manifest:
    """The manifest from its bytes, refused if it is damaged or was made for another folder.

    Args:
        check: as that of `decode`.

    Raises:
        CorruptError: as `decode`, or for another folder's manifest.
        VersionError: as `decode`.
    """
    path = place.address(folder)
    manifest = decode(raw, path=path, check=check)
    _check_home(manifest, folder, path)
    return manifest


def remove_checkpoint(place: Store, folder: str) -> None:
    """Removes a checkpoint or an attempt, manifest first: half removed, it is debris."""
    place.remove(folder, first=MANIFEST)


def collect_debris(place: Store, *, older_than: timedelta, now: float) -> list[str]:
    """Removes attempts without a manifest that nothing changed for a while, with what uploads that
    were never ended hold; answers their names.

    Rank 0 only. Folders with names that no save gives are left alone.

    Args:
        now: unix seconds, by the clock that the place's times are from.
    """
    changed: dict[str, float] = {}
    whole = set()
    for name, seconds in place.list().items():
        folder, _, file = name.partition("/")
        changed[folder] = max(seconds, changed.get(folder, seconds))
        if file == MANIFEST:
            whole.add(folder)
    debris = [
        folder
        for folder, seconds in changed.items()
        if (_FOLDER.fullmatch(folder) or folder.startswith(PROBE))
        and folder not in whole
        and now - seconds > older_than.total_seconds()
    ]
    for folder in debris:
        _logger.info("Removing %s: a save that never finished", place.address(folder))
        remove_checkpoint(place, folder)
    return debris


def _head_or_none(place: Store, folder: str) -> Head | None:
    try:
        return _read_head(place, folder)
    except (CorruptError, VersionError, OSError):
        return None


def _read_head(place: Store, folder: str) -> Head:
    """The head of a manifest, whose boxes are not read."""
    name, path = f"{folder}/{MANIFEST}", place.address(folder)
    raw = _read_first(place, name, _HEAD_BYTES)
    if (end := head_end(raw, path=path)) > len(raw):
        raw = _read_first(place, name, min(end, place.size(name)))
    head = decode_head(raw, path=path)
    _check_home(head, folder, path)
    return head


def _read_first(place: Store, name: str, count: int) -> bytes:
    buffer = bytearray(count)
    with place.opened(name) as read:
        return bytes(buffer[: read(0, memoryview(buffer))])


def _check_home(head: Head, folder: str, path: str) -> None:
    home = folder_name(head.step, head.attempt)
    if home != folder:
        raise CorruptError(f"was written for folder {home}", path=path, file=MANIFEST)
