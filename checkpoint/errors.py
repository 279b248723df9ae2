"""What can go wrong with a checkpoint.

CheckpointError(RuntimeError)     a save or a restore did not come through
  CorruptError                    a byte is wrong, missing or short
  SealError                       a key or a signature is not the right one
  DamagedPartError                what was to be saved is not as it was
  FencedError                     another job writes there now, or a later generation of this one
MismatchError(ValueError)         a checkpoint of another model, or of another format version
DiskFullError(OSError)            the place cannot hold it
"""

import errno
from collections.abc import Sequence
from typing import final

SHOWN = 5


class CheckpointError(RuntimeError):
    """A save or a restore failed; `path` is the checkpoint or the place, `step` None if unknown."""

    def __init__(self, message: str, *, path: str, step: int | None = None) -> None:
        super().__init__(message)
        self.path = path
        self.step = step


@final
class CorruptError(CheckpointError):
    """A byte of `file` in the checkpoint `path` is wrong, missing or short; `reason` says how."""

    def __init__(self, reason: str, *, path: str, file: str, step: int | None = None) -> None:
        super().__init__(
            f"{path}/{file}: {reason}, but every byte must be as it was written: "
            "restore from an older checkpoint or from a copy.",
            path=path,
            step=step,
        )
        self.file = file
        self.reason = reason


@final
class SealError(CheckpointError):
    """A checkpoint is not signed by whom it must be, or is encrypted with another key: it is
    refused, and no older one is taken for it."""


@final
class DamagedPartError(CheckpointError):
    """The save was not published: what a rank was to write is not as it was. Trying again is of no
    use."""


@final
class FencedError(CheckpointError):
    """The save was not published: this job may write there no more. Trying again is of no use."""


@final
class MismatchError(ValueError):
    """The checkpoint `path` is whole but does not fit the live state.

    Args:
        missing: names that the live state of any rank has and the checkpoint has not.
        unexpected: names that the checkpoint has and the live state of no rank has.
        differing: one `name: saved ..., live ...` for each dtype or shape that differs.
    """

    def __init__(
        self,
        path: str,
        *,
        missing: Sequence[str] = (),
        unexpected: Sequence[str] = (),
        differing: Sequence[str] = (),
    ) -> None:
        found = "; ".join(
            f"{len(names)} {kind} ({', '.join(names[:SHOWN])}{', ...' * (len(names) > SHOWN)})"
            for kind, names in (
                ("missing in it", missing),
                ("only in it", unexpected),
                ("different", differing),
            )
            if names
        )
        super().__init__(
            f"Checkpoint {path} is of another model or optimizer: tensors {found}, but names, "
            "shapes and dtypes must equal the run's: set the configuration it was written with, "
            "or another checkpoint.path."
        )
        self.path = path
        self.missing = list(missing)
        self.unexpected = list(unexpected)
        self.differing = list(differing)


@final
class VersionError(ValueError):
    """The checkpoint `path` is whole, but of a format version that this release cannot read."""

    def __init__(self, path: str, *, found: object, known: int) -> None:
        super().__init__(
            f"Checkpoint {path} has format_version {found}, but this release reads "
            f"format_version {known} and older: use the release of keepstep that wrote it."
        )
        self.path = path


@final
class DiskFullError(OSError):
    """The place `path` has `free_bytes` left where a checkpoint needs `needed_bytes`."""

    def __init__(self, path: str, *, free_bytes: int, needed_bytes: int) -> None:
        super().__init__(errno.ENOSPC, "No space left for a checkpoint", path)
        self.path = path
        self.free_bytes = free_bytes
        self.needed_bytes = needed_bytes

    def __str__(self) -> str:
        return (
            f"checkpoint.path {self.path} has {self.free_bytes} bytes free (or left in its quota), "
            f"but one checkpoint needs {self.needed_bytes} bytes: free some space, "
            "lower checkpoint.keep, or set another checkpoint.path."
        )
