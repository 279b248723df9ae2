"""What a guardian keeps a run's state with: the slots in memory, its saver and its promoter, over
connections to the ranks' store of their own."""

import functools
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import timedelta

from torch.distributed import PrefixStore  # type: ignore[attr-defined]

from ..checkpoint.claims import Fence
from ..checkpoint.slots import newest
from ..checkpoint.stores import open_place
from ..parallel import World, client_store
from .config import RunConfig
from .identity import open_checkpoints, open_seal, run_folder
from .memory import resumes_from_memory
from .recovery.exchange import StoreExchange
from .recovery.generation import Generations
from .recovery.line import Order
from .recovery.promoter import Promoter, Promotion
from .recovery.saver import Request, Rules, Saver
from .recovery.slots import SlotSet
from .recovery.strays import Strays
from .salvage import salvage
from .telemetry.events import Events

_STORE_SECONDS = 300.0
# The slowest rank's upload, not a sign of life: a guardian that is gone ends the job by itself.
_SAVE_SECONDS = 3600.0


def open_slots(
    config: RunConfig,
    world: World,
    generations: Generations,
    events: Events,
    *,
    say: Callable[[str], None],
    fence: Fence,
) -> SlotSet:
    """Collective: this rank's slots. What lies in those of ranks that are no more is saved first,
    where nothing else is as new; raises as `salvage`."""
    run = str(run_folder(config).resolve())
    slots = SlotSet.open(run, rank=world.rank, count=config.recovery.slots)
    is_over = generations.turn(0) is not None
    if is_over or not generations.meet("slots", 0, seconds=_STORE_SECONDS):
        return slots  # the guardian says what has ended the job, or who is missing
    strays = Strays.find(run, share=(world.local_rank, world.local_world_size))
    try:
        is_wanted = resumes_from_memory(config)
        own, others = (newest(one) if is_wanted else [] for one in (slots.named, strays.slots))
        if generations.any_of("held", 0, bool(own or others), seconds=_STORE_SECONDS):
            exchange = StoreExchange(
                generations, name="salvage", generation=0, step=0, seconds=_SAVE_SECONDS
            )
            saved = salvage(config, exchange, own, others, fence=fence, say=say)
            if saved is not None and world.rank == 0:
                events.write("salvage", generation=0, **asdict(saved))
        strays.remove()
    finally:
        strays.close()
    return slots


def start_saver(
    config: RunConfig,
    slots: SlotSet,
    generations: Generations,
    order: Order,
    events: Events,
    *,
    say: Callable[[str], None],
    fence: Fence,
) -> Saver:
    """The threads that save for this rank's worker and copy what was saved to further places."""

    @functools.cache
    def own(_: str) -> Generations:  # one a thread: waiting holds a connection
        timeout = timedelta(seconds=_STORE_SECONDS)
        store = client_store(str(order["host"]), int(order["port"]), timeout)
        return replace(generations, store=PrefixStore(str(order["prefix"]), store))

    def exchange(request: Request, attempt: int) -> StoreExchange:
        return StoreExchange(
            own("saver"),
            name=f"{request.generation}-{request.serial}-{attempt}",
            generation=request.generation,
            step=request.step,
            seconds=_SAVE_SECONDS,
        )

    def exchange_copies(promotion: Promotion) -> StoreExchange:
        return StoreExchange(
            own("promoter"),
            name=f"{promotion.tier}-{promotion.folder}",
            generation=promotion.generation,
            step=promotion.step,
            seconds=_SAVE_SECONDS,
        )

    tiers = config.checkpoint.tiers
    promoter = Promoter(
        tiers,
        lambda: open_checkpoints(config),
        lambda tier: open_place(tiers[tier].path, config.checkpoint.store),
        exchange_copies,
        events,
        say,
        lambda: saver.wake(),
    )
    if tiers:
        promoter.start()
    saver = Saver(
        slots,
        lambda: open_checkpoints(config),
        exchange,
        events,
        say,
        promoter=promoter,
        rules=Rules(
            fence=fence,
            seal=open_seal(config),
            keep=config.checkpoint.retention,
            max_failures=config.checkpoint.max_failures,
        ),
    )
    saver.start()
    return saver
