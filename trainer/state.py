"""What must survive a failure and nothing else: progress, parameters, buffers, optimizer state, and
the data cursor. Learning rates and randomness are functions of progress."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ..checkpoint import Exchange, SoloExchange, combine_digests, gather_distinct, tensor_digest
from ..parallel import canonical_name


@dataclass(slots=True)
class Progress:
    """How far the run is; equal on all ranks."""

    step: int = 0
    """Optimizer steps that are over, the skipped ones included."""
    samples: int = 0
    """Samples that those steps consumed, and those that rollbacks left out: the position in the
    data order."""
    tokens: int = 0
    """Valid targets among them."""
    skips: int = 0
    """Steps that were skipped, of the whole run."""
    skips_in_row: int = 0
    """Steps skipped since the last one that was applied."""
    overflows: int = 0
    """Steps that fp16's loss scale was too large for; not among the skips."""

    def state_dict(self) -> dict[str, int]:
        """Plain numbers for a manifest."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Takes over the numbers of a manifest; unknown names are refused by their setattr."""
        for name, value in state.items():
            setattr(self, name, int(value))


@dataclass(frozen=True, slots=True)
class State:
    """Every tensor of the training state that this rank holds, live, by name: `model.<name>`,
    `optim.<parameter>.<key>`, and `ema.<parameter>` where averages are kept. The union over the
    ranks of a pipeline has the same names on every layout; tied weights appear once."""

    tensors: dict[str, Tensor]
    """What a checkpoint fills."""
    lent: frozenset[str] = frozenset()
    """Names among them that another stage owns and saves."""
    buffers: frozenset[str] = frozenset()
    """Names among them that a forward may change."""
    twins: tuple[tuple[Tensor, Tensor], ...] = ()
    """Where this rank has both copies of a tied weight: the one in `tensors`, and the other."""
    kept: tuple[tuple[nn.Parameter, Mapping[str, Any]], ...] = ()
    """What the optimizer kept of each parameter when this was gathered."""

    def is_current(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether it keeps the very same tensors still; it is free to make others."""
        return all(
            (now := optimizer.state.get(parameter, {})).keys() == before.keys()
            and all(now[key] is one for key, one in before.items() if isinstance(one, Tensor))
            for parameter, before in self.kept
        )

    @property
    def saved(self) -> dict[str, Tensor]:
        """What a checkpoint and the digest take."""
        return {name: one for name, one in self.tensors.items() if name not in self.lent}

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The model's parameters among them, without its buffers."""
        return {
            name: one
            for name, one in self.tensors.items()
            if name.startswith("model.") and name not in self.buffers
        }

    def copy_to_twins(self) -> None:
        """Makes the second copies equal to the first, after these were filled."""
        with torch.no_grad():
            for source, copy in self.twins:
                copy.copy_(source)

    def begin_averages(self, names: Iterable[str]) -> None:
        """Lets those of these names that are averages begin anew with the weights as they are."""
        with torch.no_grad():
            for name in names:
                if name.startswith("ema.") and name in self.tensors:
                    weights = self.tensors[f"model.{name.removeprefix('ema.')}"]
                    self.tensors[name].copy_(weights)


def gather_state(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    borrowed: Mapping[str, str],
    averages: Mapping[Tensor, Tensor] | None = None,
) -> State:
    """The live state of a module and its optimizer.

    Args:
        borrowed: names of parameters that are copies of one that another stage owns, with the
            owner's name, under which they are listed.
        averages: by parameter, where averages of them are kept.
    """
    owned: dict[str, Tensor] = {}
    copies: dict[str, Tensor] = {}
    kept = []
    for raw, parameter in module.named_parameters():
        name = canonical_name(raw)
        into = copies if name in borrowed else owned
        name = borrowed.get(name, name)
        into[f"model.{name}"] = parameter
        if averages and parameter in averages:
            into[f"ema.{name}"] = averages[parameter]
        kept.append((parameter, dict(optimizer.state.get(parameter, {}))))
        for key, value in kept[-1][1].items():
            if isinstance(value, Tensor):
                into[f"optim.{name}.{key}"] = value
    buffers = set()
    lasting = {canonical_name(name) for name in module.state_dict()}
    for raw, buffer in module.named_buffers():
        if (name := canonical_name(raw)) in lasting:
            owned[f"model.{name}"] = buffer
            buffers.add(f"model.{name}")
    alone = {name: copy for name, copy in copies.items() if name not in owned}
    twins = [(owned[name], copy) for name, copy in copies.items() if name in owned]
    found = {name: tensor.detach() for name, tensor in sorted({**owned, **alone}.items())}
    return State(
        found,
        lent=frozenset(alone),
        buffers=frozenset(buffers),
        twins=tuple((found_in.detach(), copy.detach()) for found_in, copy in twins),
        kept=tuple(kept),
    )


def digest(state: dict[str, Tensor], exchange: Exchange | None = None) -> str:
    """Collective: one digest over every tensor in full (unsharded) form with its name; equal for
    two runs exactly when all their bits are, whatever the layouts. Blocks.

    Each rank gathers what it holds, one full tensor at a time, and ranks tell one another digests
    only. `exchange` is over all ranks of the run; None means that this one holds the whole state.

    Raises:
        RuntimeError: on every rank, if ranks that hold the same tensor hold different bits.
    """
    # Gathering is a collective over a tensor's mesh, whose ranks must come to it in one order.
    own = {name: tensor_digest(name, _full(state[name])) for name in sorted(state)}
    payload = json.dumps(own).encode()
    answers = gather_distinct(exchange or SoloExchange(), lambda: payload)
    read = {answer: json.loads(answer) for answer in set(answers)}
    found: dict[str, str] = {}
    for answer in answers:
        for name, one in read[answer].items():
            if found.setdefault(name, one) != one:
                raise _divergence(name, [read[answer].get(name) for answer in answers])
    return combine_digests(found)


def _divergence(name: str, digests: list[str | None]) -> RuntimeError:
    """The error for a tensor whose digest, by rank (None: not held there), is not one."""
    ranks: dict[str, list[int]] = {}
    for rank, one in enumerate(digests):
        if one is not None:
            ranks.setdefault(one, []).append(rank)
    groups = "; ".join(f"{one} on ranks {held}" for one, held in ranks.items())
    return RuntimeError(
        f"Tensor {name} has digests {groups}, but must be equal wherever it is held: the run has "
        "silently diverged; go back to a checkpoint from before, and look at those ranks' machines."
    )


def _full(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu()
