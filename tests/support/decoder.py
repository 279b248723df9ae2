"""A small decoder that tensor, pipeline and context parallelism can cut, and its plan."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from keepstep.parallel import (
    Attend,
    Cut,
    Degrees,
    Head,
    MemoryConfig,
    Normal,
    Ones,
    ParallelConfig,
    Plan,
    Policy,
    PrecisionConfig,
    Style,
    Topology,
    Zeros,
    assemble,
)

VOCABULARY, WIDTH, LENGTH = 13, 8, 8


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        # Without a bias of the keys: softmax does not see it, so its gradient is noise.
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=part != 1) for part in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)
        self.attend = Attend()

    def forward(self, x: Tensor, documents: Tensor | None) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (-1, 2)).transpose(1, 2) for part in self.qkv)
        y: Tensor = self.out(
            self.attend(q, k, v, documents_BT=documents).transpose(1, 2).flatten(-2)
        )
        return y


class Block(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = Attention()
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, documents: Tensor | None) -> Tensor:
        return x + self.drop(self.attention(self.norm(x), documents))


class Decoder(nn.Module):
    """Token ids -> logits, or the summed loss; positions are added to the embedding."""

    def __init__(self, blocks: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList(Block(dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = Head(WIDTH, VOCABULARY, chunk_tokens=5)

    def forward(
        self, tokens: Tensor, targets: Tensor | None = None, documents: Tensor | None = None
    ) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, documents)
        out: Tensor = self.head(self.norm(x), targets)
        return out


def decoder_plan(**changes: Any) -> Plan:
    given: dict[str, Any] = {
        "units": ("blocks.*",),
        "initial": (("*norm.weight", Ones()), ("*bias", Zeros()), ("*", Normal(0.4))),
        "tensor": (
            ("embed", Style.vocabulary),
            ("blocks.*.attention.qkv.*", Style.column),
            ("blocks.*.attention.out", Style.row),
            ("blocks.*.attention", Style.gather),
            ("*norm", Style.sequence),
            ("head", Style.vocabulary),
        ),
        "heads": (4, 4),
        "cut": Cut(first=("embed",), blocks="blocks.*", last=("norm", "head")),
        "sequence_inputs": ("tokens", "targets", "documents"),
    }
    return Plan(**{**given, **changes})


def assembled(
    config: ParallelConfig,
    *,
    plan: Plan | None = None,
    memory: MemoryConfig | None = None,
    **model: Any,
) -> tuple[nn.Module, Topology]:
    """The decoder on this rank's world."""
    topology = Topology.create(Degrees.resolve(config, dist.get_world_size()), "cpu")
    module = assemble(
        lambda: Decoder(**model),
        plan=plan or decoder_plan(),
        topology=topology,
        policy=Policy.of(PrecisionConfig()),
        device=torch.device("cpu"),
        seed=3,
        parallel=config,
        memory=memory,
    )
    return module, topology


def tokens(rows: int = 4) -> Tensor:
    return (torch.arange(rows * (LENGTH + 1)).view(rows, LENGTH + 1) * 7 + 3) % VOCABULARY
