"""The line between a guardian and one training process, as the training process holds it: orders
and calls come in, reports go out. It knows nothing of training.

The guardian holds the other end of the socket (see `worker`); when that closes, this process ends.
"""

import contextlib
import json
import logging
import os
import queue
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, final

from ...parallel import Links, pending
from .proof import can_be_freed

Order = dict[str, int | str | float]
"""What a worker is told: plain values, sent as JSON."""

MESSAGE_BYTES = 2**17
# What is shut while groups are still being made has to be shut again.
_AGAIN_SECONDS = 0.02
_logger = logging.getLogger(__name__)


@final
class Line:
    """One training process's end; `tell` is for any thread, the rest for the main one.

    Args:
        warm_up: what is done before the first order, where the guardian finds time for it.
    """

    def __init__(self, channel: socket.socket, warm_up: Callable[[], None] | None = None) -> None:
        self._channel = channel
        self._warm_up = warm_up or (lambda: None)
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._links: Links | None = None
        self._generation = self._called = 0
        self._attached = 0.0
        self._turn = threading.Condition()

    def next_order(self) -> Order | None:
        """Waits for the guardian's next order; None: it wants nothing more."""
        if self._thread is not None:
            return self._orders.get()
        while True:
            message = self._receive()
            if message is None or message["do"] == "begin":
                return message and message["order"]
            if message["do"] == "prove":
                self.tell("proved", holds=can_be_freed())
            elif message["do"] == "warm_up":
                try:
                    self._warm_up()
                except Exception as error:
                    _logger.warning("A spare is not warm, and slower when it is needed: %s", error)
            else:
                self._note_call(message)

    def listen(self) -> None:
        """Starts to listen beside the main thread, so that a call reaches it in a collective; for
        the rest of this process's life. Before it no thread of ours runs."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._listen, name="keepstep-line", daemon=True)
            self._thread.start()

    def attach(self, links: Links, generation: int) -> None:
        """What is shut when `generation` is called off; at once, where it has been."""
        with self._turn:
            self._links, self._generation = links, generation
            self._attached = time.time()
            is_over = self._called > generation
        if is_over:
            links.shut()

    def detach(self) -> None:
        """Nothing more is to be shut."""
        with self._turn:
            self._links = None

    def is_called(self, generation: int, *, seconds: float = 0.0) -> bool:
        """Whether `generation` is over, by the guardian's word; waits for it that long."""
        with self._turn:
            return self._turn.wait_for(lambda: self._called > generation, seconds)

    def tell(self, kind: str, **fields: object) -> None:
        """Sends one message, which arrives whole or not at all. A guardian that is gone is no
        matter: this process ends with it."""
        text = json.dumps({"kind": kind, **fields}).encode()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._channel.send(text)

    def offer(self, kind: str, **fields: object) -> None:
        """As `tell`, where it does not matter whether it arrives: a guardian that is busy is not
        waited for."""
        text = json.dumps({"kind": kind, **fields}).encode()
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            self._channel.send(text, socket.MSG_DONTWAIT)

    def _listen(self) -> None:
        while True:
            message = self._receive_while_shutting()
            if message is None:
                os.kill(os.getpid(), signal.SIGKILL)
            elif message["do"] == "begin":
                self._orders.put(message["order"])
            elif message["do"] == "locate":
                found = pending(since=self._attached)
                self.tell("located", waits=str(found) if found else "")
            else:
                self._note_call(message)

    def _receive_while_shutting(self) -> dict[str, Any] | None:
        while True:
            with self._turn:
                links = self._links if self._called > self._generation else None
            if links is None:
                return self._receive()
            links.shut()
            if select.select([self._channel], [], [], _AGAIN_SECONDS)[0]:
                return self._receive()

    def _note_call(self, message: dict[str, Any]) -> None:
        with self._turn:
            self._called = max(self._called, int(message["generation"]))
            self._turn.notify_all()

    def _receive(self) -> dict[str, Any] | None:
        try:
            data = self._channel.recv(MESSAGE_BYTES)
        except ConnectionResetError:
            return None
        return json.loads(data) if data else None
