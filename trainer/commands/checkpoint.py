"""`keepstep checkpoint`: list, show and verify checkpoints, without a model."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from ...checkpoint import LocalStore, committed, read_manifest, verify
from ..errors import ConfigError
from ..recovery.verdict import EXIT_FAILED

checkpoint = typer.Typer(help="List, show and verify checkpoints.", no_args_is_help=True)

Place = Annotated[Path, typer.Argument(help="A folder of checkpoints, or a run's folder.")]
One = Annotated[Path, typer.Argument(help="One checkpoint: .../step-000000123-<attempt>.")]


@checkpoint.command("list")
def list_command(place: Place) -> None:
    """Prints the committed checkpoints of a place, the last committed first."""
    for found in committed(_store(place)):
        manifest = found.manifest
        if manifest is None:
            typer.echo(f"{found.folder}  manifest damaged")
            continue
        size = sum(file.bytes for file in manifest.files)
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found.created))
        ranks = manifest.topology.get("world_size", len(manifest.files))
        typer.echo(f"{found.folder}  {when}  {size / 2**20:,.1f} MiB  {ranks} ranks")


@checkpoint.command("show")
def show_command(one: One) -> None:
    """Prints a checkpoint's step, topology, progress, lineage and tensors."""
    manifest = read_manifest(_store(one.parent), one.name)
    for key in ("step", "attempt", "created", "topology", "progress", "lineage"):
        typer.echo(f"{key:<10} {json.dumps(getattr(manifest, key))}")
    shapes = {chunk.name: (chunk.dtype, chunk.global_shape) for chunk in manifest.chunks}
    for name, (dtype, shape) in sorted(shapes.items()):
        typer.echo(f"  {name}  {dtype} {list(shape)}")


@checkpoint.command("verify")
def verify_command(place: Place) -> None:
    """Reads every byte of one checkpoint or of all in a place; exit code 1 where one is wrong."""
    is_one = place.name.startswith("step-")
    store = _store(place.parent if is_one else place)
    names = [place.name] if is_one else [found.folder for found in committed(store)]
    if not names:
        raise ConfigError(f"{place}: found no checkpoint, needed one; name a run's folder")
    is_damaged = False
    for name in names:
        damages = verify(store, name)
        is_damaged |= bool(damages)
        for damage in damages:
            sys.stderr.write(f"{damage.path}/{damage.file}: {damage.reason}\n")
        if not damages:
            typer.echo(f"{store.address(name)}: whole")
    if is_damaged:
        raise typer.Exit(EXIT_FAILED)


def _store(place: Path) -> LocalStore:
    """The place itself, or the folder `checkpoints` of a run's folder."""
    inner = place / "checkpoints"
    folder = inner if inner.is_dir() else place
    if not folder.is_dir():
        raise ConfigError(f"{place}: found no such folder, needed one that holds checkpoints")
    return LocalStore(folder)
