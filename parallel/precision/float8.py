"""Linear layers of blocks in float8, by torchao. Owns which layers they are.

Source: torchao.float8 (`convert_to_float8_training`); formats as in arXiv 2209.05433.
"""

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from .full import is_inside
from .policy import Float8

_MULTIPLE = 16  # of both widths of a matrix: what float8 matrix products ask for
_ROUTERS = ("router", "gate")


def apply_float8(
    module: nn.Module, units: Sequence[str], float8: Float8, *, full: Sequence[str], shares: int
) -> None:
    """Has the linear layers of the units compute in float8, in place: names, parameters and their
    dtypes stay. Goes before tensor styles, which then cut float8 layers as they cut others.

    Left as they are: what is outside of units (embeddings, heads), routers of experts, modules in
    `full`, and layers whose widths, each cut over `shares` ranks, are no multiple of 16.

    Raises:
        ValueError: no layer is left.
    """
    # Seconds to import, and of an optional extra: only where it is asked for.
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    chosen = [
        name
        for name, child in module.named_modules()
        if type(child) is nn.Linear
        and (name in units or is_inside(name, units))
        and name.rpartition(".")[2] not in _ROUTERS
        and not (name in full or is_inside(name, full))
        and _fits(child, shares)
    ]
    if not chosen:
        raise ValueError(
            f"precision=fp8: found no linear layer in {len(units)} units whose widths over "
            f"parallel.tensor={shares} are multiples of {_MULTIPLE}, needed one; set precision=bf16"
        )
    config = Float8LinearConfig.from_recipe_name(float8.recipe.value)
    convert_to_float8_training(
        module,
        config=replace(config, emulate=float8.is_emulated),
        module_filter_fn=lambda _, name: name in chosen,
    )


def _fits(layer: nn.Linear, shares: int) -> bool:
    widths = (layer.in_features, layer.out_features)
    return all(width % (_MULTIPLE * shares) == 0 for width in widths)
