"""Chooses how a process of a run speaks to a person."""

from typing import TextIO

from .progress import Console, Relay, Speaker, Teller


def speaker_of(
    stream: TextIO, *, seconds: float, enabled: bool, guardian: Teller | None = None
) -> Speaker:
    """Of one process of rank 0.

    Args:
        seconds: between lines where there is no display.
        guardian: who draws the display in its place; None where there is none, or this is it.
    """
    if not enabled or not stream.isatty():
        return Console(stream, seconds=seconds, enabled=enabled)
    if guardian is not None:
        return Relay(guardian)
    from .screen import Screen, can_draw  # what draws is imported where somebody looks on

    return Screen(stream) if can_draw(stream) else Console(stream, seconds=seconds, enabled=True)
