"""`keepstep init`: a project to start from."""

from pathlib import Path
from typing import Annotated

import typer

from .starter import write_project


def init_command(
    folder: Annotated[Path, typer.Argument(help="New, or empty.")],
) -> None:
    """Writes a small project that trains at once: a model, data, configuration and a test of its
    own, each to be replaced by yours.

    Example: keepstep init my-model
    """
    for path in write_project(folder):
        typer.echo(f"{folder / path}")
    typer.echo(f"\ncd {folder} && torchrun --standalone --nproc-per-node=2 train.py")
