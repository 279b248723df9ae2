"""Ranks that take longer than others with the same work, again and again: named, and on request
replaced by another process, once an hour at most."""

import socket
import statistics
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from ...parallel import Exchange, Topology, own_seconds
from ..errors import SlowRankError
from ..recovery.config import RecoveryConfig
from ..recovery.life import Life
from ..telemetry.reporter import Reporter
from ..update import Verdict

_LOOKS = 3
"""In a row, in which a rank is slow before that is said; and is not before it may be said again."""
# What a rank takes more than others is no matter below that part of the step, and that long: rank 0
# writes the run's files.
_LEAST_SHARE, _LEAST_SECONDS = 0.1, 0.01
_WINDOW_SECONDS = 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Straggler:
    """A rank that was slow in each of the last looks; the numbers are of the last one."""

    rank: int
    ratio: float
    own_seconds: float
    """Of a step, that it did not spend waiting."""
    median_seconds: float
    """The same of those that do equal work, the lower of two."""
    least_ratio: float
    """Of the last looks."""

    def __str__(self) -> str:
        return (
            f"takes {self.ratio:.1f} times as long as its likes: {self.own_seconds:.3g} s a step, "
            f"not {self.median_seconds:.3g} s"
        )


@final
class Looks:
    """What was seen of each rank; the same on all ranks. Pure.

    Args:
        likes: ranks that do equal work, group by group.
        ratio: past which one is slow.
    """

    def __init__(self, likes: Sequence[Sequence[int]], ratio: float) -> None:
        self.likes = [ranks for ranks in likes if len(ranks) > 1]
        self.ratio = ratio
        self._last = {rank: deque[float](maxlen=_LOOKS) for ranks in likes for rank in ranks}
        self._known = set[int]()

    def add(self, own: Sequence[float], step_seconds: float) -> tuple[list[Straggler], set[int]]:
        """One more look: who is slow by now, and which of these have not been before."""
        least = max(_LEAST_SHARE * step_seconds, _LEAST_SECONDS)
        slow = []
        for ranks in self.likes:
            median = statistics.median_low([own[rank] for rank in ranks])
            for rank in ranks:
                more = own[rank] - median
                last = self._last[rank]
                last.append(own[rank] / median if more > least and median > 0 else 1.0)
                if len(last) == _LOOKS and min(last) > self.ratio:
                    slow.append(
                        Straggler(
                            rank=rank,
                            ratio=last[-1],
                            own_seconds=own[rank],
                            median_seconds=median,
                            least_ratio=min(last),
                        )
                    )
        return slow, self._new(slow)

    def _new(self, slow: Sequence[Straggler]) -> set[int]:
        """Ranks that have become slow; one that is no more may do so again."""
        self._known -= {rank for rank in self._known if max(self._last[rank]) <= self.ratio}
        new = {one.rank for one in slow} - self._known
        self._known |= new
        return new


@final
class Stragglers:
    """Looks now and then, where `is_due` says so on any rank, at the step that has just ended."""

    def __init__(
        self, config: RecoveryConfig, topology: Topology, life: Life, reporter: Reporter
    ) -> None:
        self.config = config
        self.exchange = Exchange(topology.control)
        self.life = life
        self.reporter = reporter
        # A stage waits for another one unseen, and would be taken for slow.
        is_seen = topology.world_size > 1 and topology.degrees.pipeline == 1
        self.looks = Looks([range(topology.world_size)] if is_seen else [], config.straggler_ratio)
        self.begun: int | None = None
        self._looked = time.monotonic()

    def is_due(self) -> bool:
        """Whether it is time for another look; rank 0's word counts."""
        seconds = self.config.straggler_seconds
        is_due = self.looks.likes and seconds and time.monotonic() - self._looked > seconds
        return bool(is_due) and self.life.world.rank == 0

    def look(self, step: int, verdict: Verdict) -> None:
        """Collective: after each step; looks at it where its vote says so.

        Raises:
            SlowRankError: this rank is to be replaced; the others go on, and are called off.
        """
        begin, self.begun = self.begun, verdict.moment
        if not verdict.is_look or begin is None:
            return
        self._looked = time.monotonic()
        own = own_seconds(self.exchange, begin=begin, end=verdict.moment)
        if own is None:
            return
        slow, new = self.looks.add(own, (verdict.moment - begin) / 1e9)
        if new:
            self._tell(step, [one for one in slow if one.rank in new])
        self._answer(step, slow)

    def _tell(self, step: int, slow: Sequence[Straggler]) -> None:
        """Collective: which of them runs where is known to each itself."""
        hosts = self.exchange.gather_bytes(socket.gethostname().encode())
        for one in slow:
            host = hosts[one.rank].decode()
            self.reporter.event(
                "straggler",
                step,
                rank=one.rank,
                host=host,
                ratio=round(one.ratio, 3),
                own_seconds=round(one.own_seconds, 6),
                median_seconds=round(one.median_seconds, 6),
            )
            self.reporter.say(f"step {step}: rank {one.rank} on {host} {one}")

    def _answer(self, step: int, slow: Sequence[Straggler]) -> None:
        bound = self.config.straggler_bound
        own = next((one for one in slow if one.rank == self.life.world.rank), None)
        if own is None or not 0 < bound < own.least_ratio or self.life.line is None:
            return
        if self._may_be_replaced():
            raise SlowRankError(
                f"recovery.straggler_bound: found that rank {own.rank} {own} (step {step}), needed "
                f"less than {bound:g} times, so another process takes its place; should it stay "
                "slow, look at its machine"
            )

    def _may_be_replaced(self) -> bool:
        """Whether this rank has not been for a while; notes that it is now."""
        key, now = f"replaced/{self.life.world.rank}", time.time()
        store = self.life.store
        if store.check([key]) and now - float(store.get(key)) < _WINDOW_SECONDS:
            return False
        store.set(key, repr(now))
        return True
