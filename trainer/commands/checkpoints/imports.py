"""`keepstep checkpoint import`: what others wrote, as a checkpoint of keepstep."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ....checkpoint import Cargo
from ....checkpoint.formats import import_dcp, import_huggingface
from ....checkpoint.offline import rename, write
from ...errors import ConfigError
from ...models.counterpart import INWARD
from ..datasets.progress import ByteProgress
from .exports import Format
from .places import Rename, locate, rules, say

_SHOWN = 5


class Kind(StrEnum):
    """Whose names the weights get."""

    llama = "llama"
    huggingface = "huggingface"


def import_command(
    of: Annotated[Format, typer.Argument(help="dcp (torch) or huggingface (safetensors).")],
    source: Annotated[Path, typer.Argument(help="The folder to read.")],
    place: Annotated[str, typer.Argument(help="The place that gets the checkpoint.")],
    renamed: Rename = None,
    step: Annotated[int | None, typer.Option(help="Of the new checkpoint; default: 0.")] = None,
    model: Annotated[
        Kind, typer.Option(help="Of huggingface: which model of keepstep gets the weights.")
    ] = Kind.llama,
) -> None:
    """Reads a checkpoint of others and commits it as keepstep's own.

    Tensor by tensor. Nothing of it is run: pickled weights are refused, and so is metadata that
    names anything but data.

    Example: keepstep checkpoint import dcp /tmp/theirs runs/theirs --rename 'model.*=model.*'
    """
    there = locate(place, is_new=True)
    if there.folder is not None:
        raise ConfigError(f"{place}: found the name of a checkpoint, needed a place for a new one")
    cargo = Cargo(step=0, topology={}, progress={}, lineage={})
    if of is Format.dcp:
        items, others, cargo = import_dcp(source)
        if others:
            shown = ", ".join(others[:_SHOWN]) + ", ..." * (len(others) > _SHOWN)
            say(f"left out what is no tensor: {shown}")
    else:
        items = rename(import_huggingface(source), INWARD[model])
    facts = {"imported": str(source), "format": of.value}
    cargo = Cargo(
        step=cargo.step if step is None else step,
        topology=cargo.topology,
        progress=cargo.progress,
        lineage={**cargo.lineage, **facts},
    )
    progress = ByteProgress("read")
    folder = write(there.store, rename(items, rules(renamed)), cargo, progress=progress)
    progress.close()
    typer.echo(there.store.address(folder))
