"""The weighted mean of checkpoints, tensor by tensor."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from ..dtypes import BY_NAME
from .items import Item


def average(sources: Sequence[Sequence[Item]], weights: Sequence[float]) -> list[Item]:
    """Items that read as the weighted mean of the sources' tensors of the same name.

    Floating-point tensors are averaged in float64 and rounded once; all others (counts, masks)
    are those of the last source. Weights need not add up to 1.

    Raises:
        ValueError: sources of different names, dtypes or shapes, or weights that do not fit them.
    """
    total = sum(weights)
    if not sources or len(weights) != len(sources) or min(weights) < 0 or not 0 < total < 1e300:
        raise ValueError(
            f"weights: found {list(weights)} for {len(sources)} checkpoints, needed one of 0 or "
            "more for each, not all 0; correct --weights"
        )
    first = {item.name: (item.dtype, item.shape) for item in sources[0]}
    for number, source in enumerate(sources[1:], 2):
        other = {item.name: (item.dtype, item.shape) for item in source}
        odd = sorted(
            name for name in first.keys() | other.keys() if first.get(name) != other.get(name)
        )
        if odd:
            raise ValueError(
                f"Checkpoint {number} of {len(sources)}: found {len(odd)} tensors that differ from "
                f"the first one's in name, dtype or shape ({', '.join(odd[:5])}), needed the same; "
                "average checkpoints of one model"
            )
    by_name = [{item.name: item for item in source} for source in sources]
    shares = [weight / total for weight in weights]
    return [
        replace(item, read=partial(_mean, [one[item.name] for one in by_name], shares))
        for item in sources[0]
    ]


def _mean(items: Sequence[Item], shares: Sequence[float]) -> torch.Tensor:
    dtype = BY_NAME[items[0].dtype]
    if not dtype.is_floating_point and not dtype.is_complex:
        return items[-1].read()
    wide = torch.complex128 if dtype.is_complex else torch.float64
    mean = torch.zeros(items[0].shape, dtype=wide)
    for item, share in zip(items, shares, strict=True):
        mean.add_(item.read().to(wide), alpha=share)
    return mean.to(dtype)
