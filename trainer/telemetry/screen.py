"""The live display of a terminal: what happened scrolls by, below it how the run stands.

After each frame the cursor waits, visible, where the frame begins: whatever anybody else writes
begins there too and stays, and if this process is killed, nothing is left to mend.
"""

import contextlib
import select
import threading
import time
from typing import TextIO, final

from rich.console import Console
from rich.text import Text

from .progress import Shown, duration

_FRAME_SECONDS = 0.2
_BAR_WIDTH = 36
_CLEAR, _UP = "\r\x1b[J", "\x1b[{}A"
_STYLES = {
    "recovered": "green",
    "finished:": "bold green",
    "saved": "blue",
    "resumed": "cyan",
    "rank": "bold red",
    "damaged,": "red",
    "waiting": "yellow",
    "asked": "yellow",
    "keepstep:": "bold red",
}


def can_draw(stream: TextIO) -> bool:
    """Whether the terminal behind it moves its cursor."""
    return not Console(file=stream, force_terminal=True).is_dumb_terminal


@final
class Screen:
    """For the threads of one process; draws five times a second at most, and starts none itself."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._console = Console(file=stream, force_terminal=True, highlight=False)
        self._lock = threading.Lock()
        self._shown: Shown | None = None
        self._drawn_at = float("-inf")
        self._begun = time.monotonic()
        self._recoveries = 0

    def show(self, shown: Shown, *, is_last: bool = False) -> None:
        """The state of now. The last one of a run stays; others are left out while another thread
        writes, or waits for the terminal."""
        if not self._lock.acquire(blocking=is_last):
            return
        try:
            self._shown = None if is_last else shown
            now = time.monotonic()
            if is_last:
                self._write(_CLEAR + self._rendered(self._frame(shown)))
            elif now - self._drawn_at >= _FRAME_SECONDS and self._takes():
                self._drawn_at = now
                self._write(_CLEAR + self._below())
        finally:
            self._lock.release()

    def say(self, words: str) -> None:
        """A line above the display, which stays."""
        with self._lock:
            self._recoveries += words.startswith("recovered")
            self._write(_CLEAR + self._rendered(_told(words), wraps=True) + self._below())

    def close(self) -> None:
        """Takes the display off; safe twice."""
        with self._lock:
            if self._shown is not None:
                self._shown = None
                self._write(_CLEAR)

    def _below(self) -> str:
        """The frame, and the way back to its begin; nothing before the first step."""
        if self._shown is None:
            return ""
        text = self._rendered(self._frame(self._shown)).rstrip("\n")
        return f"{text}\r{_UP.format(text.count(chr(10)))}"

    def _frame(self, shown: Shown) -> Text:
        """One text, which costs half of what a table would."""
        made = Text(no_wrap=True, overflow="crop")
        done = int(_BAR_WIDTH * min(1.0, shown.step / max(1, shown.steps)))
        made.append("━" * done, style="green").append("━" * (_BAR_WIDTH - done), style="dim")
        _add(
            made.append("  "),
            ("step", f"{shown.step:,}/{shown.steps:,}"),
            ("left", duration(shown.left_seconds)),
            ("up", duration(time.monotonic() - self._begun)),
        )
        _add(
            made.append("\n"),
            ("loss", f"{shown.loss:.4f}"),
            ("norm", f"{shown.grad_norm:.2f}"),
            ("lr", f"{shown.lr:.2e}"),
            ("recoveries", str(self._recoveries) if self._recoveries else None),
        )
        _add(
            made.append("\n"),
            ("tokens/s", f"{shown.tokens_per_second:,.0f}"),
            ("mfu", _percent(shown.mfu)),
            ("data stall", _percent(shown.stall)),
            ("goodput", _percent(shown.goodput)),
        )
        return made

    def _rendered(self, what: Text, *, wraps: bool = False) -> str:
        with self._console.capture() as captured:
            self._console.print(what, soft_wrap=wraps, no_wrap=not wraps, crop=not wraps)
        return captured.get()

    def _takes(self) -> bool:
        """Whether the terminal takes more: one that was stopped by Ctrl-S must not hold us up."""
        with contextlib.suppress(OSError, ValueError):
            return bool(select.select([], [self._stream.fileno()], [], 0)[1])
        return True  # no file, as in a test

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # nobody looks on any more
            self._stream.write(text)
            self._stream.flush()


def _add(made: Text, *pairs: tuple[str, str | None]) -> None:
    """Names and values, but for what is not known."""
    gap = ""
    for name, value in pairs:
        if value is not None:
            made.append(f"{gap}{name} ", style="dim").append(value, style="bold")
            gap = "   "


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{value:.1%}"


def _told(words: str) -> Text:
    """With the time of day, but for what belongs to the line before."""
    style = _STYLES.get(words.split(" ", 1)[0], "")
    if words.startswith(" "):
        return Text(words)
    return Text.assemble((time.strftime("%H:%M:%S "), "dim"), (words, style))
