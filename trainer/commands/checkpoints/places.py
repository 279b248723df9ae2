"""What people name on the command line -> a place, and a checkpoint in it."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ....checkpoint import (
    Damage,
    Found,
    Manifest,
    Store,
    committed,
    open_place,
    read_manifest,
    verify,
)
from ....checkpoint.offline import Item, items_of
from ....checkpoint.prune import is_complete
from ...compose import read_config
from ...errors import ConfigError
from ...identity import CONFIG_FILE
from ..datasets.progress import ByteProgress

_INNER = "checkpoints"
_ONE = "step-"

Place = Annotated[str, typer.Argument(help="A run's folder, a place, or one checkpoint in it.")]
One = Annotated[
    str, typer.Argument(help="One checkpoint; of a run's folder or a place the newest whole one.")
]
Rename = Annotated[
    list[str] | None,
    typer.Option(
        "--rename",
        help="GLOB=NAME, more than once: 'model.*=*' takes a prefix off, 'optim.*=' leaves out.",
    ),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Where:
    """A place, the folder of a checkpoint where one was named, and the run's folder where it is
    known."""

    store: Store
    folder: str | None = None
    run: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """One checkpoint whose manifest was read."""

    where: Where
    folder: str
    manifest: Manifest

    @property
    def address(self) -> str:
        return self.where.store.address(self.folder)

    def items(self) -> list[Item]:
        """Its tensors; raises CorruptError where a file is not whole."""
        return items_of(self.where.store, self.folder, self.manifest)


def locate(text: str, *, is_new: bool = False) -> Where:
    """What `text` names: a run's folder, a place, or one checkpoint. URLs are reached as the
    store's SDK is set up, those in a run's configuration as that says.

    Args:
        is_new: whether a place may be one that is not there yet.

    Raises:
        ConfigError: there is nothing of the kind.
    """
    trimmed = text.rstrip("/")
    above, _, last = trimmed.rpartition("/")
    if last.startswith(_ONE):
        return Where(store=open_place(above or "."), folder=last, run=_run_of(above))
    if "://" in trimmed:
        return Where(store=_remote(trimmed, is_new=is_new))
    folder = Path(trimmed)
    if not folder.is_dir() and not is_new:
        raise ConfigError(f"{text}: found no such folder, needed one that holds checkpoints")
    inner, has_config = folder / _INNER, (folder / CONFIG_FILE).is_file()
    if has_config and not inner.is_dir():
        config = read_config(folder / CONFIG_FILE).checkpoint
        return Where(store=open_place(config.path or str(inner), config.store), run=folder)
    if inner.is_dir():
        return Where(store=open_place(str(inner)), run=folder if has_config else None)
    return Where(store=open_place(trimmed), run=_run_of(trimmed))


def _remote(url: str, *, is_new: bool) -> Store:
    """The place itself, or what a run's folder there holds."""
    place = open_place(url)
    inner = open_place(f"{url}/{_INNER}")
    return inner if not is_new and not committed(place) and committed(inner) else place


def _run_of(place: str) -> Path | None:
    """The run whose folder a local place lies in."""
    run = Path(place).parent
    return run if "://" not in place and (run / CONFIG_FILE).is_file() else None


def choose(text: str) -> Chosen:
    """The checkpoint that `text` names; of a run's folder or a place the newest whole one, said.

    Raises:
        ConfigError: there is none.
        CorruptError: its manifest is damaged.
    """
    where = locate(text)
    if where.folder is None:
        found = next((one for one in committed(where.store) if is_complete(where.store, one)), None)
        if found is None:
            raise ConfigError(
                f"{text}: found no whole checkpoint, needed one; name a run's folder, a place, or "
                "a checkpoint"
            )
        say(f"taking {where.store.address(found.folder)}")
        manifest = read_manifest(where.store, found.folder)
        return Chosen(where=where, folder=found.folder, manifest=manifest)
    try:
        manifest = read_manifest(where.store, where.folder)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{text}: found no manifest, needed a checkpoint that was committed; keepstep "
            "checkpoint list shows those of a place"
        ) from error
    return Chosen(where=where, folder=where.folder, manifest=manifest)


def listed(text: str) -> tuple[Where, list[Found]]:
    """The place, and its committed checkpoints or the one that was named."""
    where = locate(text)
    found = committed(where.store)
    return where, [one for one in found if where.folder in (None, one.folder)]


def proven(store: Store, folder: str) -> list[Damage]:
    """What is wrong with a checkpoint, every byte of it read, which is shown while it lasts."""
    progress = ByteProgress("read")
    damages = verify(store, folder, progress=progress)
    progress.close()
    return damages


def rules(words: list[str] | None) -> list[tuple[str, str]]:
    """What `--rename` says, in order; ConfigError for a word without `=`."""
    wrong = [word for word in words or () if "=" not in word]
    if wrong:
        raise ConfigError(f"--rename: found {wrong[0]!r}, needed GLOB=NAME; write 'model.*=*'")
    parts = [word.partition("=") for word in words or ()]
    return [(glob, name) for glob, _, name in parts]


def say(words: str) -> None:
    """Something a person should see, apart from what the command prints."""
    sys.stderr.write(f"{words}\n")
