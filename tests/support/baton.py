"""Many threads of which one runs at a time: whose turn it is, a chooser says, so that a schedule
can be drawn, found again, and made smaller."""

import threading
from collections.abc import Callable, Sequence
from typing import final


class Crash(BaseException):
    """What a thread that is to die meets at its next pause."""


@final
class Baton:
    """Runs bodies to their ends, switching where they pause.

    Args:
        choose: (names of those that can go on) -> the one that does.
    """

    def __init__(self, choose: Callable[[Sequence[int]], int]) -> None:
        self._choose = choose
        self._turn = threading.Condition()
        self._running: int | None = None
        self._alive: set[int] = set()
        self._doomed: set[int] = set()
        self._errors: list[BaseException] = []

    def doom(self, name: int) -> None:
        """That one dies at its next pause."""
        self._doomed.add(name)

    def pause(self, name: int) -> None:
        """Called by a body: lets others go on."""
        with self._turn:
            self._running = None
            self._turn.notify_all()
            self._turn.wait_for(lambda: self._running == name)
        if name in self._doomed:
            raise Crash

    def run(self, bodies: dict[int, Callable[[], None]], *, most_turns: int) -> None:
        """Until all have ended.

        Raises:
            AssertionError: they have not within so many turns.
            BaseException: what a body raised first.
        """
        threads = [
            threading.Thread(target=self._live, args=one, daemon=True) for one in bodies.items()
        ]
        self._alive = set(bodies)
        for thread in threads:
            thread.start()
        turns = 0
        while self._alive and not self._errors:
            turns += 1
            if turns > most_turns:
                self._errors.append(AssertionError(f"not over after {most_turns} turns"))
                break
            with self._turn:
                self._running = self._choose(sorted(self._alive))
                self._turn.notify_all()
                self._turn.wait_for(lambda: self._running is None)
        self._end(threads)
        if self._errors:
            raise self._errors[0]

    def _end(self, threads: Sequence[threading.Thread]) -> None:
        self._doomed |= self._alive
        while self._alive:
            with self._turn:
                self._running = min(self._alive)
                self._turn.notify_all()
                self._turn.wait_for(lambda: self._running is None)
        for thread in threads:
            thread.join()

    def _live(self, name: int, body: Callable[[], None]) -> None:
        try:
            self.pause_first(name)
            body()
        except Crash:
            pass
        except BaseException as error:
            self._errors.append(error)
        finally:
            with self._turn:
                self._alive.discard(name)
                self._running = None
                self._turn.notify_all()

    def pause_first(self, name: int) -> None:
        """As `pause`, of one that has not run yet."""
        with self._turn:
            self._turn.wait_for(lambda: self._running == name)
        if name in self._doomed:
            raise Crash
