"""`keepstep runs`: the runs of a folder at a glance, once or again and again."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..errors import ConfigError
from ..telemetry.reading.run import is_run
from ..telemetry.reading.status import State, Status, status_of

_WATCH_SECONDS = 1.0
_COLOURS = {
    State.running: "cyan",
    State.finished: "green",
    State.preempted: "yellow",
    State.failed: "red",
    State.lost: "red",
    State.silent: "yellow",
    State.unknown: "dim",
}


def runs(
    folder: Annotated[Path, typer.Argument(help="A folder of runs, or one run's.")] = Path("runs"),
    watch: Annotated[bool, typer.Option("--watch", help="Again every second.")] = False,
) -> None:
    """Prints where each run stands (running, finished, preempted, failed, lost), its steps, loss,
    goodput, last checkpoint, and why it ended.

    Example: keepstep runs runs --watch
    """
    console = Console()
    if not console.is_terminal:  # else cells would be cut for a screen that is not there
        console = Console(width=250)
    if not watch:
        console.print(_table(_found(folder)))
        return
    if not console.is_terminal:
        raise ConfigError(
            "--watch: found no terminal, needed one; without it the table is printed once"
        )
    with Live(_table(_found(folder)), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(_WATCH_SECONDS)
            live.update(_table(_found(folder)), refresh=True)


def _found(folder: Path) -> list[Status]:
    if is_run(folder):
        return [status_of(folder)]
    if not folder.is_dir():
        raise ConfigError(f"{folder}: found no such folder, needed one that holds runs")
    found = [status_of(inner) for inner in sorted(folder.iterdir()) if is_run(inner)]
    if not found:
        raise ConfigError(f"{folder}: found no run in it, needed one at least; name another folder")
    return found


def _table(found: Iterable[Status]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("RUN", overflow="fold")
    table.add_column("STATE")
    for name in ("STEP", "LOSS", "GOODPUT", "SAVED"):
        table.add_column(name, justify="right")
    table.add_column("WHY", overflow="fold")
    for one in found:
        table.add_row(
            Text(one.name),
            Text(one.state.value, style=_COLOURS[one.state]),
            f"{one.step}/{one.steps}" if one.steps else str(one.step),
            _or_dash(one.loss, ".4f"),
            _or_dash(one.goodput, ".1%"),
            _or_dash(one.checkpoint, "d"),
            Text(one.why),
        )
    return table


def _or_dash(value: float | None, shape: str) -> str:
    return "-" if value is None else f"{value:{shape}}"
