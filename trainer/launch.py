"""One job, guarded or in place, from the opening of the store to its exit code.

fork the warm server -> open the store -> agree -> guard          (recovery.enabled)
open the store -> agree -> train                                  (in place)
"""

import contextlib
import faulthandler
import gc
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TextIO

import torch.distributed as dist
from torch.distributed import PrefixStore  # type: ignore[attr-defined]

from ..checkpoint import committed
from ..checkpoint.claims import Claim, Fence
from ..parallel import Links, Recompute, World, client_store, leave, open_store
from .build import check
from .config import RunConfig
from .errors import ConfigError, CorruptRankError, SlowRankError, StoppedError
from .identity import RunFolder, config_digest, open_checkpoints, run_folder
from .keeping import open_slots, start_saver
from .peering import start_peering
from .recipe import KeptRecipe, MakeRecipe
from .recovery.books import Account, Books, process_begin
from .recovery.crew import Crew
from .recovery.generation import Generations
from .recovery.guardian import Guardian
from .recovery.heartbeat import Page, Phase
from .recovery.life import Life
from .recovery.line import Line, Order
from .recovery.listener import Listener
from .recovery.preload import preload
from .recovery.round import corner_of
from .recovery.signals import StopSignals
from .recovery.slots import SlotSet
from .recovery.verdict import (
    EXIT_FAILED,
    EXIT_FINISHED,
    EXIT_PREEMPTED,
    EXIT_WRONG,
    Cause,
    classify,
    is_out_of_memory,
)
from .recovery.warm import WarmServer, name_process
from .showing import Showing
from .telemetry.events import Events
from .telemetry.progress import Speaker, hear
from .telemetry.speaker import speaker_of
from .warmup import warm_up

Fit = Callable[[RunConfig, MakeRecipe, Life], int]

_STORE_SECONDS = 300.0
_LAST_SECONDS = 5.0
# For which a worker that lost a peer waits for its guardian's word; that one knows much sooner.
_CALL_SECONDS = 30.0
_MOST_TRACE = 2**15


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
    except (TimeoutError, StoppedError) as error:
        sys.stderr.write(f"keepstep: {error}\n")
        return EXIT_FAILED
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

    def work(page: Page, channel: socket.socket, slot_fds: Sequence[int]) -> int:
        faulthandler.enable()
        faulthandler.register(signal.SIGUSR2, all_threads=True)
        line, slots = Line(channel, warm_up), SlotSet.from_fds(slot_fds)
        kept = KeptRecipe(recipe)
        while (order := line.next_order()) is not None:
            name_process("keepstep-worker")
            code: int | None = None
            with contextlib.suppress(ConnectionAbortedError):  # called off before it began
                life = _life(order, world, line=line, page=page, slots=slots)
                code = live(fit, kept, config, life)
            if code is not None:
                return code
        return EXIT_FAILED

    preload()
    gc.freeze()  # what was imported is never garbage: forks need not look at it, nor copy it
    try:
        server = WarmServer.start(work)
    except StoppedError as error:
        refuse(error, errors)
        return EXIT_FAILED
    showing = Showing.start(config, rank=world.rank)
    try:
        store = open_store(world, timeout=timedelta(seconds=_STORE_SECONDS))
        prefix = corner_of(store, world, name)
        generations = Generations(PrefixStore(prefix, store), world.rank, world.world_size)
        order: Order = {"host": store.host, "port": store.port, "prefix": prefix}
        code = _guarded(config, world, server, generations, order, showing, errors)
        _part(world, generations)
        return code
    finally:
        showing.end(EXIT_FAILED)
        server.close()


def _life(order: Order, world: World, *, line: Line, page: Page, slots: SlotSet | None) -> Life:
    """A worker's part in the generation that it is ordered to take part in."""
    links, generation = Links(), int(order["generation"])
    line.attach(links, generation)
    timeout = timedelta(seconds=_STORE_SECONDS)
    with links.recording():
        store = client_store(str(order["host"]), int(order["port"]), timeout)
    return Life(
        world=world,
        generation=generation,
        store=PrefixStore(str(order["prefix"]), store),
        page=page,
        started=float(order["started"]),
        claim=Claim.of(str(order["claim"])) if order["claim"] else None,
        line=line,
        links=links,
        slots=slots,
    )


