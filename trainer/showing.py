"""A job of a run and its sinks: what they are told of it, from its begin to its end. On rank 0; on
other ranks, and where there are no sinks, it does nothing."""

from pathlib import Path
from typing import Any, final

from .config import RunConfig
from .identity import RunFolder, flatten, plain
from .recovery.verdict import EXIT_FINISHED, EXIT_PREEMPTED
from .telemetry.lineage import run_id_of
from .telemetry.scrub import scrubbed
from .telemetry.sinks.process import SinkProcess
from .telemetry.sinks.sink import Ending, RunFacts


@final
class Showing:
    """Its process is forked by `start`, before the store is opened; it follows the files once
    `begin` says that they are this job's."""

    def __init__(self, config: RunConfig, process: SinkProcess | None) -> None:
        self._config = config
        self._process = process

    @classmethod
    def start(cls, config: RunConfig, *, rank: int) -> "Showing":
        """Forks, where there are sinks; this process must run one thread only."""
        if rank != 0:
            return cls(config, None)
        return cls(config, SinkProcess.start(config.telemetry, speaks=config.telemetry.progress))

    def begin(self, folder: RunFolder) -> None:
        """The run's folder is this job's."""
        if self._process is not None and folder.claim is not None:
            self._process.begin(run_facts(self._config, folder.path))

    def end(self, code: int) -> None:
        """The job has ended with that exit code: waits for what is not delivered, for
        `telemetry.feed.grace_seconds` at most; safe twice."""
        process, self._process = self._process, None
        if process is not None:
            process.end(ending_of(code))


def run_facts(config: RunConfig, folder: Path) -> RunFacts:
    """What sinks are told of the run in that folder."""
    settings: dict[str, Any] = scrubbed(flatten(plain(config)))
    return RunFacts(
        folder=folder,
        name=config.run.name or folder.name,
        run_id=run_id_of(folder),
        settings=settings,
    )


def ending_of(code: int) -> Ending:
    """How a job ended, by its exit code."""
    known = {EXIT_FINISHED: Ending.finished, EXIT_PREEMPTED: Ending.preempted}
    return known.get(code, Ending.failed)
