"""What is left in memory of a run whose ranks have changed, saved before it is written over: a
state that the nodes hold between them, though not each rank its own, becomes a checkpoint, from
which any ranks go on."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import final

from ..checkpoint import (
    Cargo,
    CheckpointError,
    DamagedPartError,
    DiskFullError,
    Exchange,
    Found,
    commit,
    committed,
)
from ..checkpoint.claims import Fence
from ..checkpoint.exchange import RanksFailedError, share
from ..checkpoint.slots import Box, Held, Left, Union, Whole, boxes_of, deal, wholes
from ..parallel import Degrees, copies_of
from .config import RunConfig
from .errors import StoppedError
from .identity import digest, identity, open_checkpoints, open_seal, run_folder

_TRIES = 3
_PAUSE_SECONDS = 2.0


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Salvaged:
    """What was saved."""

    step: int
    path: str
    bytes: int
    lost: tuple[int, ...]
    """Ranks, as they were counted then, whose own memory was not found."""
    seconds: float


def salvage(
    config: RunConfig,
    exchange: Exchange,
    own: Sequence[Held],
    strays: Sequence[Held],
    *,
    fence: Fence,
    say: Callable[[str], None],
) -> Salvaged | None:
    """Collective among the guardians, before any worker begins. None where there is nothing to
    save: each rank has its own part, or the checkpoints are as new. Blocks until it is durable.

    Args:
        own: what this rank's own slots hold.
        strays: what other slots hold that this rank's guardian has found.

    Raises:
        StoppedError: there is a state, and it cannot be saved; the slots are as they were.
    """
    begun, found = time.monotonic(), [*own, *strays]
    for whole in wholes(_lefts(config, exchange, found), copies_of):
        if _is_at_home(whole, exchange, Degrees.resolve(config.parallel, exchange.size)):
            return None
        if not _is_newer(whole, _newest_durable(config, exchange)):
            return None
        say(f"step {whole.step}: saving what the nodes have of it in memory")
        try:
            folder, count = _save(config, exchange, found, whole, fence)
        except _DamagedError as error:
            say(f"step {whole.step}: passed over what is in memory: {error}")
            continue
        return Salvaged(
            step=whole.step,
            path=open_checkpoints(config).address(folder),
            bytes=count,
            lost=whole.lost,
            seconds=round(time.monotonic() - begun, 3),
        )
    return None


class _DamagedError(Exception):
    """A slot's bytes are not as they were."""


def _lefts(config: RunConfig, exchange: Exchange, found: Sequence[Held]) -> list[Left]:
    """Collective: the slots of this very run, of all ranks."""
    wanted = {
        "run": str(run_folder(config).resolve()),
        "config": digest(identity(config)),
    }
    own = [
        asdict(Left.of(held, finder=exchange.rank, index=index))
        for index, held in enumerate(found)
        if wanted.items() <= dict(held.image.label).items()
    ]
    answers = exchange.gather_bytes(json.dumps(own).encode())
    return [Left(**one) for answer in answers for one in json.loads(answer)]


def _is_at_home(whole: Whole, exchange: Exchange, degrees: Degrees) -> bool:
    """Whether every rank has its own part of it, and may take it from there."""
    is_same = whole.label["topology"] == degrees.describe()
    homes = {left.rank for left in whole.every if left.rank == left.finder}
    return is_same and homes == set(range(exchange.size))


def _newest_durable(config: RunConfig, exchange: Exchange) -> tuple[int, float] | None:
    """Collective: (step, unix seconds) of the checkpoint that was committed last."""

    def look() -> bytes:
        found: list[Found] = committed(open_checkpoints(config))
        return json.dumps([(one.step, one.created) for one in found[:1]]).encode()

    try:
        answer: list[tuple[int, float]] = json.loads(share(exchange, look))
    except RanksFailedError as error:
        raise StoppedError(
            f"checkpoint.path: found that it cannot be listed ({error}), needed that to know "
            "whether what the nodes hold in memory is newer; start the same command again"
        ) from error
    return answer[0] if answer else None


def _is_newer(whole: Whole, durable: tuple[int, float] | None) -> bool:
    return durable is None or whole.step > durable[0] or whole.created > durable[1]


def _save(
    config: RunConfig, exchange: Exchange, found: Sequence[Held], whole: Whole, fence: Fence
) -> tuple[str, int]:
    mine = [found[left.index] for left in whole.lefts if left.finder == exchange.rank]
    offered, cargo = _offered(exchange, mine, whole)
    try:
        dealt = deal(offered)
    except ValueError as error:
        raise _DamagedError(str(error)) from error
    turns = [turn for turn, left in enumerate(whole.lefts) if left.finder == exchange.rank]
    part = Union([(held, dealt[turn]) for held, turn in zip(mine, turns, strict=True)])
    place, seal = open_checkpoints(config), open_seal(config)
    for tries in range(1, _TRIES + 1):
        try:
            return commit(place, exchange, part, cargo, fence, seal)
        except DamagedPartError as error:
            raise _DamagedError(str(error)) from error
        except (CheckpointError, DiskFullError) as error:
            if tries == _TRIES:
                raise StoppedError(
                    f"step {whole.step}: found it in the memory of this run's nodes and could not "
                    f"save it ({error}), needed that, since the ranks are others now; mend it and "
                    "start the same command again"
                ) from error
            time.sleep(_PAUSE_SECONDS)
    raise AssertionError


def _offered(
    exchange: Exchange, mine: Sequence[Held], whole: Whole
) -> tuple[list[list[Box]], Cargo]:
    """Collective: the boxes of each slot of the state, in their order, and what goes with them."""
    said = {
        "boxes": [boxes_of(held) for held in mine],
        "cargo": asdict(mine[0].cargo) if mine else None,
    }
    answers = [json.loads(one) for one in exchange.gather_bytes(json.dumps(said).encode())]
    queues = [iter(answer["boxes"]) for answer in answers]
    cargo = next(answer["cargo"] for answer in answers if answer["cargo"] is not None)
    return [next(queues[left.finder]) for left in whole.lefts], Cargo(**cargo)
