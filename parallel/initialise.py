"""Initial values keyed by name: each parameter's full tensor follows from (seed, name) alone.

So any topology begins with the same bits, and what one parameter draws moves no other.
"""

from collections.abc import Iterator
from fnmatch import fnmatchcase

import torch
import xxhash
from torch import nn
from torch.distributed.tensor import DTensor

from .names import canonical_name
from .pipeline.cut import Absent
from .plan import Initial, Plan
from .positions import held_slices


def initialise(module: nn.Module, plan: Plan, *, seed: int) -> None:
    """Writes the plan's initial values into the parameters; may be called again at any time.

    Every rank draws the full tensors, one at a time, on the CPU and keeps its part; nothing is
    communicated. Parameters must be sharded, not gathered by a forward.

    Raises:
        ValueError: parameters that no glob of the plan matches, by name.
    """
    chosen = [(name, p, _initial_of(name, plan)) for name, p in owned_parameters(module, plan)]
    if missing := [name for name, _, initial in chosen if initial is None]:
        raise ValueError(
            f"plan.initial: found no value for {', '.join(missing)}, needed one for every "
            "parameter; add a glob that matches"
        )
    for name, parameter, initial in chosen:
        assert initial is not None
        generator = torch.Generator().manual_seed(derived_seed(seed, name))
        _fill(parameter, initial, generator)


def owned_parameters(module: nn.Module, plan: Plan) -> Iterator[tuple[str, nn.Parameter]]:
    """Yields canonical names and parameters, each memory once, under the name that owns it: also
    where another pipeline stage has the owner, and this module a copy of it."""
    owners = dict(plan.tied)
    seen: set[int] = set()
    for name, parameter in module.named_parameters(remove_duplicate=False):
        name = canonical_name(name)
        if id(parameter) not in seen:
            seen.add(id(parameter))
            yield owners.get(name, name), parameter


def derived_seed(seed: int, name: str) -> int:
    """Returns 63 bits of XXH3 over the seed and a name."""
    return xxhash.xxh3_64_intdigest(f"{seed}/{name}".encode()) & (2**63 - 1)


def retie(module: nn.Module, plan: Plan) -> None:
    """Makes the plan's tied parameters one object again, wherever they have come apart.

    Raises:
        ValueError: the plan ties a name that the module does not have.
    """
    parameters = module.named_parameters(remove_duplicate=False)
    names = {canonical_name(name): name for name, _ in parameters}
    is_cut = any(isinstance(child, Absent) for child in module.modules())
    for borrower, owner in plan.tied:
        if is_cut and not {borrower, owner} <= names.keys():
            continue
        for name in (borrower, owner):
            if name not in names:
                raise ValueError(
                    f"plan.tied: found {name!r}, needed the name of a parameter of the module; "
                    f"correct the pair ({borrower!r}, {owner!r})"
                )
        path, _, leaf = names[borrower].rpartition(".")
        setattr(module.get_submodule(path), leaf, module.get_parameter(names[owner]))


def _initial_of(name: str, plan: Plan) -> Initial | None:
    return next((value for glob, value in plan.initial if fnmatchcase(name, glob)), None)


@torch.no_grad()
def _fill(parameter: nn.Parameter, initial: Initial, generator: torch.Generator) -> None:
    full = initial.draw(parameter.shape, generator)
    if isinstance(parameter, DTensor):
        parameter.to_local().copy_(full[held_slices(parameter)])
    else:
        parameter.copy_(full)
