"""Rules by which documents are left out, each one number of a text and a bound on it.

The rules and bounds are those of MassiveText: Rae et al., "Scaling Language Models: Methods,
Analysis & Insights from Training Gopher", arXiv 2112.11446, appendix A.1 and table A1, without
the one on English stop words. Words are what blanks separate, so that the rules on words suit
scripts with blanks. A repeat is an occurrence after the first.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np

from .ngrams import is_repeat, ngram_hashes, word_hashes

_ELLIPSES = ("...", "\u2026")
_BULLETS = ("-", "*", "\u2022", "\u2023", "\u25cf", "\u25e6", "\u2043")
Bound = tuple[str, float]


@final
class Measured:
    """A text's words, lines and paragraphs, each taken once."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def words(self) -> list[str]:
        return self.text.split()

    @cached_property
    def lines(self) -> list[str]:
        return [line.strip() for line in self.text.split("\n") if line.strip()]

    @cached_property
    def paragraphs(self) -> list[str]:
        return [part.strip() for part in self.text.split("\n\n") if part.strip()]

    @cached_property
    def lengths(self) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
        return np.fromiter(map(len, self.words), np.int64, len(self.words))

    @cached_property
    def hashes(self) -> "np.ndarray[tuple[int], np.dtype[np.uint64]]":
        return word_hashes(self.words)


@dataclass(frozen=True, slots=True)
class Rule:
    """A document is dropped where `measure` is below `bound`, or above it if not `is_least`."""

    bound: float
    measure: Callable[[Measured], float]
    profile: str
    is_least: bool = False

    def drops(self, measured: Measured, bound: float) -> bool:
        found = self.measure(measured)
        return found < bound if self.is_least else found > bound


def _share(count: float, of: float) -> float:
    return count / of if of else 0.0


def _symbols(m: Measured) -> float:
    """The larger of the shares of hash signs and of ellipses, per word."""
    ellipses = sum(m.text.count(mark) for mark in _ELLIPSES)
    return _share(max(m.text.count("#"), ellipses), len(m.words))


def _repeated(items: list[str]) -> float:
    return _share(len(items) - len(set(items)), len(items))


def _repeated_characters(items: list[str]) -> float:
    unique = sum(map(len, set(items)))
    return 1.0 - _share(unique, sum(map(len, items))) if items else 0.0


def _top_ngram(m: Measured, n: int) -> float:
    """The share of characters in the occurrences of the n-gram found most, of the longest such."""
    hashes = ngram_hashes(m.hashes, n)
    if not len(hashes):
        return 0.0
    _, first, counts = np.unique(hashes, return_index=True, return_counts=True)
    most = int(counts.max())
    if most < 2:
        return 0.0
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(m.lengths)])
    starts = first[counts == most]
    return min(1.0, float(most * (ends[starts + n] - ends[starts]).max() / ends[-1]))


def _repeated_ngrams(m: Measured, n: int) -> float:
    """The share of characters in repeats of n-grams, each character counted once."""
    hashes = ngram_hashes(m.hashes, n)
    if not len(hashes):
        return 0.0
    starts = np.flatnonzero(is_repeat(hashes))
    edges = np.zeros(len(m.words) + 1, dtype=np.int64)
    np.add.at(edges, starts, 1)
    np.add.at(edges, starts + n, -1)
    is_inside = np.cumsum(edges[:-1]) > 0
    return float(m.lengths[is_inside].sum() / m.lengths.sum())


_QUALITY = {
    "min_words": Rule(50, lambda m: len(m.words), "quality", is_least=True),
    "max_words": Rule(100_000, lambda m: len(m.words), "quality"),
    "min_mean_word_length": Rule(
        3, lambda m: _share(int(m.lengths.sum()), len(m.words)), "quality", is_least=True
    ),
    "max_mean_word_length": Rule(
        10, lambda m: _share(int(m.lengths.sum()), len(m.words)), "quality"
    ),
    "max_symbol_word_ratio": Rule(0.1, _symbols, "quality"),
    "max_bullet_lines": Rule(
        0.9, lambda m: _share(sum(x.startswith(_BULLETS) for x in m.lines), len(m.lines)), "quality"
    ),
    "max_ellipsis_lines": Rule(
        0.3, lambda m: _share(sum(x.endswith(_ELLIPSES) for x in m.lines), len(m.lines)), "quality"
    ),
    "min_alphabetic_words": Rule(
        0.8,
        lambda m: _share(sum(any(map(str.isalpha, x)) for x in m.words), len(m.words)),
        "quality",
        is_least=True,
    ),
}
_REPETITION = {
    "max_duplicate_lines": Rule(0.3, lambda m: _repeated(m.lines), "repetition"),
    "max_duplicate_paragraphs": Rule(0.3, lambda m: _repeated(m.paragraphs), "repetition"),
    "max_duplicate_line_characters": Rule(
        0.2, lambda m: _repeated_characters(m.lines), "repetition"
    ),
    "max_duplicate_paragraph_characters": Rule(
        0.2, lambda m: _repeated_characters(m.paragraphs), "repetition"
    ),
    **{
        f"max_top_{n}_gram": Rule(bound, lambda m, n=n: _top_ngram(m, n), "repetition")  # type: ignore[misc]
        for n, bound in ((2, 0.20), (3, 0.18), (4, 0.16))
    },
    **{
        f"max_duplicate_{n}_grams": Rule(bound, lambda m, n=n: _repeated_ngrams(m, n), "repetition")  # type: ignore[misc]
        for n, bound in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))
    },
}
RULES: dict[str, Rule] = {**_QUALITY, **_REPETITION}
"""In the order in which they are asked; the first that drops a document is counted for it."""
_PROFILES = {
    "gopher": list(RULES),
    "gopher_quality": list(_QUALITY),
    "gopher_repetition": list(_REPETITION),
}


def parse_filters(filters: Iterable[str]) -> list[Bound]:
    """Rules and their bounds, in the order of RULES, of names, profiles and "name=bound".

    Raises:
        ValueError: a name that is none, or a bound that is no number.
    """
    bounds: dict[str, float] = {}
    for item in filters:
        name, mark, number = item.partition("=")
        if name in _PROFILES and not mark:
            bounds |= {rule: RULES[rule].bound for rule in _PROFILES[name]}
            continue
        if name not in RULES:
            raise ValueError(
                f"data.prepare.filters: found {item!r}, needed one of {', '.join(_PROFILES)} or a "
                f"rule ({', '.join(RULES)}); correct it or leave it out"
            )
        try:
            bounds[name] = float(number) if mark else RULES[name].bound
        except ValueError as error:
            raise ValueError(
                f"data.prepare.filters: found {item!r}, needed a number behind {name}=; write "
                f"{name}={RULES[name].bound:g}"
            ) from error
    return [(name, bounds[name]) for name in RULES if name in bounds]


def dropped_by(text: str, bounds: list[Bound]) -> int | None:
    """The place in `bounds` of the first rule that drops the text; None where all let it pass."""
    if not bounds:
        return None
    measured = Measured(text)
    drops = (
        place for place, (name, bound) in enumerate(bounds) if RULES[name].drops(measured, bound)
    )
    return next(drops, None)
