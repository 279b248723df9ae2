"""One job, guarded or in place, from the opening of the store to its exit code.

fork the warm server -> open the store -> agree -> guard          (recovery.enabled)
open the store -> agree -> train                                  (in place)
"""

import contextlib
import faulthandler
import gc
import signal
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import TextIO

import torch.distributed as dist
from torch.distributed import PrefixStore  # type: ignore[attr-defined]

from ..checkpoint import LocalStore, committed
from ..parallel import World, client_store, open_store
from .build import check
from .config import RunConfig
from .errors import ConfigError, StoppedError
from .identity import RunFolder, checkpoint_folder, config_digest, run_folder
from .recipe import MakeRecipe
from .recovery.generation import Generations
from .recovery.guardian import Guardian
from .recovery.heartbeat import Page, Phase
from .recovery.life import Life
from .recovery.preload import preload
from .recovery.signals import StopSignals
from .recovery.verdict import EXIT_FAILED, EXIT_WRONG, Cause, classify
from .recovery.warm import Order, WarmServer
from .telemetry.events import Events

Fit = Callable[[RunConfig, MakeRecipe, Life], int]

_STORE_SECONDS = 300.0
_LAST_SECONDS = 5.0


def run_job(fit: Fit, recipe: MakeRecipe, config: RunConfig, world: World, name: str) -> int:
    """One job from begin to end; its exit code. Blocks. `name` tells the jobs of a sweep apart."""
    errors = sys.stderr if world.rank == 0 else None
    try:
        check(config, world)
    except ValueError as error:
        return refuse(error, errors)
    begin = _guard if config.recovery.enabled else _in_place
    try:
        return begin(fit, recipe, config, world, name, errors)
    except dist.DistError as error:
        # said by every rank, since it may be rank 0 that is gone
        sys.stderr.write(
            f"keepstep: the store of the ranks: found it gone on rank {world.rank} "
            f"({_one_line(error)}), needed it to agree; start the same command again: the newest "
            "checkpoint is taken\n"
        )
        return EXIT_FAILED


def _guard(
    fit: Fit, recipe: MakeRecipe, config: RunConfig, world: World, name: str, errors: TextIO | None
) -> int:
    """The life of a guardian."""

    def work(order: Order, page: Page, report_fd: int) -> int:
        faulthandler.enable()
        faulthandler.register(signal.SIGUSR2, all_threads=True)
        timeout = timedelta(seconds=_STORE_SECONDS)
        store = client_store(str(order["host"]), int(order["port"]), timeout)
        life = Life(
            world=world,
            generation=int(order["generation"]),
            store=PrefixStore(str(order["prefix"]), store),
            page=page,
            started=float(order["started"]),
            report_fd=report_fd,
        )
        return live(fit, recipe, config, life)

    preload()
    gc.freeze()  # what was imported is never garbage: forks need not look at it, nor copy it
    try:
        server = WarmServer.start(work)
    except StoppedError as error:
        refuse(error, errors)
        return EXIT_FAILED
    try:
        store = open_store(world, timeout=timedelta(seconds=_STORE_SECONDS))
        prefix = f"keepstep/{world.attempt}/{name}"
        generations = Generations(PrefixStore(prefix, store), world.rank, world.world_size)
        generations.open()
        order: Order = {"host": store.host, "port": store.port, "prefix": prefix}
        code = _guarded(config, world, server, generations, order, errors)
        _part(world, generations)
        return code
    finally:
        server.close()


def _guarded(
    config: RunConfig,
    world: World,
    server: WarmServer,
    generations: Generations,
    order: Order,
    errors: TextIO | None,
) -> int:
    """The job between the meeting of the guardians and their parting."""
    started, folder = _begin(config, generations)
    guardian = Guardian(
        config.recovery,
        server,
        generations,
        {**order, "started": started},
        Events(run_folder(config), rank=world.rank),
        _say_to(sys.stdout if errors and config.telemetry.progress else None),
    )
    try:
        code = guardian.run()
        _, end = generations.look()
        if end is not None and errors is not None:
            errors.write(f"keepstep: {end.reason}\n{_kept(config, code)}")
        return code
    finally:
        guardian.close()
        folder.close()


