"""`keepstep report`: one run as one HTML file."""

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from ...checkpoint import CheckpointError, committed
from ...checkpoint.manifest import Head
from ..telemetry.files import write_atomically
from ..telemetry.reading.run import read_run
from ..telemetry.reading.status import status_of
from ..telemetry.report.single import report
from .checkpoints.places import locate


def report_command(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    out: Annotated[
        Path | None, typer.Option(help="The file to write; default: report.html in the folder.")
    ] = None,
) -> None:
    """Writes a run's curves, its timeline, lineage and settings into one HTML file that needs no
    network. Needs keepstep[report].

    Example: keepstep report runs/llama_tiny-shakespeare-1a2b3c4d --out report.html
    """
    read = read_run(run)
    made = report(read, status_of(run), newest_head(run))
    target = out or run / "report.html"
    write_atomically(target, made)
    typer.echo(target)


def newest_head(run: Path) -> Head | None:
    """Of a run's newest checkpoint, wherever that is; None where none can be read."""
    with contextlib.suppress(ValueError, OSError, CheckpointError):
        found = committed(locate(str(run)).store)
        return next((one.head for one in found if one.head is not None), None)
    return None
