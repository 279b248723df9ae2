"""Everything that an order is a function of, as one frozen value with a digest."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Protocol

import xxhash

ALGORITHM_VERSION = 1
# Keeps every product of a position and a share inside 64 bits, up to 10^12 samples.
MOST_SHARES = 1_000_000


class Recipe(Protocol):
    """What a cursor must know of any order, of one source or of a mixture."""

    @property
    def algorithm_version(self) -> int: ...

    def digest(self) -> str: ...

    def facts(self) -> dict[str, Any]:
        """The recipe as JSON, for a person to read and for telling what differs."""
        ...


def recipe_digest(facts: dict[str, Any]) -> str:
    """xxh3-128 over all fields, as 32 hexadecimal digits."""
    fields = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return xxhash.xxh3_128_hexdigest(fields.encode())


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OrderRecipe:
    """Everything the order is a function of; `fit_recipe` chooses sizes that suit a source."""

    num_samples: int
    block: int
    """Consecutive samples that stay together, as the unit of reading."""
    lanes: int
    """Strands that are interleaved; a block keeps its lane in every epoch."""
    window: int
    """Blocks of a lane that are shuffled together."""
    seed: int
    source: str = ""
    """Digest of the records, so that a cursor never goes on over other data."""
    algorithm_version: int = ALGORITHM_VERSION

    def __post_init__(self) -> None:
        for name in ("num_samples", "block", "lanes", "window"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"order recipe {name}: found {getattr(self, name)}, needed 1 or more; "
                    "give a source that holds samples and sizes of at least 1"
                )
        if self.algorithm_version != ALGORITHM_VERSION:
            raise ValueError(
                f"order recipe algorithm_version: found {self.algorithm_version}, needed "
                f"{ALGORITHM_VERSION}; use a keepstep release that knows that version"
            )

    def digest(self) -> str:
        return recipe_digest(self.facts())

    def facts(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """The shares of a mixture's sources from one position on."""

    start: int
    """Position, in samples, from which on they hold."""
    shares: tuple[int, ...]
    """Whole numbers, one a source; a source gets its share divided by their sum."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MixtureRecipe:
    """Everything that the order of a mixture is a function of."""

    sources: tuple[OrderRecipe, ...]
    names: tuple[str, ...]
    weights: tuple[Weights, ...]
    """The first from position 0, then ascending; all with one share a source."""
    block: int
    """Positions inside which the sources are shuffled into one another; each block keeps every
    source within one sample of its exact share."""
    seed: int
    algorithm_version: int = ALGORITHM_VERSION

    def __post_init__(self) -> None:
        starts = [one.start for one in self.weights]
        if not starts or starts[0] != 0 or sorted(set(starts)) != starts:
            raise ValueError(
                f"mixture weights: found positions {starts}, needed 0 and then ascending ones; "
                "give the weights in order, the first from position 0"
            )
        for one in self.weights:
            if len(one.shares) != len(self.sources) or min(one.shares) < 0 or not any(one.shares):
                raise ValueError(
                    f"mixture weights from position {one.start}: found {list(one.shares)}, needed "
                    f"{len(self.sources)} numbers of 0 or more that are not all 0; give one a "
                    "source"
                )
            if sum(one.shares) > MOST_SHARES:
                raise ValueError(
                    f"mixture weights from position {one.start}: found {list(one.shares)}, whose "
                    f"sum is {sum(one.shares)}, needed a sum of {MOST_SHARES} at most; round them"
                )
            least = min(share for share in one.shares if share)
            if self.block * least < sum(one.shares):
                raise ValueError(
                    f"mixture block: found {self.block} positions for shares {list(one.shares)}, "
                    "needed one in which every source appears; use `mix` to choose it"
                )
        if self.algorithm_version != ALGORITHM_VERSION:
            raise ValueError(
                f"mixture algorithm_version: found {self.algorithm_version}, needed "
                f"{ALGORITHM_VERSION}; use a keepstep release that knows that version"
            )

    @property
    def source(self) -> str:
        """Digests of all sources' records."""
        return " ".join(one.source for one in self.sources)

    def digest(self) -> str:
        return recipe_digest(self.facts())

    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return facts


def mix(
    sources: Mapping[str, OrderRecipe],
    weights: Sequence[tuple[int, Sequence[float]]],
    *,
    seed: int = 0,
) -> MixtureRecipe:
    """The recipe of a mixture of named sources.

    Args:
        weights: (position, one weight a source) pairs; the weights hold from that position on.

    Raises:
        ValueError: no weights from position 0, or weights that are not usable shares.
    """
    shares = [Weights(start=start, shares=whole_shares(some)) for start, some in weights]
    rarest = [
        sum(one.shares) // min(share for share in one.shares if share)
        for one in shares
        if any(one.shares)
    ]
    block = 1 << max(8, 2 * max(rarest, default=1)).bit_length()
    return MixtureRecipe(
        sources=tuple(sources.values()),
        names=tuple(sources),
        weights=tuple(shares),
        block=block,
        seed=seed,
    )


def whole_shares(weights: Sequence[float]) -> tuple[int, ...]:
    """The smallest whole numbers in the proportions of decimal `weights`: 0.3, 0.7 -> 3, 7."""
    exact = [Fraction(str(weight)) for weight in weights]
    scale = math.lcm(*(one.denominator for one in exact))
    numbers = [int(one * scale) for one in exact]
    divisor = math.gcd(*numbers) or 1
    return tuple(number // divisor for number in numbers)
