"""What a training process that waits does ahead: a step of a tiny decoder, alone. What torch, gloo
and Python make at their first use is then there when the process is needed; most of the time that
a fresh one keeps the others waiting goes into that."""

import gc
from datetime import timedelta

import torch
from torch.distributed import HashStore  # type: ignore[attr-defined]

from ..data import Window
from ..parallel import (
    Degrees,
    Exchange,
    ParallelConfig,
    Policy,
    PrecisionConfig,
    Topology,
    assemble,
    join,
    leave,
    squares,
)
from .config import LlamaConfig
from .forward_backward import Divisor, Flat
from .models.llama import Llama, llama_plan
from .objective import next_token_loss
from .optim import build_optimizer, materialise_state
from .optim.config import AdamWConfig
from .seeds import seed_of
from .state import gather_state

_CPU, _LONGEST = torch.device("cpu"), timedelta(seconds=20)
_LENGTH, _VOCABULARY = 8, 16
_DECODER = LlamaConfig(
    name="warm_up", num_layers=2, hidden_size=16, intermediate_size=16, num_heads=2, num_kv_heads=1
)


def warm_up() -> None:
    """Joins a group of one, trains one step in it, and leaves it. Blocks for some tenths of a
    second; on CPUs alone, so that no accelerator is touched; reads and writes no file."""
    try:
        join(HashStore(), 0, 1, device=_CPU, timeout=_LONGEST)
        _train()
    finally:
        leave()
        gc.collect()  # the group's threads end with what refers to it, in circles


def _train() -> None:
    parallel = ParallelConfig()
    topology = Topology.create(Degrees.resolve(parallel, 1), _CPU.type, timeout=_LONGEST)
    size = _VOCABULARY
    module = assemble(
        lambda: Llama(_DECODER, vocabulary_size=size, max_length=_LENGTH),
        plan=llama_plan(_DECODER, vocabulary_size=size, sequence_length=_LENGTH),
        topology=topology,
        policy=Policy.of(PrecisionConfig()),
        device=_CPU,
        seed=0,
        parallel=parallel,
    )
    optimizer = build_optimizer(AdamWConfig(), module)
    materialise_state(optimizer)
    gather_state(module, optimizer, {})
    tokens = torch.zeros(1, _LENGTH + 1, dtype=torch.int32)
    window = Window(position=0, batches=[{"tokens": tokens}] * 2, microbatches=range(2))
    Flat(module, next_token_loss, _CPU).run(window, Divisor(lambda: 1), seed_of(0, 0, 0))
    squares({"all": module.parameters()})
    optimizer.step()
    Exchange(topology.control).gather_bytes(b"")
