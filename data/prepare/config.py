"""What a user sets about preparing text: cleaning, duplicates, bad input, parallel work."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from .text.filters import parse_filters

Choice = TypeVar("Choice", bound=StrEnum)


class Normalise(StrEnum):
    """What is done to every text before anything else looks at it."""

    none = "none"
    """Nothing: the text as it is decoded."""
    standard = "standard"
    """Unicode NFC, line ends as \\n, no control characters but tab and line end."""
    folded = "folded"
    """The same, with runs of blanks as one, no blanks at line ends, one empty line at most."""


class Deduplicate(StrEnum):
    """Which documents count as the same; the first of them is kept."""

    none = "none"
    exact = "exact"
    """Those of equal normalised text."""
    near = "near"
    """Also those that share most of their word n-grams, by MinHash."""


class OnBad(StrEnum):
    """What is done about a record that cannot be read."""

    refuse = "refuse"
    skip = "skip"
    """It is left out, counted and named in the manifest, up to `max_bad` of them."""


@dataclass(kw_only=True, slots=True)
class PrepareConfig:
    """Cleaning, deduplication, bad input, and how the work is shared out."""

    normalise: Normalise = Normalise.standard
    """none, standard (Unicode NFC, line ends, control characters) or folded (blanks too)."""

    filters: list[str] = field(default_factory=list)
    """Rules that documents must pass, or profiles of them: "gopher", "gopher_quality",
    "gopher_repetition", "min_words", "min_words=20". Later ones win. Empty: no rule."""

    deduplicate: Deduplicate = Deduplicate.exact
    """none, exact, or near (which takes in exact and needs datasketch)."""

    near_threshold: float = 0.8
    """Share of word n-grams (Jaccard) from which two documents are near-duplicates; below 1."""

    near_permutations: int = 128
    """Values of a MinHash signature, 4 bytes each; at least 16."""

    near_words: int = 5
    """Words of an n-gram that near-duplicates are compared by; at least 1."""

    on_bad: OnBad = OnBad.refuse
    """refuse or skip: a broken JSON line, a record without text, a file that is not UTF-8."""

    max_bad: int = 100
    """Bad records that `skip` may leave out of the whole; more are refused."""

    workers: int = 0
    """Processes that share the work on this machine. 0: one a core, or this process alone where
    there is little text. The result does not depend on it."""

    part_bytes: int = 16 * 2**20
    """Input that is worked on at once and, once done, is never done again; at least 1024."""

    shard_bytes: int = 16 * 2**20
    """Bytes of tokens in a shard; at least 1024."""

    def __post_init__(self) -> None:
        self.normalise = _choice("normalise", self.normalise, Normalise)
        self.deduplicate = _choice("deduplicate", self.deduplicate, Deduplicate)
        self.on_bad = _choice("on_bad", self.on_bad, OnBad)
        parse_filters(self.filters)
        for name, least in (
            ("near_permutations", 16),
            ("near_words", 1),
            ("max_bad", 0),
            ("workers", 0),
            ("part_bytes", 1024),
            ("shard_bytes", 1024),
        ):
            found = getattr(self, name)
            if found < least:
                raise ValueError(
                    f"data.prepare.{name}: found {found}, needed {least} or more; set "
                    f"data.prepare.{name}={least} or leave it out"
                )
        if not 0.0 < self.near_threshold < 1.0:
            raise ValueError(
                f"data.prepare.near_threshold: found {self.near_threshold}, needed a number "
                "between 0 and 1, both excluded; set data.prepare.near_threshold=0.8"
            )


def _choice(name: str, found: str, kind: type[Choice]) -> Choice:
    """The member that a word stands for, so that it may be given as a plain string too."""
    try:
        return kind(found)
    except ValueError as error:
        raise ValueError(
            f"data.prepare.{name}: found {found!r}, needed one of {', '.join(kind)}; set "
            f"data.prepare.{name}={next(iter(kind))} or leave it out"
        ) from error
