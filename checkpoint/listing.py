"""What lies in a place: committed checkpoints, newest first, and debris; and removing either.

A folder counts as a checkpoint only once it has a manifest.
"""

import logging
import re
from dataclasses import dataclass
from datetime import timedelta

from .errors import CorruptError, VersionError
from .manifest import MANIFEST, Manifest, decode
from .stores import Store, read_bytes

_FOLDER = re.compile(r"step-(\d{9,})-([0-9a-f]{8,})", re.ASCII)
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A committed checkpoint; `manifest` is None where it cannot be read.

    `created` is in unix seconds; with no manifest to say it, when the manifest last changed.
    """

    step: int
    folder: str
    created: float
    manifest: Manifest | None


def folder_name(step: int, attempt: str) -> str:
    """The folder of one attempt to save one step."""
    return f"step-{step:09d}-{attempt}"


def committed(place: Store) -> list[Found]:
    """Every committed checkpoint, the last committed first.

    By time of commit, not by step: a run that went back to an earlier step continues from what it
    saved since, not from the line it left.
    """
    found = []
    for name, changed in place.list().items():
        folder, _, file = name.partition("/")
        matched = _FOLDER.fullmatch(folder)
        if file == MANIFEST and matched:
            manifest = _manifest_or_none(place, folder)
            created = manifest.created if manifest else changed
            found.append(
                Found(step=int(matched[1]), folder=folder, created=created, manifest=manifest)
            )
    return sorted(found, key=lambda one: (one.created, one.step, one.folder), reverse=True)


def read_manifest(place: Store, folder: str) -> Manifest:
    """The manifest of a checkpoint, by folder; raises as `parse_manifest`, or OSError."""
    return parse_manifest(place, folder, read_bytes(place, f"{folder}/{MANIFEST}"))


def parse_manifest(place: Store, folder: str, raw: bytes) -> Manifest:
    """The manifest from its bytes, refused if it is damaged or was made for another folder.

    Raises:
        CorruptError: as `decode`, or for another folder's manifest.
        VersionError: as `decode`.
    """
    path = place.address(folder)
    manifest = decode(raw, path=path)
    home = folder_name(manifest.step, manifest.attempt)
    if home != folder:
        raise CorruptError(f"was written for folder {home}", path=path, file=MANIFEST)
    return manifest


def remove_checkpoint(place: Store, folder: str) -> None:
    """Removes a checkpoint or an attempt, manifest first: half removed, it is debris."""
    place.remove(folder, first=MANIFEST)


def collect_debris(place: Store, *, older_than: timedelta, now: float) -> list[str]:
    """Removes attempts without a manifest that nothing changed for a while; answers their names.

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
        if _FOLDER.fullmatch(folder)
        and folder not in whole
        and now - seconds > older_than.total_seconds()
    ]
    for folder in debris:
        _logger.info("Removing %s: a save that never finished", place.address(folder))
        remove_checkpoint(place, folder)
    return debris


def _manifest_or_none(place: Store, folder: str) -> Manifest | None:
    try:
        return read_manifest(place, folder)
    except (CorruptError, VersionError, OSError):
        return None