def _begin(config: RunConfig, generations: Generations) -> tuple[float, RunFolder]:
    """Collective: when the job began, and the run's folder, which rank 0 has opened. Calls the
    job's end where it may not begin; blocks until all ranks have come."""
    started, digests = generations.agree_on_start(time.time(), config_digest(config))
    folder = RunFolder(config)
    odd = [rank for rank, found in enumerate(digests) if found != digests[0]]
    if odd:
        generations.end(
            EXIT_WRONG,
            f"configuration: found {digests[odd[0]][:8]} on rank {odd[0]} and {digests[0][:8]} on "
            "rank 0, needed the same on all ranks; start every rank with the same overrides",
        )
    elif generations.rank == 0:
        try:
            folder.open()
        except ConfigError as error:
            generations.end(EXIT_WRONG, str(error))
    return started, folder


def _part(world: World, generations: Generations) -> None:
    """The last words between the ranks: the host of the store leaves last."""
    with contextlib.suppress(dist.DistError):  # it did not wait for us, and nothing is left to say
        generations.arrive("gone", 0)
        if world.rank == 0 and not world.has_agent_store:
            generations.wait_all("gone", 0, seconds=_LAST_SECONDS)


def live(fit: Fit, recipe: MakeRecipe, config: RunConfig, life: Life) -> int:
    """The body of a worker: trains, and tells its guardian what went wrong; its exit code."""
    life.beat(0, Phase.start)
    try:
        return fit(config, recipe, life)
    except BaseException as error:
        cause = classify(error)
        words = str(error) if cause in (Cause.setting, Cause.stopped) else _one_line(error)
        trace = traceback.format_exc()
        life.tell("error", cause=str(cause), reason=words, trace=trace)
        # without a guardian nobody else tells which rank's error was the cause
        if life.report_fd is None and (life.world.rank == 0 or cause == Cause.error):
            plain = cause in (Cause.setting, Cause.stopped)
            sys.stderr.write(f"keepstep: {words}\n" if plain else trace)
        return EXIT_WRONG if cause == Cause.setting else EXIT_FAILED


def _in_place(
    fit: Fit, recipe: MakeRecipe, config: RunConfig, world: World, name: str, errors: TextIO | None
) -> int:
    """`recovery.enabled=false`: the worker's code in this process, without a guardian."""
    page = Page.create()
    page.reset()
    store = open_store(world, timeout=timedelta(seconds=_STORE_SECONDS))
    meeting = PrefixStore(f"keepstep/{world.attempt}/{name}", store)
    generations = Generations(meeting, world.rank, world.world_size)
    generations.open()
    started, folder = _begin(config, generations)
    generations.arrive("begun", 0)
    generations.wait_all("begun", 0, seconds=_STORE_SECONDS)
    _, end = generations.look()
    life = Life(world=world, generation=0, store=meeting, page=page, started=started)
    try:
        if end is not None:
            return refuse(ConfigError(end.reason), errors)
        with StopSignals(page.request_stop):
            code = live(fit, recipe, config, life)
        if errors is not None:
            errors.write(_kept(config, code))
        return code
    finally:
        _part(world, generations)
        folder.close()
        page.close()


def _kept(config: RunConfig, code: int) -> str:
    """After a failure: where the newest checkpoint is, as a line; nothing where there is none."""
    folder = checkpoint_folder(config)
    found = committed(LocalStore(folder)) if code == EXIT_FAILED else []
    return f"keepstep: the newest checkpoint is {folder / found[0].folder}\n" if found else ""


def _one_line(error: BaseException) -> str:
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first}"[:500]


def refuse(error: Exception, stream: TextIO | None) -> int:
    """Says one sentence, and answers the exit code of wrong settings."""
    if stream is not None:
        stream.write(f"keepstep: {error}\n")
    return EXIT_WRONG


def _say_to(stream: TextIO | None) -> Callable[[str], None]:
    def say(words: str) -> None:
        if stream is not None:
            stream.write(f"{words}\n")
            stream.flush()

    return say
