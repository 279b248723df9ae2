"""Copies of committed checkpoints to further places, by the guardians together, behind the saves:
a slow bucket holds up neither the loop nor the next save."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from ...checkpoint import Exchange, Keep, Store, tidy
from ...checkpoint.config import TierConfig
from ...checkpoint.offline import copy_together
from ..telemetry.events import Events


@dataclass(frozen=True, kw_only=True, slots=True)
class Promotion:
    """One checkpoint on its way to one tier; the same on all ranks, in the same order."""

    tier: int
    folder: str
    step: int
    generation: int


@final
class Promoter(threading.Thread):
    """Takes promotions in turn.

    Args:
        open_place: the place that saves go to.
        open_tier: that of a tier, by its index.
        exchange: makes the guardians' exchange for one promotion.
        on_end: called when one has ended.
    """

    def __init__(
        self,
        tiers: Sequence[TierConfig],
        open_place: Callable[[], Store],
        open_tier: Callable[[int], Store],
        exchange: Callable[[Promotion], Exchange],
        events: Events,
        say: Callable[[str], None],
        on_end: Callable[[], None],
    ) -> None:
        super().__init__(name="keepstep-promoter", daemon=True)
        self._tiers = list(tiers)
        self._open_place, self._open_tier = open_place, open_tier
        self._exchange = exchange
        self._events = events
        self._say = say
        self._on_end = on_end
        self._asked: queue.SimpleQueue[Promotion | None] = queue.SimpleQueue()
        self._waiting: list[Promotion] = []
        self._lock = threading.Lock()
        self._copied_at = [time.monotonic()] * len(self._tiers)

    def due(self, *, is_last: bool) -> list[int]:
        """Rank 0: the tiers that the checkpoint just committed is to go to. While one is still
        being copied none is, so that the newest wins."""
        if not is_last and not self.is_idle:
            return []
        now = time.monotonic()
        return [
            index
            for index, tier in enumerate(self._tiers)
            if is_last or now - self._copied_at[index] >= tier.every_seconds
        ]

    def add(self, promotions: Sequence[Promotion]) -> None:
        """Every rank, in the same order: takes these up; never blocks."""
        with self._lock:
            self._waiting += promotions
        for one in promotions:
            self._copied_at[one.tier] = time.monotonic()
            self._asked.put(one)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being copied or waits for it."""
        with self._lock:
            return not self._waiting

    @property
    def folders(self) -> list[str]:
        """Checkpoints that are still read."""
        with self._lock:
            return [one.folder for one in self._waiting]

    def close(self) -> None:
        """Lets the thread end after the copy under way; does not wait for it."""
        self._asked.put(None)

    def run(self) -> None:
        while (promotion := self._asked.get()) is not None:
            try:
                self._copy(promotion)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"[:500]
                path = self._tiers[promotion.tier].path
                self._say(f"step {promotion.step} was not copied to {path}: {reason}")
                if self._events.rank == 0:
                    self._tell(promotion, "promotion_failed", path=path, reason=reason)
            finally:
                with self._lock:
                    self._waiting.remove(promotion)
                self._on_end()

    def _copy(self, promotion: Promotion) -> None:
        begun = time.monotonic()
        exchange = self._exchange(promotion)
        target = self._open_tier(promotion.tier)
        count = copy_together(self._open_place(), promotion.folder, target, exchange)
        if exchange.rank == 0:
            seconds = round(time.monotonic() - begun, 4)
            path = target.address(promotion.folder)
            self._tell(promotion, "promotion", path=path, bytes=count, seconds=seconds)
            tidy(target, Keep(last=self._tiers[promotion.tier].keep))

    def _tell(self, promotion: Promotion, kind: str, **fields: object) -> None:
        self._events.write(kind, step=promotion.step, generation=promotion.generation, **fields)
