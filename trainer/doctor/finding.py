"""One thing that was looked at: what was found, what a run needs, and what to do about it."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

GIB, MIB = 2**30, 2**20


class Level(StrEnum):
    """How bad a finding is."""

    ok = "ok"
    warning = "warning"
    """A run works, but slower or with less safety than it could."""
    problem = "problem"
    """A run fails, or its numbers cannot be trusted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A sentence in four parts, and how bad it is."""

    area: str
    subject: str
    level: Level
    found: str
    needed: str = ""
    remedy: str = ""
    node: int = 0
    """Which node it is of; facts of all ranks together are said by the first."""


def judged(
    area: str, subject: str, found: str, *, worst: Level | None, needed: str = "", remedy: str = ""
) -> Finding:
    """A finding of level `worst`; where that is None all is well, and no remedy is kept."""
    if worst is None:
        return Finding(area=area, subject=subject, level=Level.ok, found=found, needed=needed)
    return Finding(
        area=area, subject=subject, level=worst, found=found, needed=needed, remedy=remedy
    )


def is_fine(findings: Iterable[Finding]) -> bool:
    """Whether none is a problem."""
    return all(one.level is not Level.problem for one in findings)