def _guarded(
    config: RunConfig,
    world: World,
    server: WarmServer,
    generations: Generations,
    order: Order,
    showing: Showing,
    errors: TextIO | None,
) -> int:
    """The job between the meeting of the guardians and their parting."""
    started, folder = _begin(config, generations)
    showing.begin(folder)
    events = Events(run_folder(config), rank=world.rank)
    speaker = _speaker(config, is_speaker=errors is not None)
    say = speaker.say
    fence = Fence(claim=folder.claim)
    slots = open_slots(config, world, generations, events, say=say, fence=fence)
    saver = start_saver(config, slots, generations, order, events, say=say, fence=fence)
    peering = start_peering(config, world, generations, slots, events, say=say)
    page = Page.create()
    books = Books(page)
    books.open(folder.path if world.rank == 0 else None, begun=process_begin())
    listener = Listener(replace(generations, store=_own_store(order)))
    listener.start()
    guardian = Guardian(
        config.recovery,
        Crew(
            server,
            page,
            slots.fds,
            has_spare=config.recovery.spare,
            proves=world.local_rank == 0,
            hear=partial(hear, speaker),
        ),
        generations,
        listener,
        {**order, "started": started, "claim": folder.claim.text if folder.claim else ""},
        saver,
        events,
        say,
        books=books,
    )
    code = EXIT_FAILED
    try:
        code = _run(guardian, config, speaker, is_ours=folder.claim is not None, errors=errors)
        return code
    finally:
        is_saved = code in (EXIT_FINISHED, EXIT_PREEMPTED)
        speaker.close()
        guardian.close()
        books.book(Account.save)
        books.keep()
        page.close()
        saver.join(_LAST_SECONDS)  # what is under way may yet be whole
        peering.close(forget=is_saved)
        slots.forget(keep_sealed=not is_saved)
        if not saver.is_alive():  # else it still reads them, until this process ends
            slots.close()
        showing.end(code)
        folder.close()


def _speaker(config: RunConfig, *, is_speaker: bool) -> Speaker:
    telemetry = config.telemetry
    enabled = telemetry.progress and is_speaker
    return speaker_of(sys.stdout, seconds=telemetry.progress_seconds, enabled=enabled)


def _run(
    guardian: Guardian,
    config: RunConfig,
    speaker: Speaker,
    *,
    is_ours: bool,
    errors: TextIO | None,
) -> int:
    """The guardian's life; what it came to is noted and said. `is_ours`: on rank 0 of a job that
    has the run's folder."""
    code, reason = EXIT_FAILED, "an error in the guardian"
    try:
        code = guardian.run()
        turn = guardian.generations.turn(guardian.generation)
        reason = "" if turn is None else turn.reason
    except dist.DistError as error:
        reason = f"the store of the ranks is gone ({_one_line(error)})"
        raise
    finally:
        if is_ours:
            _note_end(guardian.events, guardian.books, code, reason, guardian.generation)
    speaker.close()
    if reason and errors is not None:
        errors.write(f"keepstep: {reason}\n{_kept(config, code)}")
    return code


def _note_end(events: Events, books: Books, code: int, reason: str, generation: int) -> None:
    """Rank 0: the last line of a job in the run's folder, by which its end is known."""
    first = next(iter(reason.splitlines()), "")
    with contextlib.suppress(OSError):  # a full disk must not change the exit code
        events.write("end", step=books.steps, generation=generation, code=code, reason=first[:500])


def _own_store(order: Order) -> PrefixStore:
    """Another connection to the ranks' store: waiting holds one."""
    timeout = timedelta(seconds=_STORE_SECONDS)
    store = client_store(str(order["host"]), int(order["port"]), timeout)
    return PrefixStore(str(order["prefix"]), store)


def _begin(config: RunConfig, generations: Generations) -> tuple[float, RunFolder]:
    """Collective: when the job began, and the run's folder, which rank 0 has opened. Calls the
    job's end where it may not begin; blocks until all ranks have come."""
    started, odd = generations.agree_on_start(time.time(), config_digest(config))
    folder = RunFolder(config)
    if generations.rank == 0:
        try:
            _check_equal(odd)
            folder.open()
        except ConfigError as error:
            generations.end(0, EXIT_WRONG, str(error))
    generations.wait_first("begun")
    return started, folder


def _check_equal(digests: dict[int, str]) -> None:
    """Refuses ranks that were started with other settings than rank 0."""
    if digests:
        first, odd = digests[0], max(digests)
        raise ConfigError(
            f"configuration: found {digests[odd][:8]} on rank {odd} and {first[:8]} on rank 0, "
            "needed the same on all ranks; start every rank with the same overrides"
        )


def _part(world: World, generations: Generations) -> None:
    """The last words between the ranks: the host of the store leaves last."""
    with contextlib.suppress(dist.DistError):  # it did not wait for us, and nothing is left to say
        generations.arrive("gone", 0)
        if world.rank == 0 and not world.has_agent_store:
            generations.wait_all("gone", 0, seconds=_LAST_SECONDS)


def live(fit: Fit, recipe: KeptRecipe, config: RunConfig, life: Life) -> int | None:
    """The body of a worker: trains, and tells its guardian what went wrong; its exit code, or None
    where the generation is over and this process can take part in the next."""
    life.beat(0, Phase.start)
    try:
        code = fit(config, recipe.on(life), life)
        recipe.close()
        return code
    except BaseException as error:
        if not _is_called_off(error, life):
            recipe.close()
            return _report(error, config, life)
    # Out of the handler, for the error's traceback keeps alive what is to be given back.
    life.links.shut()
    leave()
    gc.collect()
    life.tell("left")
    return None


