"""`keepstep tail`: what a run writes, as it writes it."""

import time
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError
from ..telemetry.reading.follow import Follower, told
from ..telemetry.reading.run import is_run
from ..telemetry.reading.status import State, status_of

_POLL_SECONDS = 0.2
_LIVE = (State.running, State.silent)


def tail(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    lines: Annotated[int, typer.Option("-n", min=0, help="Lines of what is there already.")] = 10,
    follow: Annotated[bool, typer.Option(help="Go on while the run lives.")] = True,
) -> None:
    """Prints the last metrics and events of a run, and follows while it lives; then how it ended.

    Example: keepstep tail runs/llama_tiny-shakespeare-1a2b3c4d -n 20
    """
    if not is_run(run):
        raise ConfigError(
            f"{run}: found no run, needed a run's folder; keepstep runs DIR shows those of a folder"
        )
    follower = Follower(run)
    shown = follower.read()
    for line in shown[max(0, len(shown) - lines) :]:
        typer.echo(told(line))
    status = status_of(run)
    while follow and status.state in _LIVE:
        time.sleep(_POLL_SECONDS)
        status = status_of(run)  # before the last reading, so that nothing is missed after an end
        for line in follower.read():
            typer.echo(told(line))
    typer.echo(f"{status.state}: {status.why}" if status.why else status.state.value)
