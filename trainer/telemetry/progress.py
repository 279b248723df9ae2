"""What a person is shown of a run that goes on: how it stands, and what has happened.

A training process on a terminal leaves the drawing to its guardian, which outlives it and has the
time; everywhere else plain lines are written.
"""

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TextIO, final

_FRAME_SECONDS = 0.2
SHOW, SAY = "show", "say"


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """How a run stands after a step."""

    step: int
    steps: int
    loss: float
    grad_norm: float
    lr: float
    tokens_per_second: float
    mfu: float | None
    stall: float
    """Share of the last steps' time in which they waited for data."""
    goodput: float | None
    left_seconds: float
    """Until the last step, at the pace of the last ones."""

    def line(self) -> str:
        """As plain words."""
        words = [
            f"step {self.step}/{self.steps}",
            f"loss {self.loss:.4f}",
            f"norm {self.grad_norm:.2f}",
            f"lr {self.lr:.2e}",
            f"{self.tokens_per_second:,.0f} tokens/s",
            *([f"mfu {self.mfu:.1%}"] if self.mfu is not None else []),
            *([f"data stall {self.stall:.1%}"] if self.stall >= 0.01 else []),
            *([f"goodput {self.goodput:.0%}"] if self.goodput is not None else []),
            f"left {duration(self.left_seconds)}",
        ]
        return "  ".join(words)


class Speaker(Protocol):
    """Where a run's words go."""

    def show(self, shown: Shown, *, is_last: bool = False) -> None:
        """The state of now, in place of the one before."""
        ...

    def say(self, words: str) -> None:
        """Something that happened, which stays."""
        ...

    def close(self) -> None:
        """Nothing more is shown; safe twice."""
        ...


@final
class Console:
    """Plain lines: of states at most one each `seconds`, and the last."""

    def __init__(self, stream: TextIO, *, seconds: float, enabled: bool) -> None:
        self.stream = stream
        self.seconds = seconds
        self.enabled = enabled
        self._last = float("-inf")

    def show(self, shown: Shown, *, is_last: bool = False) -> None:
        now = time.monotonic()
        if not self.enabled or (not is_last and now - self._last < self.seconds):
            return
        self._last = now
        self._write(shown.line())

    def say(self, words: str) -> None:
        if self.enabled:
            self._write(words)

    def close(self) -> None:
        """Nothing is left to take off."""

    def _write(self, words: str) -> None:
        self.stream.write(f"{words}\n")
        self.stream.flush()


class Teller(Protocol):
    """A training process's way to its guardian; see recovery.life."""

    def tell(self, kind: str, **fields: object) -> None: ...

    def offer(self, kind: str, **fields: object) -> None: ...


@final
class Relay:
    """Has the guardian show it: a message costs the loop some ten microseconds, five times a
    second at most."""

    def __init__(self, teller: Teller) -> None:
        self.teller = teller
        self._last = float("-inf")

    def show(self, shown: Shown, *, is_last: bool = False) -> None:
        now = time.monotonic()
        if is_last or now - self._last >= _FRAME_SECONDS:
            self._last = now
            self.teller.offer(SHOW, shown=dataclasses.asdict(shown), is_last=is_last)

    def say(self, words: str) -> None:
        self.teller.tell(SAY, words=words)

    def close(self) -> None:
        """The guardian knows when it is over."""


def hear(speaker: Speaker, message: Mapping[str, Any]) -> None:
    """The guardian's end of a relay."""
    if message["kind"] == SHOW:
        speaker.show(Shown(**message["shown"]), is_last=message["is_last"])
    elif message["kind"] == SAY:
        speaker.say(message["words"])


def duration(seconds: float) -> str:
    """Seconds as a person says them: 42s, 3m05s, 2h07m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def saved_words(step: int, count: int, seconds: float) -> str:
    """What is said of a save of `count` bytes."""
    size = next((f"{count / n:,.1f} {u}" for n, u in _SIZES if count >= n), f"{count} B")
    return f"saved step {step}: {size} in {seconds:.2f} s"


_SIZES = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
