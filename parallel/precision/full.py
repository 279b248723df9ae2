"""Modules that compute in fp32 while the rest of the model computes in fewer bits.

Owns which ones they are and the casts at their borders; their sharding is in `shard`.
"""

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..layers.head import Head
from ..names import canonical_name
from ..pipeline.cut import Absent
from ..plan import has_forward, owns_its_parameters


def full_names(module: nn.Module, globs: Sequence[str]) -> list[str]:
    """Returns the outermost modules that the globs name.

    Args:
        module: the whole model, before it is cut into stages.

    Raises:
        ValueError: a glob that matches nothing, or a match that cannot compute on its own.
    """
    names = [name for name, _ in module.named_modules() if name]
    found: dict[str, None] = {}
    for glob in globs:
        matched = [name for name in names if fnmatchcase(name, glob)]
        if not matched:
            raise ValueError(
                f"precision.full: found no module for {glob!r}, needed at least one; use names "
                f"such as {', '.join(_near(glob, names))}"
            )
        found.update(dict.fromkeys(matched))
    outermost = [name for name in found if not is_inside(name, found)]
    for name in outermost:
        _check(module, name)
    return outermost


def is_inside(name: str, names: Iterable[str]) -> bool:
    """Whether a module lies in one of the named ones, itself left out."""
    return any(name.startswith(f"{other}.") for other in names)


def cast_borders(module: nn.Module, names: Sequence[str], dtype: torch.dtype) -> None:
    """Casts what the named modules are given to fp32, and what they give back to `dtype`, in place.

    A `Head` gives its logits and its loss in fp32, for nothing in fewer bits follows.
    """
    for child in present(module, names):
        child.register_forward_pre_hook(_to_fp32, with_kwargs=True, prepend=True)
        if not isinstance(child, Head):
            child.register_forward_hook(lambda _, __, output: _cast(output, dtype))


def present(module: nn.Module, names: Iterable[str]) -> list[nn.Module]:
    """The modules of these names, under whatever wraps them; without those of other stages."""
    wanted = set(names)
    return [
        child
        for name, child in module.named_modules()
        if canonical_name(name) in wanted and not isinstance(child, Absent)
    ]


def _to_fp32(_: nn.Module, args: Any, arguments: dict[str, Any]) -> Any:
    return _cast(args, torch.float32), _cast(arguments, torch.float32)


def _cast(tree: Any, dtype: torch.dtype) -> Any:
    def one(leaf: Any) -> Any:
        return leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    return tree_map(one, tree)


def _near(glob: str, names: Sequence[str]) -> list[str]:
    """Names that a glob may have meant: by their last word, or else the first ones."""
    last = {name.rpartition(".")[2]: name for name in reversed(names)}
    word = glob.rpartition(".")[2].strip("*?")
    close = difflib.get_close_matches(word, last, n=3, cutoff=0.4)
    return [last[one] for one in close] or list(names[:5])


def _check(module: nn.Module, name: str) -> None:
    child = module.get_submodule(name)
    if not has_forward(child):
        raise ValueError(
            f"precision.full: found {name}, a {type(child).__name__} without forward, needed "
            f"modules that are called; use {name}.* for its children"
        )
    if not owns_its_parameters(module, child):
        raise ValueError(
            f"precision.full: found {name}, which shares a parameter with a module outside, needed "
            "modules that own all of theirs; leave it out, or untie them"
        )
