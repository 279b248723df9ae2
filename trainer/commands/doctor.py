"""`keepstep doctor`: what is wrong with a node, before a run finds out."""

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from ...parallel import read_world
from ..compose import compose
from ..doctor import examine
from ..doctor.table import draw
from ..recovery.verdict import EXIT_FAILED

_COLUMNS = 132  # where nobody says how wide a page is


def doctor_command(
    context: typer.Context,
    place: Annotated[
        str | None, typer.Argument(help="Folder or URL to try, or the first override.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=5, help="Longest time for all of it.")] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Checks versions, memory, GPUs, disk, store, ways of recovery, and the ranks' speed and links
    against what a run with these overrides needs. Exit code 1 where something is a problem. Under
    torchrun, as `-m keepstep.trainer.doctor`, it looks at all ranks.

    Example: keepstep doctor s3://bucket/run train.batch_samples=64
    """
    is_override = place is not None and "=" in place.partition("://")[0]
    words = [place] if place is not None and is_override else []
    config, world = compose([*words, *context.args]), read_world()
    speaks = world.local_rank == 0
    report = examine(
        config,
        world,
        place=None if is_override else place,
        seconds=seconds,
        say=_say if speaks else lambda area: None,
    )
    if world.rank > 0:
        return
    if as_json:
        typer.echo(json.dumps(asdict(report), indent=2))
    else:
        draw(report, Console(width=None if sys.stdout.isatty() else _COLUMNS))
    if not report.is_fine:
        raise typer.Exit(EXIT_FAILED)


def _say(area: str) -> None:
    sys.stderr.write(f"keepstep doctor: {area} ...\n")
    sys.stderr.flush()
