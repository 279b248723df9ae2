"""The entry of a program that trains: composes the configuration, and runs one job or a sweep."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from ..parallel import read_world
from .compose import asks_sweep, run_hydra
from .config import RunConfig
from .identity import named, run_folder
from .launch import Fit, refuse, run_job
from .recipe import MakeRecipe
from .recovery.signals import StopSignals
from .recovery.verdict import EXIT_FAILED, EXIT_FINISHED, EXIT_PREEMPTED
from .recovery.warm import die_with_parent, never_return
from .submitted import told, world_of_job
from .sweep import Outcome, Sweep, outcome_of

Label = Callable[[RunConfig], str]
_COLUMNS = 160  # of a table where nobody says how wide a page is


def supervise(
    fit: Fit,
    recipe: MakeRecipe,
    argv: Sequence[str] | None = None,
    *,
    label: Label | None = None,
) -> None:
    """Runs a job from the command line's overrides; the last statement of a script.

    Under torchrun every rank calls it; alone it is rank 0 of 1. Blocks until the job is over, and
    restarts, resumes and reports on the way.

    Args:
        fit: what trains, on each rank: `Trainer.fit`.
        recipe: called with the configuration, in the process that trains.
        argv: overrides such as `train.steps=50`, and Hydra's own flags; None reads sys.argv.
        label: how a run is called that has no `run.name`; None takes the script's name.

    Raises:
        SystemExit: with the job's exit code, unless it is 0.
    """
    code = run(fit, recipe, sys.argv[1:] if argv is None else argv, label=label)
    if code != EXIT_FINISHED:
        raise SystemExit(code)


def run(fit: Fit, recipe: MakeRecipe, argv: Sequence[str], *, label: Label | None = None) -> int:
    """As `supervise`, but answers the exit code."""
    script = Path(sys.argv[0]).stem or "run"
    try:
        world = read_world()
    except ValueError as error:
        return refuse(error, sys.stderr)
    errors = sys.stderr if world.rank == 0 else None
    codes: list[int] = []

    def job(config: RunConfig, number: int | None) -> int:
        config = named(config, label(config) if label else script)
        if number is None:
            return run_job(fit, recipe, config, world, "job")
        if EXIT_PREEMPTED in codes:
            return EXIT_PREEMPTED
        here = world_of_job(world)
        # In a sweep each job is guarded from a fork, so that this process never opens a store or a
        # thread and can fork the next.
        codes.append(_in_child(lambda: run_job(fit, recipe, config, here, f"job-{number}")))
        return codes[-1]

    def note(number: int, words: Sequence[str], config: RunConfig | str, code: int) -> None:
        if read_world().rank > 0:
            return
        if isinstance(config, str):
            sweep.note(Outcome(job=number, overrides=list(words), code=code, reason=config))
        else:
            folder = run_folder(named(config, label(config) if label else script))
            sweep.note(outcome_of(number, words, code, folder))

    sweep, sweeps = Sweep.of(argv), asks_sweep(argv)
    try:
        if not sweeps or world.rank > 0:
            return run_hydra(argv, job, is_speaker=world.rank == 0, note=note)
        return _swept(sweep, lambda: run_hydra(argv, job, note=note))
    except ValueError as error:
        return refuse(error, errors)


def _swept(sweep: Sweep, run_all: Callable[[], int]) -> int:
    """The worst code of a sweep's jobs, which end with one table, however they end."""
    sweep.open()
    found: list[Outcome] = []
    try:
        code = run_all()
    except RuntimeError as error:
        if (words := told(error)) is None:
            raise
        sys.stderr.write(f"keepstep: {words}\n")
        code = EXIT_FAILED
    finally:
        found = sweep.close(Console(width=None if sys.stdout.isatty() else _COLUMNS))
    return max(code, *(one.code for one in found)) if found else code


def _in_child(body: Callable[[], int]) -> int:
    """Runs `body` in a fork and answers its exit code."""
    sys.stdout.flush()
    sys.stderr.flush()
    parent, pid = os.getpid(), os.fork()
    if pid == 0:
        die_with_parent(parent)
        never_return(body)

    def pass_on() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)

    with StopSignals(pass_on):  # launchers signal this process, and only the guardian can act
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return EXIT_FAILED if code < 0 else code  # a signal is no success
