"""`keepstep data`: prepare text, and look at datasets of any kind."""

from pathlib import Path
from typing import Annotated

import typer

from ...data import inspect
from .datasets.bench import bench_command
from .datasets.explain import explain_command
from .datasets.lock import lock
from .datasets.verify import verify
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


data.command("lock")(lock)
data.command("verify")(verify)
_OVERRIDES = {"allow_extra_args": True, "ignore_unknown_options": True}
data.command("explain", context_settings=_OVERRIDES)(explain_command)
data.command("bench", context_settings=_OVERRIDES)(bench_command)
