"""`keepstep data`: prepare, inspect and verify token shards."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ...data import inspect, verify
from ..recovery.verdict import EXIT_FAILED
from .prepare import prepare_command

data = typer.Typer(help="Prepare text, look at prepared data, check it.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="A folder of prepared token shards.")]


data.command("prepare")(prepare_command)


@data.command("inspect")
def inspect_command(
    folder: Folder,
    sequence_length: Annotated[int, typer.Option(help="Tokens of a sample.")] = 128,
) -> None:
    """Prints what a folder of token shards holds."""
    for key, value in inspect(folder, sequence_length).items():
        typer.echo(f"{key:<22} {value}")


@data.command("verify")
def verify_command(folder: Folder) -> None:
    """Reads every byte and compares digests; exit code 1 where one is wrong."""
    problems = verify(folder)
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    if problems:
        raise typer.Exit(EXIT_FAILED)
    typer.echo(f"{folder}: whole")
