"""The bad samples that all ranks leave out: agreed on at each save, told once. Reads no data."""

import json
from collections.abc import Callable, Sequence
from typing import Any, final

from ..data import BadRecord, Skips
from ..parallel import Exchange


@final
class Skipped:
    """What ranks found bad, of each source of the data."""

    def __init__(self, skips: Sequence[Skips], exchange: Exchange) -> None:
        self._skips = skips
        self._exchange = exchange
        self._told: set[tuple[int, int]] = set()

    def agree(self) -> list[dict[str, Any]]:
        """Collective: every rank then leaves out what any has found; the state to save."""
        if not self._skips:
            return []
        own = json.dumps([one.state_dict() for one in self._skips]).encode()
        for states in map(json.loads, self._exchange.gather_bytes(own)):
            self.load(states)
        return self.state_dict()

    def state_dict(self) -> list[dict[str, Any]]:
        """What this rank leaves out, which may be more than others know of yet."""
        return [one.state_dict() for one in self._skips]

    def load(self, states: Sequence[dict[str, Any]]) -> None:
        """Takes over what was saved, or what another rank found."""
        for skips, state in zip(self._skips, states, strict=True):
            skips.merge([state])

    def tell(self, say: Callable[[BadRecord], None]) -> None:
        """Calls `say` for each that was not told yet."""
        for source, skips in enumerate(self._skips):
            if len(skips) == sum(place == source for place, _ in self._told):
                continue
            for bad in skips.found:
                if (source, bad.id) not in self._told:
                    self._told.add((source, bad.id))
                    say(bad)
