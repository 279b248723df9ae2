"""Which checkpoint a generation begins with: one rule, decided on rank 0, the same on all ranks."""

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..checkpoint import CheckpointError, Checkpoints, Damage, Found, Restored, committed
from ..checkpoint.slots import MEMORY, Image
from ..checkpoint.stores import open_place
from ..data import Cursor
from ..parallel import Exchange
from .build import Job
from .config import OnChange, RunConfig
from .errors import ConfigError, StoppedError
from .guard.watch import Watch
from .identity import checkpoint_folder, open_checkpoints, open_seal
from .memory import Memory
from .recovery.life import Life
from .skipped import Skipped
from .state import Progress, State

_logger = logging.getLogger(__name__)
NEWEST, NOTHING, IN_MEMORY = "newest", "nothing", "in memory"


def choose(config: RunConfig, found: Sequence[Found], *, started: float) -> str:
    """What to begin with: NEWEST, NOTHING, or a step's number. Pure.

    Once the job itself has saved something, later generations take the newest; until then each one
    repeats the rule of the start.

    Args:
        found: committed checkpoints, the last committed first.
        started: unix seconds at which the job began.

    Raises:
        ConfigError: `run.resume` cannot be met by what is there.
    """
    rule, folder = config.run.resume, checkpoint_folder(config)
    if found and found[0].created >= started:
        return NEWEST
    if rule == "never" and found:
        raise ConfigError(
            f"run.resume=never: found a checkpoint of step {found[0].step} in {folder}, needed "
            "none; set another run.name, or run.resume=auto to go on from it"
        )
    if rule == "must" and not found:
        raise ConfigError(
            f"run.resume=must: found no checkpoint in {folder}, needed one; correct run.dir or "
            "checkpoint.path, or set run.resume=auto"
        )
    if rule.isdigit():
        steps = sorted({one.step for one in found})
        if int(rule) not in steps:
            raise ConfigError(
                f"run.resume={rule}: found checkpoints of the steps {steps} in {folder}, needed "
                f"one of {rule}; set one of those, or run.resume=auto"
            )
        return rule
    return NEWEST if found else NOTHING


def resume(
    job: Job,
    state: State,
    progress: Progress,
    watch: Watch,
    life: Life,
    *,
    image: Image,
    skipped: Skipped,
) -> Restored | None:
    """Collective: loads the newest step that every rank has in memory, or what `choose` says of
    the durable checkpoints, into the rest; None for a fresh start.

    Raises:
        ConfigError: `run.resume` cannot be met.
        MismatchError, DataError: the checkpoint is of another model or other data.
        StoppedError: there are checkpoints and none is whole.
    """
    memory = Memory.of(job, image, life)
    restored = _restore(job, state, life, memory)
    memory.keep_until(restored.step if restored and restored.path == MEMORY else -1)
    if restored is None:
        return None
    cursor = take_over(restored, job, state, progress, watch)
    skips = cursor.pop("skips", [])
    if job.config.run.on_change is OnChange.refuse:
        skipped.load(skips)
        Cursor(job.order).load_state_dict(cursor)
    if restored.path == MEMORY:
        skipped.agree()  # each rank had its own list in mind
    else:
        watch.compared = restored.step  # copies have read the same bytes
    return restored


def take_over(
    restored: Restored, job: Job, state: State, progress: Progress, watch: Watch
) -> dict[str, Any]:
    """What goes with the tensors that were restored, to where it belongs; the place in the data."""
    saved = dict(restored.progress)
    state.copy_to_twins()
    cursor: dict[str, Any] = dict(saved.pop("data"))
    if (scale := saved.pop("loss_scale", None)) is not None:
        job.scale.load_state_dict(scale)
    watch.take(saved)
    if job.exact:
        job.exact.take(saved)
    for name in ("metrics", "best", "exact"):
        saved.pop(name, None)
    progress.load_state_dict(saved)
    return cursor


def parent_of(restored: Restored | None) -> str | None:
    """The durable checkpoint that a run goes on from, where there is one."""
    if restored is None:
        return None
    return restored.lineage.get("parent") if restored.path == MEMORY else restored.path


