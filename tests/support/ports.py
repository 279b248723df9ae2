"""Ports for servers of tests."""

import random
from contextlib import closing
from socket import SO_REUSEADDR, SOL_SOCKET, socket

# Below those that the kernel gives to clients: one of these could come by the port before its
# server does, or while that is out, and be connected to itself.
_PORTS = range(20_000, 32_000)


def free_port() -> int:
    """One on loopback that nobody has."""
    for _ in range(200):
        port = random.SystemRandom().choice(_PORTS)
        if is_free(port):
            return port
    raise OSError(f"found no free port in {_PORTS}, needed one; end some servers")


def is_free(port: int) -> bool:
    """Whether nobody has that port of loopback now."""
    with closing(socket()) as probe:
        probe.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
