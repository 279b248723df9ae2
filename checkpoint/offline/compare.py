"""What differs between two checkpoints, tensor by tensor."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .items import Item, Progress


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """How far a tensor moved: the largest absolute change of an element, and the largest relative
    one, of elements that are not 0 before; both inf where one is no number and the other is."""

    name: str
    absolute: float
    relative: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """`kinds` holds one `name: dtype[shape] -> dtype[shape]` for each other dtype or shape;
    `changes` those of other values, the largest relative change first."""

    only_first: list[str]
    only_second: list[str]
    kinds: list[str]
    changes: list[Change]
    num_equal: int

    @property
    def is_equal(self) -> bool:
        """Whether all is the same, bit for bit."""
        return not (self.only_first or self.only_second or self.kinds or self.changes)


def compare(
    first: Sequence[Item], second: Sequence[Item], *, progress: Progress | None = None
) -> Comparison:
    """Compares the tensors of equal names. Holds two at a time."""
    one, other = ({item.name: item for item in items} for items in (first, second))
    kinds: list[str] = []
    changes: list[Change] = []
    both = sorted(one.keys() & other.keys())
    done, total = 0, sum(one[name].num_bytes for name in both)
    for name in both:
        before, after = one[name], other[name]
        if (before.dtype, before.shape) != (after.dtype, after.shape):
            kinds.append(f"{name}: {_kind(before)} -> {_kind(after)}")
        elif (change := _change(name, before.read(), after.read())) is not None:
            changes.append(change)
        done += before.num_bytes
        if progress is not None:
            progress(done, total)
    return Comparison(
        only_first=sorted(one.keys() - other.keys()),
        only_second=sorted(other.keys() - one.keys()),
        kinds=kinds,
        changes=sorted(changes, key=lambda one: (-one.relative, -one.absolute, one.name)),
        num_equal=len(both) - len(kinds) - len(changes),
    )


def _kind(item: Item) -> str:
    return f"{item.dtype}{list(item.shape)}"


def _change(name: str, before: torch.Tensor, after: torch.Tensor) -> Change | None:
    bits = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (before, after)]
    if torch.equal(*bits):
        return None
    wide = torch.complex128 if before.dtype.is_complex else torch.float64
    old, new = before.to(wide).reshape(-1), after.to(wide).reshape(-1)
    moved = (new - old).abs()
    # NaN beside NaN, and an infinity beside itself, have not moved.
    same = (old == new) | (old.isnan() & new.isnan())
    moved = torch.where(same, 0.0, moved.nan_to_num(nan=torch.inf, posinf=torch.inf))
    size = old.abs()
    counted = (size > 0) & size.isfinite()
    ratio = torch.where(counted, moved / size, torch.where(moved.isinf(), moved, 0.0))
    return Change(name=name, absolute=float(moved.max()), relative=float(ratio.max()))