def _restore(job: Job, state: State, life: Life, memory: Memory) -> Restored | None:
    damaged: list[Damage] = []
    while True:
        choice = _agreed_choice(job, life, memory)
        if choice != IN_MEMORY:
            break
        if (restored := memory.load(state, damaged, in_place=True)) is not None:
            return restored
    restored = None
    if choice != NOTHING:
        step = None if choice == NEWEST else int(choice)
        restored = _from_places(job, state, life, step, damaged)
    if restored is None and damaged:  # the state holds half of what is damaged
        memory.keep_until(-1)
        raise StoppedError(
            f"memory: found every snapshot damaged ({damaged[-1].file}: {damaged[-1].reason}) and "
            "no checkpoint, needed one that is whole; start the same command again, which begins "
            "at step 0"
        )
    return restored


def _from_places(
    job: Job, state: State, life: Life, step: int | None, damaged: list[Damage]
) -> Restored | None:
    """Collective: from the place that has the newest, else the next one."""
    exchange, troubles = Exchange(job.topology.control), []
    seal = open_seal(job.config)
    own = json.dumps(_places(job.config, step) if life.world.rank == 0 else []).encode()
    for url in json.loads(exchange.gather_bytes(own)[0]):
        place = open_place(url, job.config.checkpoint.store)
        checkpoints = Checkpoints(place, exchange, keep=1, seal=seal)
        try:
            # Where none can be read the run ends, so nobody goes on with what is left half read.
            restored = checkpoints.restore(state.tensors, step=step, in_place=True)
        except CheckpointError as error:
            troubles.append(str(error))
            continue
        if restored is not None:
            return replace(restored, damaged=damaged + restored.damaged)
    if troubles:
        raise StoppedError(" ".join(troubles))
    return None


def _places(config: RunConfig, step: int | None) -> list[str]:
    """Where there are checkpoints (of that step), the place of the newest first."""
    newest: dict[str, tuple[float, int]] = {}
    places = {checkpoint_folder(config): committed(open_checkpoints(config)), **_tiers(config)}
    for url, found in places.items():
        for one in found:
            if step in (None, one.step):
                newest.setdefault(url, (one.created, one.step))
    return sorted(newest, key=newest.__getitem__, reverse=True)


def _tiers(config: RunConfig) -> dict[str, list[Found]]:
    """What lies in the further places; one that does not answer is told of and passed over."""
    found: dict[str, list[Found]] = {}
    for tier in config.checkpoint.tiers:
        try:
            found[tier.path] = committed(open_place(tier.path, config.checkpoint.store))
        except OSError as error:
            _logger.warning("checkpoint.tiers: %s is passed over: %s", tier.path, error)
    return found


def _all_committed(config: RunConfig) -> list[Found]:
    """Those of every place, the last committed first; a copy counts once."""
    found = committed(open_checkpoints(config))
    known = {one.folder for one in found}
    for others in _tiers(config).values():
        found += [one for one in others if one.folder not in known]
    if config.checkpoint.tiers:  # of one place the order is its own
        found.sort(key=lambda one: (one.created, one.step), reverse=True)
    return found


def _agreed_choice(job: Job, life: Life, memory: Memory) -> str:
    """What the job itself left in memory is taken unasked, so that a place that does not answer
    keeps no worker from going on: all ranks know of that. Else rank 0 looks and tells; a refusal is
    raised on every rank."""
    if life.generation > 0 and memory.is_untouched:
        return IN_MEMORY
    answer = ""
    if life.world.rank == 0:
        try:
            answer = "+" + _choice(job, life, memory)
        except ConfigError as error:
            answer = "-" + str(error)
    answer = Exchange(job.topology.control).gather_bytes(answer.encode())[0].decode()
    if answer[0] == "-":
        raise ConfigError(answer[1:])
    return answer[1:]


def _choice(job: Job, life: Life, memory: Memory) -> str:
    """Rank 0: what to begin with."""
    try:
        found = _all_committed(job.config)
    except OSError:
        if life.generation > 0 and memory.has_steps:
            return IN_MEMORY
        raise
    if memory.is_newer(found):
        return IN_MEMORY
    return choose(job.config, found, started=life.started)


def is_kept(config: RunConfig, life: Life, restored: Restored) -> bool:
    """Rank 0: whether what was restored is among the checkpoints, or on its way there. What lies
    in memory alone is not: the job that put it there may have died before it was saved."""
    if restored.path != MEMORY or not config.checkpoint.at_end:
        return True
    slots = life.slots.all if life.slots else []
    if any(slot.step == restored.step and slot.is_pinned for slot in slots):
        return True
    try:
        return any(one.step == restored.step for one in committed(open_checkpoints(config)))
    except OSError:
        return False
