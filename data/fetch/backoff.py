"""How long to wait before asking again. No clock."""

from collections.abc import Callable


def next_wait(previous: float, *, least: float, most: float, uniform: Callable[[], float]) -> float:
    """Seconds between `least` and three times the `previous` wait, at most `most`.

    Decorrelated jitter (Brooker, Exponential Backoff and Jitter, 2015): waits grow, and those who
    failed together do not come back together.

    Args:
        previous: the wait before this one; 0 at first.
        uniform: a number in [0, 1).
    """
    top = max(least, 3.0 * previous)
    return min(most, least + uniform() * (top - least)) if previous else least * (0.5 + uniform())
