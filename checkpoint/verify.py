"""Checks a whole checkpoint, every byte of it, in one process and without a model."""

from dataclasses import dataclass

from .errors import CorruptError, VersionError
from .listing import read_manifest
from .manifest import MANIFEST
from .shardfile import read_chunk, verify_file
from .stores import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """What is wrong with `file` of the checkpoint at `path`."""

    path: str
    file: str
    reason: str


def verify(place: Store, name: str) -> list[Damage]:
    """Everything that is wrong with the checkpoint in folder `name`; empty if it is whole.

    Holds one chunk at a time. A damaged manifest hides what else may be wrong.
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
    for entry in sorted(manifest.chunks, key=lambda entry: (entry.file, entry.start)):
        if entry.file not in missing:
            try:
                read_chunk(place, name, entry)
            except (CorruptError, OSError) as error:
                found.append(damage_of(error, path=path, file=entry.file))
    return found


def damage_of(error: Exception, *, path: str, file: str = MANIFEST) -> Damage:
    """An exception as damage of `file`, or of the file that it names itself."""
    if isinstance(error, CorruptError):
        return Damage(path=error.path, file=error.file, reason=error.reason)
    return Damage(path=path, file=file, reason=f"{type(error).__name__}: {error}")
