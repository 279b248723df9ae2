"""What must survive a failure and nothing else: progress, parameters, buffers, optimizer state, and
the data cursor. Learning rates and randomness are functions of progress."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ..checkpoint import state_digest
from ..parallel import canonical_name


@dataclass(slots=True)
class Progress:
    """How far the run is; equal on all ranks."""

    step: int = 0
    """Optimizer steps that are over, the skipped ones included."""
    samples: int = 0
    """Samples that those steps consumed: the position in the data order."""
    tokens: int = 0
    """Valid targets among them."""
    skips: int = 0
    """Steps that were skipped, of the whole run."""
    skips_in_row: int = 0
    """Steps skipped since the last one that was applied."""

    def state_dict(self) -> dict[str, int]:
        """Plain numbers for a manifest."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Takes over the numbers of a manifest; unknown names are refused by their setattr."""
        for name, value in state.items():
            setattr(self, name, int(value))


def tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Every tensor of the training state by name, live: `model.<name>` and
    `optim.<parameter>.<key>`. The same names on every layout; tied weights appear once."""
    found: dict[str, Tensor] = {
        f"model.{canonical_name(name)}": p for name, p in module.named_parameters()
    }
    kept = module.state_dict()
    for name, buffer in module.named_buffers():
        if name in kept:
            found[f"model.{canonical_name(name)}"] = buffer
    for name, parameter in module.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                found[f"optim.{canonical_name(name)}.{key}"] = value
    return {name: tensor.detach() for name, tensor in sorted(found.items())}


def digest(state: dict[str, Tensor]) -> str:
    """Collective: one digest over every tensor in full (unsharded) form with its name; equal for
    two runs exactly when all their bits are. Holds one full tensor at a time; blocks."""
    return state_digest(_full(state))


def _full(state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in state.items():
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        yield name, full.cpu()
