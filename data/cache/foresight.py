"""When extents are needed next, of the objects whose order somebody in this process knows."""

from collections.abc import Callable, Iterable, Sequence
from typing import final

import numpy as np

from .name import ExtentName
from .policy import Floats

NextUse = Callable[[Sequence[ExtentName]], Floats]
"""Extents -> position at which each is needed next, inf for never. Positions of all functions of a
cache are compared with one another. Called from threads that put; must not call the cache."""


@final
class Foresight:
    """Functions by object. Safe to call from many threads: a change replaces the whole table."""

    def __init__(self) -> None:
        self._functions: dict[str, NextUse] = {}
        self.version = 0

    def know(self, objects: Iterable[str], next_use: NextUse) -> None:
        self._functions = {**self._functions, **dict.fromkeys(objects, next_use)}
        self.version += 1

    def forget(self, objects: Iterable[str]) -> None:
        gone = set(objects)
        self._functions = {k: v for k, v in self._functions.items() if k not in gone}
        self.version += 1

    def uses(self, names: Sequence[ExtentName]) -> Floats:
        """(n,) next use of each extent; nan where its object is not known."""
        found = np.full(len(names), np.nan)
        places: dict[NextUse, list[int]] = {}
        functions = self._functions
        for place, name in enumerate(names):
            function = functions.get(name.object)
            if function is not None:
                places.setdefault(function, []).append(place)
        for function, known in places.items():
            found[known] = function([names[place] for place in known])
        return found
