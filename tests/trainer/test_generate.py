"""Generated tokens: as many as asked, the same on all ranks, from no longer a context than fits."""

import torch
from support.world import run_world
from torch import Tensor, nn

from keepstep.parallel import (
    Degrees,
    ParallelConfig,
    Policy,
    PrecisionConfig,
    Topology,
    assemble,
)
from keepstep.trainer.config import LlamaConfig
from keepstep.trainer.generate import generate
from keepstep.trainer.models.llama import Llama, llama_plan

CPU = torch.device("cpu")


class Counting(nn.Module):
    """Is sure that the next token is one more than the last, modulo 7; notes what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.contexts: list[list[int]] = []
        self.modes: list[bool] = []

    def forward(self, tokens_BT: Tensor) -> Tensor:
        self.contexts.append(tokens_BT[0].tolist())
        self.modes.append(self.training)
        return nn.functional.one_hot((tokens_BT + 1) % 7, 7) * 100.0


def test_it_goes_on_from_the_prompt_and_answers_only_what_is_new() -> None:
    found = generate(Counting(), [3, 4], count=5, max_length=10, device=CPU)
    assert found == [5, 6, 0, 1, 2]


def test_the_context_is_the_last_tokens_that_fit() -> None:
    module = Counting()
    generate(module, [0, 1, 2], count=3, max_length=3, device=CPU)
    assert module.contexts == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]


def test_the_module_is_back_in_training_afterwards() -> None:
    module = Counting()
    generate(module, [0], count=2, max_length=3, device=CPU)
    assert module.modes == [False, False]
    assert module.training


def test_a_seed_decides_the_sample_and_leaves_the_global_generator_alone() -> None:
    class Blank(nn.Module):
        def forward(self, tokens_BT: Tensor) -> Tensor:
            return torch.zeros(*tokens_BT.shape, 50)

    before = torch.get_rng_state()
    first, again, other = (
        generate(Blank(), [0], count=8, max_length=4, device=CPU, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)


def test_all_ranks_and_layouts_say_the_same() -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_layers": 2, "num_heads": 2}
    config = LlamaConfig(name="x", num_kv_heads=1, initializer_range=0.5, **sizes)

    def body(rank: int, size: int) -> list[int]:
        module = assemble(
            lambda: Llama(config, vocabulary_size=20, max_length=8),
            plan=llama_plan(config, vocabulary_size=20, sequence_length=8),
            topology=Topology.create(Degrees.resolve(ParallelConfig(), size), "cpu"),
            policy=Policy.of(PrecisionConfig()),
            device=CPU,
            seed=0,
        )
        return generate(module, [1, 2], count=12, max_length=8, device=CPU)

    found = run_world(2, body, 2)
    assert found[0] == found[1] == run_world(1, body, 1)[0]
    assert len(set(found[0])) > 3
