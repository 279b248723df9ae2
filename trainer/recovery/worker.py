"""One training process as its guardian sees it: told, heard, called off, killed. It takes no
decision."""

import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable
from typing import Any, final

from .heartbeat import Beat, Page, Phase
from .line import MESSAGE_BYTES, Order
from .oom import oom_kills
from .verdict import Cause, Ended

Message = dict[str, Any]
# A step that takes so long is no hang, whatever the others took.
_SHORTEST_SECONDS = 30.0


@final
class Worker:
    """A process that the warm server forked. It waits for its first order, and after each
    generation that it survives for the next one.

    Args:
        hear: told what it says that is not for its guardian but for a person.
    """

    def __init__(
        self, page: Page, *, pid: int, channel: socket.socket, hear: Callable[[Message], None]
    ) -> None:
        self.page = page
        self.pid = pid
        self.channel = channel
        self.channel.setblocking(False)
        self._hear = hear
        self.exit_code: int | None = None
        self.generation = -1
        self.is_waiting = True
        """Whether it has nothing to do until the next order."""
        self.error: dict[str, str] = {}
        self.lost = ""
        """Why it cannot go on with its peers, by its own word; empty where it can."""
        self.waits: str | None = None
        """The collective that it is in, by its own word, asked for by `locate`; empty: none."""
        self.first_step: int | None = None
        self.proof: bool | None = None
        """What it found where it was asked to `prove`."""
        self.wishes: list[dict[str, Any]] = []
        """Saves that it asked for and nobody has taken up."""
        self._is_talking = True
        self._oom_kills = 0

    @property
    def is_over(self) -> bool:
        """Whether it has ended, or says that it will."""
        return self.exit_code is not None or bool(self.error)

    def begin(self, order: Order) -> None:
        """Has it take part in the order's generation."""
        self.generation = int(order["generation"])
        self.first_step, self.lost, self.is_waiting = None, "", False
        self.waits, self._oom_kills = None, oom_kills()
        self.page.reset()
        self._send({"do": "begin", "order": order})

    def prove(self) -> None:
        """Has one that waits for its first order try out whether a process can be thrown out of a
        collective here."""
        self._send({"do": "prove"})

    def warm_up(self) -> None:
        """Has one that waits for its first order do ahead what it can without one."""
        self._send({"do": "warm_up"})

    def takes_no_call(self) -> bool:
        """Whether it has found just now that no process can be thrown out; said once."""
        proof, self.proof = self.proof, None
        return proof is False

    def call_off(self) -> None:
        """Has it leave its generation, wherever it is in it, and wait for another order."""
        self._send({"do": "leave", "generation": self.generation + 1})

    def listen(self) -> None:
        """Takes in what it said; never blocks."""
        while self._is_talking:
            try:
                said = self.channel.recv(MESSAGE_BYTES)
            except BlockingIOError:
                return
            except ConnectionResetError:
                said = b""
            self._is_talking = bool(said)
            if said:
                self._take(json.loads(said))

    def _take(self, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if kind == "error":
            self.error = message
        elif kind == "lost":
            self.lost = message["reason"]
        elif kind == "left":
            self.is_waiting = True
        elif kind == "stepped":
            self.first_step = int(message["step"])
        elif kind == "located":
            self.waits = str(message["waits"])
        elif kind == "proved":
            self.proof = bool(message["holds"])
        elif kind == "save":
            self.wishes.append(message)
        else:
            self._hear(message)

    @property
    def speaker(self) -> list[socket.socket]:
        """What is readable when it has said something."""
        return [self.channel] if self._is_talking else []

    def late(self, hang_seconds: float, *, factor: float) -> Beat | None:
        """The last heartbeat, where it is older than a hang is allowed to be; 0 means never.
        Preparing data may take as long as it takes.

        Args:
            factor: how many times the longest of the last steps a step may take, though always
                half a minute; 0: as long as everything else.
        """
        beat = self.page.read()
        if beat.phase == Phase.step and factor and beat.longest_step:
            hang_seconds = min(hang_seconds, max(_SHORTEST_SECONDS, factor * beat.longest_step))
        is_late = 0 < hang_seconds < beat.age_seconds and beat.phase != Phase.prepare
        return beat if is_late and not self.is_over and not self.is_waiting else None

    def ended(self) -> Ended:
        """How it ended, or why it cannot go on; call it once that is known."""
        self.listen()
        cause, reason = Cause.killed, _signal_name(self.exit_code)
        if self.exit_code == -signal.SIGKILL and oom_kills() > self._oom_kills:
            reason += (
                ", as the kernel does where memory has run out: set train.microbatch_samples or "
                "data.held_bytes lower, or recovery.spare=false"
            )
        if self.error:
            cause, reason = Cause(self.error["cause"]), self.error["reason"]
        elif self.lost and self.exit_code is None:
            cause, reason = Cause.peer, self.lost
        return Ended(
            cause=cause,
            generation=self.generation,
            step=self.page.read().step,
            has_stepped=self.first_step is not None,
            reason=reason,
            trace=self.error.get("trace", ""),
        )

    def dump_stacks(self) -> None:
        """Has it write all its Python stacks to standard error, within a fraction of a second."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGUSR2)

    def locate(self) -> None:
        """Has it say in `waits` which collective it is in; one that holds its interpreter, or is
        stopped, says nothing."""
        self._send({"do": "locate"})

    def kill(self) -> None:
        """SIGKILL, and no way back; its exit code comes by way of the warm server."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Once it has ended."""
        self.listen()
        self.channel.close()

    def _send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # it has ended, which is heard elsewhere
            self.channel.send(json.dumps(message).encode())


def _signal_name(code: int | None) -> str:
    if code is not None and code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
