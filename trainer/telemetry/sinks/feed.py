"""One sink's thread: what is new in the run's files goes to the sink, from where it was.

A sink that fails is closed, said once, and tried again with back-off; the files are the queue, so
nothing is lost and nothing grows in memory.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol, final

from .place import Place
from .sink import Ending, Line, RunFacts, Sink
from .tail import read_from

_FIRST_BACKOFF, _LONGEST_BACKOFF = 1.0, 60.0


class Tell(Protocol):
    """Says that a sink has failed (`reason`), or that it is back (None)."""

    def __call__(self, name: str, reason: str | None) -> None: ...


@final
class Feed(threading.Thread):
    """Daemon: whoever ends the process need not wait for a sink that hangs.

    Args:
        make: imports and makes the sink.
        tell: called at the first of failures in a row, and once it works again.
        every_seconds: between looks at the files.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], Sink],
        run: RunFacts,
        *,
        tell: Tell,
        every_seconds: float,
    ) -> None:
        super().__init__(name=f"keepstep-sink-{name}", daemon=True)
        self.sink_name = name
        self._make, self._facts, self._tell = make, run, tell
        self._every_seconds = every_seconds
        self._place = Place()
        self._sink: Sink | None = None
        self._wake = threading.Event()
        self._ending: Ending | None = None
        self._failures = 0

    def end(self, ending: Ending) -> None:
        """The files get no more lines: delivers what is left, then the thread ends."""
        self._ending = ending
        self._wake.set()

    def run(self) -> None:
        while True:
            pause = self._every_seconds
            try:
                if self._turn():
                    return
            except Exception as error:  # whatever a foreign library raises
                pause = self._note(error)
            if self._wake.wait(pause):
                self._wake.clear()
                if self._failures:
                    time.sleep(min(pause, _FIRST_BACKOFF))

    def _turn(self) -> bool:
        """One look; whether all is over and delivered."""
        ending = self._ending  # before the look: what came before it is seen
        sink = self._opened()
        while self._carry(sink):
            pass
        if self._failures:
            self._failures = 0
            self._tell(self.sink_name, None)
        if ending is None:
            return False
        sink.finish(ending)
        self._keep()
        sink.close()
        return True

    def _opened(self) -> Sink:
        if self._sink is None:
            place = Place.read(self._facts.folder, self.sink_name)
            sink = self._make()
            if sink.replays:
                place = Place(memory=place.memory)
            sink.open(self._facts, place.memory, place.step)
            self._sink, self._place = sink, place
            self._keep()
        return self._sink

    def _carry(self, sink: Sink) -> bool:
        """Hands on the next lines; whether there were any."""
        place, folder = self._place, self._facts.folder
        steps = read_from(folder / "metrics.jsonl", place.metrics)
        things = read_from(folder / "events.jsonl", place.events)
        if (steps.offset, things.offset) == (place.metrics, place.events):
            return False
        if things.lines:
            sink.events(things.lines)
        place.events = things.offset
        self._keep()  # before the steps, which may fail
        if fresh := list(_once(steps.lines, place.step)):
            sink.metrics(fresh)
            place.step = int(fresh[-1]["step"])
        if steps.offset != place.metrics:
            place.metrics = steps.offset
            self._keep()
        return True

    def _keep(self) -> None:
        self._place.keep(self._facts.folder, self.sink_name)

    def _note(self, error: Exception) -> float:
        """Closes the sink; the seconds to wait."""
        sink, self._sink = self._sink, None
        if sink is not None:
            with contextlib.suppress(Exception):
                sink.close()
        self._failures += 1
        if self._failures == 1:
            first = next(iter(str(error).splitlines()), "")
            self._tell(self.sink_name, f"{type(error).__name__}: {first}"[:500])
        return min(_LONGEST_BACKOFF, _FIRST_BACKOFF * 2.0 ** min(self._failures - 1, 6))


def _once(lines: Iterable[Line], last: int) -> Iterable[Line]:
    """Each step's first line: one that was redone after a failure is known already."""
    for line in lines:
        step: Any = line.get("step")
        if isinstance(step, int) and step > last:
            last = step
            yield line
