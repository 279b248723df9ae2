"""Which checkpoints of a place go, by retention's rules, and what is done after each save.

A checkpoint is tagged by an object `tag-NAME` in its folder.
"""

import logging
import time
from collections.abc import Callable, Collection
from datetime import timedelta

from .errors import CorruptError
from .listing import Found, collect_debris, committed, remove_checkpoint
from .manifest import MANIFEST, Head, prove
from .retention import Candidate, Keep, removals
from .stores import Store, read_bytes

METRICS = "metrics"
_TAG = "tag-"
# Longer than any pause between two writes of a save that still lives.
_DEBRIS_AGE = timedelta(minutes=15)
_logger = logging.getLogger(__name__)


def tidy(place: Store, keep: Keep, *, spare: Collection[str] = ()) -> None:
    """One rank, after a commit: retention and debris, but for the folders of `spare`, which are
    still read. Trouble is only reported."""
    try:
        for found in to_prune(place, keep):
            if found.folder not in spare:
                remove_checkpoint(place, found.folder)
        collect_debris(place, older_than=_DEBRIS_AGE, now=time.time())
    except OSError as error:
        _logger.warning("Could not tidy %s: %s", place.address(), error)


def to_prune(
    place: Store, keep: Keep, *, is_whole: Callable[[Found], bool] | None = None
) -> list[Found]:
    """The committed checkpoints that go, the last committed first.

    Args:
        is_whole: whether one can be restored; None looks at its manifest and its files' sizes.
    """
    found, tagged = committed(place), set(tags(place))
    test = is_whole or (lambda one: is_complete(place, one))
    candidates = [
        Candidate(
            folder=one.folder,
            step=one.step,
            is_whole=test(one),
            metric=_metric(one.head, keep.metric),
            is_tagged=one.folder in tagged,
        )
        for one in found
    ]
    gone = {one.folder for one in removals(candidates, keep)}
    return [one for one in found if one.folder in gone]


def is_complete(place: Store, found: Found) -> bool:
    """Whether the manifest is as it was written and each file has its size; the bytes of these are
    not read."""
    if found.head is None:
        return False
    try:
        # The head alone was proven so far; one whose boxes are damaged cannot be restored.
        name, path = f"{found.folder}/{MANIFEST}", place.address(found.folder)
        prove(read_bytes(place, name), path=path)
        return all(
            place.size(f"{found.folder}/{file.name}") == file.bytes for file in found.head.files
        )
    except (CorruptError, FileNotFoundError):
        return False


def tags(place: Store) -> dict[str, list[str]]:
    """The tags of each tagged folder, by folder."""
    found: dict[str, list[str]] = {}
    for name in sorted(place.list()):
        folder, _, file = name.partition("/")
        if file.startswith(_TAG):
            found.setdefault(folder, []).append(file.removeprefix(_TAG))
    return found


def tag(place: Store, folder: str, name: str) -> None:
    """Tags a checkpoint, so that retention leaves it.

    Raises:
        ValueError: for a name that is not letters, digits, dots, dashes and underscores.
    """
    if not name or not name.isascii() or name.strip("-_.") == "" or not _is_plain(name):
        raise ValueError(
            f"tag: found {name!r}, needed letters, digits, dots, dashes and underscores; choose "
            "another"
        )
    place.create(f"{folder}/{_TAG}{name}", [])


def _is_plain(name: str) -> bool:
    return all(letter.isalnum() or letter in "-_." for letter in name)


def _metric(head: Head | None, name: str | None) -> float | None:
    metrics = head.progress.get(METRICS, {}) if head else {}
    value = metrics.get(name) if isinstance(metrics, dict) else None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and value is not None else None
