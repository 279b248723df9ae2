"""`keepstep compare`: what differs between runs, and what they came to."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..errors import ConfigError
from ..telemetry.files import write_atomically
from ..telemetry.reading.run import read_run
from ..telemetry.reading.status import status_of
from ..telemetry.report.compare import (
    Compared,
    Row,
    compare_page,
    figures_side_by_side,
    labels,
    origins_that_differ,
    settings_that_differ,
)
from .bits import compare_bits
from .report import newest_head


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of two runs or more.")],
    out: Annotated[
        Path | None, typer.Option(help="Also draw their curves into this HTML file.")
    ] = None,
    bits: Annotated[
        bool,
        typer.Option(
            "--bits", help="Find the first step and tensor in which two runs differ in a bit."
        ),
    ] = False,
) -> None:
    """Prints where runs differ in settings, code, data and layout, and what they came to.

    With --bits: where their bits part; the exit code is 1 where they do.

    Example: keepstep compare runs/before runs/after --out compared.html
    """
    if bits:
        if out is not None:
            raise ConfigError(
                "--out: found it beside --bits, which draws nothing, needed one of the two; leave "
                "one out"
            )
        compare_bits(runs)
        return
    if len(runs) < 2:
        raise ConfigError(f"runs: found {len(runs)}, needed two or more; name another run's folder")
    read = [read_run(folder) for folder in runs]
    compared = [
        Compared(
            label=label,
            run=run,
            status=status_of(run.folder),
            head=newest_head(run.folder),
        )
        for label, run in zip(labels(read), read, strict=True)
    ]
    page = None if out is None else compare_page(compared)
    console = Console()
    if not console.is_terminal:
        console = Console(width=250)
    names = [one.label for one in compared]
    for title, rows in (
        ("CONFIGURATION", settings_that_differ(compared)),
        ("CODE, DATA, LAYOUT", origins_that_differ(compared)),
        ("FIGURE", figures_side_by_side(compared)),
    ):
        console.print(_table(title, names, rows) if rows else f"{title}: no difference\n")
    if out is not None and page is not None:
        write_atomically(out, page)
        typer.echo(out)


def _table(title: str, names: Sequence[str], rows: Sequence[Row]) -> Table:
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for head in (title, *names):
        made.add_column(Text(head), overflow="fold")
    for row in rows:
        made.add_row(*map(Text, row))
    made.add_row()
    return made
