"""`keepstep checkpoint list`, `show` and `verify`: what lies there, and whether it is whole."""

import json
import sys
import time
from fnmatch import fnmatchcase
from typing import Annotated

import typer

from ....checkpoint import Found, Manifest, Store
from ....checkpoint.manifest import Head
from ....checkpoint.prune import METRICS, is_complete, tags
from ...errors import ConfigError
from ...recovery.verdict import EXIT_FAILED
from ..datasets.progress import shown_bytes
from .places import One, Place, choose, listed, proven

_HEADS = ("CHECKPOINT", "SAVED", "SIZE", "RANKS", "LAYOUT", "METRICS", "TAGS", "STATE")


def list_command(place: Place) -> None:
    """Prints the checkpoints of a place, the last committed first.

    A row says what one holds and whether its files are there in full; `verify` reads their bytes.

    Example: keepstep checkpoint list runs/shakespeare
    """
    where, found = listed(place)
    tagged = tags(where.store)
    rows = [_row(where.store, one, tagged.get(one.folder, [])) for one in found]
    if rows:
        widths = [max(map(len, column)) for column in zip(_HEADS, *rows, strict=True)]
        for row in (_HEADS, *rows):
            cells = zip(row, widths, strict=True)
            typer.echo("  ".join(cell.ljust(width) for cell, width in cells).rstrip())


def show_command(
    one: One,
    tensors: Annotated[str, typer.Option(help="Only tensors whose names match this glob.")] = "*",
) -> None:
    """Prints a checkpoint's step, topology, progress, sizes, lineage and tensors.

    Example: keepstep checkpoint show runs/shakespeare --tensors 'model.*norm*'
    """
    chosen = choose(one)
    manifest = chosen.manifest
    for key in ("step", "attempt", "created", "topology", "progress", "lineage"):
        typer.echo(f"{key:<10} {json.dumps(getattr(manifest, key))}")
    typer.echo(f"{'files':<10} {len(manifest.files)} of {shown_bytes(_size(manifest))}")
    for part, count in sorted(_sizes(manifest).items()):
        typer.echo(f"{'':<10} {part} {shown_bytes(count)}")
    shapes = {chunk.name: (chunk.dtype, chunk.global_shape) for chunk in manifest.chunks}
    for name, (dtype, shape) in sorted(shapes.items()):
        if fnmatchcase(name, tensors):
            typer.echo(f"  {name}  {dtype} {list(shape)}")


def verify_command(place: Place) -> None:
    """Reads every byte of one checkpoint or of all in a place.

    Names each file that is wrong, and exits with 1 then.

    Example: keepstep checkpoint verify runs/shakespeare
    """
    where, found = listed(place)
    # One that was named may have lost its manifest, and is then in no list.
    names = [one.folder for one in found] or ([where.folder] if where.folder else [])
    if not names:
        raise ConfigError(f"{place}: found no checkpoint, needed one; name a run's folder")
    is_damaged = False
    for name in names:
        damages = proven(where.store, name)
        is_damaged |= bool(damages)
        for damage in damages:
            sys.stderr.write(f"{damage.path}/{damage.file}: {damage.reason}\n")
        if not damages:
            typer.echo(f"{where.store.address(name)}: whole")
    if is_damaged:
        raise typer.Exit(EXIT_FAILED)


def _row(store: Store, found: Found, tagged: list[str]) -> tuple[str, ...]:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found.created))
    manifest = found.head
    if manifest is None:
        return found.folder, when, "-", "-", "-", "-", ",".join(tagged) or "-", "manifest damaged"
    degrees = {key: n for key, n in manifest.topology.items() if n > 1 and key != "world_size"}
    metrics = manifest.progress.get(METRICS)
    return (
        found.folder,
        when,
        shown_bytes(_size(manifest)),
        str(manifest.topology.get("world_size", len(manifest.files))),
        " ".join(f"{key}={n}" for key, n in degrees.items()) or "-",
        " ".join(f"{key}={value:.4g}" for key, value in metrics.items()) if metrics else "-",
        ",".join(tagged) or "-",
        "whole" if is_complete(store, found) else "damaged",
    )


def _size(manifest: Head) -> int:
    return sum(file.bytes for file in manifest.files)


def _sizes(manifest: Manifest) -> dict[str, int]:
    """Bytes of each part of the state: `model`, `optim` and so on."""
    found: dict[str, int] = {}
    for chunk in manifest.chunks:
        part = chunk.name.partition(".")[0]
        found[part] = found.get(part, 0) + chunk.end - chunk.start
    return found
