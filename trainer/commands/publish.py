"""`keepstep publish`: a run's files to its sinks, after the run."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer
from filelock import FileLock, Timeout

from ..compose import read_config
from ..errors import ConfigError
from ..identity import CONFIG_FILE
from ..recovery.ledger import read_lines
from ..recovery.verdict import EXIT_FAILED
from ..showing import run_facts
from ..telemetry.sinks.choose import check_sinks, maker
from ..telemetry.sinks.config import SinkName
from ..telemetry.sinks.feed import Feed
from ..telemetry.sinks.process import deliver
from ..telemetry.sinks.sink import Ending


def publish(
    run: Annotated[Path, typer.Argument(help="A run's folder, in which nothing trains now.")],
    sink: Annotated[
        list[SinkName] | None, typer.Option(help="Which, more than once; default: the run's own.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long it may take.")] = 600.0,
) -> None:
    """Sends what sinks have not got yet of a run: those that were away, or new ones.

    Each goes on from where it was, so that nothing is sent twice. Exits with 1 where one is not
    through in time.

    Example: keepstep publish runs/shakespeare --sink tensorboard
    """
    config = read_config(run / CONFIG_FILE)
    settings = dataclasses.replace(config.telemetry, sinks=sink or config.telemetry.sinks)
    if not settings.sinks:
        raise ConfigError(f"{run}: found no sinks in its telemetry.sinks, needed one; add --sink")
    check_sinks(settings.sinks)
    try:
        with FileLock(run / ".lock", timeout=0):
            facts = run_facts(config, run)
            feeds = [
                Feed(name, maker(name, settings), facts, tell=_tell, every_seconds=0.2)
                for name in settings.sinks
            ]
            for feed in feeds:
                feed.start()
            code = deliver(feeds, _ending(run), seconds=seconds, say=_late)
    except Timeout as error:
        raise ConfigError(
            f"{run}: found a job training in it, needed it free; it feeds its sinks by itself"
        ) from error
    if code:
        raise typer.Exit(EXIT_FAILED)
    typer.echo(f"{', '.join(settings.sinks)}: all of {run} is there")


def _tell(name: str, reason: str | None) -> None:
    words = f"fails and is tried again: {reason}" if reason else "is back"
    typer.echo(f"{name} {words}", err=True)


def _late(words: str) -> None:
    typer.echo(words, err=True)


def _ending(run: Path) -> Ending:
    """By the run's last words, for the job itself is not here to say it."""
    kinds = [str(line["kind"]) for line in read_lines(run / "events.jsonl")]
    for kind in reversed(kinds):
        if kind in ("finish", "preemption", "start"):
            known = {"finish": Ending.finished, "preemption": Ending.preempted}
            return known.get(kind, Ending.failed)
    return Ending.failed