def _is_called_off(error: BaseException, life: Life) -> bool:
    """Whether an error came of the end of the generation. Who lost a peer waits for that word;
    whose own bits are wrong, or who is too slow, takes part in none after it."""
    if isinstance(error, CorruptRankError | SlowRankError):
        return False
    if life.is_over():
        return True
    if life.line is None or classify(error) != Cause.peer:
        return False
    life.tell("lost", reason=_one_line(error))
    return life.is_over(seconds=_CALL_SECONDS)


def _report(error: BaseException, config: RunConfig, life: Life) -> int:
    """Tells what ended this worker; its exit code."""
    cause = classify(error)
    said = (Cause.setting, Cause.stopped, Cause.corrupt, Cause.slow)
    words = str(error) if cause in said else _one_line(error)
    if is_out_of_memory(error):
        words = f"{words}; {_less_memory(config)}"
    trace = "".join(traceback.format_exception(error))[-_MOST_TRACE:]
    life.tell("error", cause=str(cause), reason=words, trace=trace)
    # without a guardian nobody else tells which rank's error was the cause
    if life.line is None and (life.world.rank == 0 or cause in (Cause.error, Cause.corrupt)):
        _tell_alone(config, life, cause, words, f"keepstep: {words}\n" if cause in said else trace)
    return EXIT_WRONG if cause == Cause.setting else EXIT_FAILED


def _tell_alone(config: RunConfig, life: Life, cause: Cause, reason: str, shown: str) -> None:
    """As a guardian would: on the screen, other ranks by their number, and in the run's folder."""
    rank, step = life.world.rank, life.page.read().step
    sys.stderr.write(f"rank {rank}: {shown}" if rank else shown)
    with contextlib.suppress(OSError):  # there may be no folder yet
        events = Events(run_folder(config), rank=rank)
        events.write("failure", step=step, generation=0, cause=str(cause), reason=reason[:500])


def _less_memory(config: RunConfig) -> str:
    """What to set where memory has run out, the cheapest first."""
    size, ways = config.train.microbatch_samples, []
    if size > 1:
        ways.append(f"train.microbatch_samples={max(1, size // 2)} (found {size})")
    if config.memory.recompute is Recompute.none:
        ways.append("memory.recompute=full")
    if not config.memory.offload_parameters:
        ways.append("memory.offload_parameters=true")
    ways.append("more ranks to shard over (`keepstep plan` shows what each layout takes)")
    return f"set {', or '.join(ways)}"


def _in_place(
    fit: Fit, recipe: MakeRecipe, config: RunConfig, world: World, name: str, errors: TextIO | None
) -> int:
    """`recovery.enabled=false`: the worker's code in this process, without a guardian."""
    page = Page.create()
    page.reset()
    books = Books(page)
    showing = Showing.start(config, rank=world.rank)
    store = open_store(world, timeout=timedelta(seconds=_STORE_SECONDS))
    meeting = PrefixStore(corner_of(store, world, name), store)
    generations = Generations(meeting, world.rank, world.world_size)
    started, folder = _begin(config, generations)
    turn, code = generations.turn(0), EXIT_FAILED
    life = Life(
        world=world, generation=0, store=meeting, page=page, started=started, claim=folder.claim
    )
    try:
        if turn is not None:
            return refuse(ConfigError(turn.reason), errors)
        books.open(folder.path if world.rank == 0 else None, begun=process_begin())
        showing.begin(folder)
        with StopSignals(page.request_stop):
            ended = live(fit, KeptRecipe(recipe), config, life)
        assert ended is not None  # nobody calls it off
        code = ended
        books.book(Account.save)
        books.keep()
        if folder.claim is not None:
            events = Events(run_folder(config), rank=0)
            _note_end(events, books, code, "", generation=0)
        if errors is not None:
            errors.write(_kept(config, code))
        return code
    finally:
        _part(world, generations)
        showing.end(code)
        folder.close()
        page.close()


def _kept(config: RunConfig, code: int) -> str:
    """After a failure: where the newest checkpoint is, as a line; nothing where there is none."""
    if code != EXIT_FAILED:
        return ""
    place = open_checkpoints(config)
    try:
        found = committed(place)
    except OSError as error:
        return f"keepstep: the newest checkpoint is not known: {_one_line(error)}\n"
    return f"keepstep: the newest checkpoint is {place.address(found[0].folder)}\n" if found else ""


def _one_line(error: BaseException) -> str:
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first}"[:500]


def refuse(error: Exception, stream: TextIO | None) -> int:
    """Says one sentence, and answers the exit code of wrong settings."""
    if stream is not None:
        stream.write(f"keepstep: {error}\n")
    return EXIT_WRONG
