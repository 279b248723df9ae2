"""Matrices cut over ranks: the gradients of one process, and plans that cannot be cut."""

from typing import Any

import pytest
import torch
from support.decoder import Decoder, assembled, decoder_plan, tokens
from support.world import run_world
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, Shard

from keepstep.parallel import ParallelConfig, Plan, Style, initialise, reshard, sequence_multiple
from keepstep.parallel.pipeline.cut import Absent
from keepstep.parallel.tensor import styles_of

LAYOUTS = {
    "tensor2": (2, {}),
    "tensor2 whole between": (2, {"sequence_parallel": False}),
    "tensor2-shard2": (4, {}),
    "tensor4": (4, {"tensor": 4}),
}


def whole() -> tuple[float, dict[str, Tensor], Tensor]:
    module = Decoder()
    initialise(module, decoder_plan(), seed=3)
    loss = module(tokens()[:, :-1], targets=tokens()[:, 1:])
    loss.backward()
    grads = {name: p.grad for name, p in module.named_parameters()}
    return float(loss.detach()), grads, module(tokens()[:, :-1]).detach()


@pytest.mark.slow(but=["tensor2"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_loss_gradients_and_logits_are_those_of_one_process(layout: str) -> None:
    size, degrees = LAYOUTS[layout]

    def body(rank: int) -> tuple[float, dict[str, Tensor], Tensor]:
        module, topology = assembled(ParallelConfig(**{"tensor": 2, **degrees}))
        rows = tokens().chunk(topology.data_count)[topology.data_index]
        loss = module(rows[:, :-1], targets=rows[:, 1:])
        loss.backward()
        grads = {name: p.grad.full_tensor().clone() for name, p in module.named_parameters()}
        with torch.no_grad():
            logits = module(tokens()[:, :-1])
        reshard(module)
        return float(loss.detach()) / topology.degrees.tensor, grads, logits

    loss, grads, logits = whole()
    found = run_world(size, body)
    assert sum(one[0] for one in found) == pytest.approx(loss, rel=1e-6)
    for _, ours, outputs in found:
        torch.testing.assert_close(outputs, logits, rtol=1e-5, atol=1e-6)
        for name, grad in grads.items():
            assert (ours[name] - grad).abs().max() <= 3e-6 * grad.abs().max(), name


def test_every_parameter_is_placed_on_the_mesh_of_all_its_ranks() -> None:
    def body(rank: int) -> dict[str, tuple[Any, ...]]:
        module, _ = assembled(ParallelConfig(tensor=2))
        parameters = dict(module.named_parameters())
        assert all(isinstance(p, DTensor) for p in parameters.values())
        assert {p.device_mesh.mesh_dim_names for p in parameters.values()} == {("shard", "tensor")}
        return {name: p.placements[1] for name, p in parameters.items()}

    (found, other) = run_world(2, body)
    assert found == other
    assert found["embed.weight"] == Shard(0)
    assert found["head.weight"] == Shard(0)
    assert found["blocks.0.attention.qkv.2.bias"] == Shard(0)
    assert found["blocks.0.attention.out.weight"] == Shard(1)
    assert found["blocks.0.attention.out.bias"] == Replicate()
    assert found["blocks.0.norm.weight"] == Replicate()


def test_a_vocabulary_that_does_not_divide_is_cut_all_the_same() -> None:
    def body(rank: int) -> list[tuple[int, ...]]:
        module, _ = assembled(ParallelConfig(tensor=4))
        return [tuple(p.to_local().shape) for p in (module.embed.weight, module.head.weight)]

    # 13 tokens over 4 ranks, as torch.chunk has it
    assert run_world(4, body) == [[(n, 8)] * 2 for n in (4, 4, 4, 1)]


class Positioned(Decoder):
    """With a parameter of the root's own, which no style names."""

    def __init__(self) -> None:
        super().__init__(blocks=1)
        self.places = nn.Parameter(torch.empty(8, 8))

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
        x = self.embed(tokens) + self.places
        out: Tensor = self.head(self.norm(self.blocks[0](x, None)), targets)
        return out


def test_a_parameter_that_no_style_names_is_the_same_on_all_ranks() -> None:
    reference = Positioned()
    initialise(reference, decoder_plan(), seed=3)
    reference(tokens()[:, :-1], targets=tokens()[:, 1:]).backward()

    def body(rank: int) -> Tensor:
        from keepstep.parallel import Degrees, Policy, PrecisionConfig, Topology, assemble

        config = ParallelConfig(tensor=2)
        module = assemble(
            Positioned,
            plan=decoder_plan(has_sequence=False),
            topology=Topology.create(Degrees.resolve(config, 2), "cpu"),
            policy=Policy.of(PrecisionConfig()),
            device=torch.device("cpu"),
            seed=3,
            parallel=config,
        )
        module(tokens()[:, :-1], targets=tokens()[:, 1:]).backward()
        assert isinstance(module.places, DTensor)
        return module.places.grad.full_tensor()

    for grad in run_world(2, body):
        torch.testing.assert_close(grad, reference.places.grad, rtol=1e-5, atol=1e-6)


def refused(plan: Plan, tensor: int = 2) -> str:
    def body(rank: int) -> str:
        with pytest.raises(ValueError, match=r"found") as caught:
            assembled(ParallelConfig(tensor=tensor), plan=plan)
        return str(caught.value)

    words = run_world(tensor, body)
    assert words == [words[0]] * tensor
    return words[0]


def test_a_plan_without_styles_says_what_it_lacks() -> None:
    words = refused(decoder_plan(tensor=()))
    assert words.startswith("parallel.tensor: found 2 for a model, whose plan has no tensor styles")
    assert "set parallel.tensor=1" in words


def test_heads_that_the_ranks_cannot_share_are_refused_with_the_nearest() -> None:
    words = refused(decoder_plan(heads=(4, 3)))
    assert words == (
        "parallel.tensor: found 2 for 3 attention heads, needed a divisor of them; "
        "set parallel.tensor=1"
    )


@pytest.mark.parametrize(
    ("style", "words"),
    [
        (("blocks.*.nothing", Style.column), "found no module for 'blocks.*.nothing'"),
        (("blocks.*.norm", Style.column), "found blocks.0.norm, a LayerNorm, with style column"),
        (("embed", Style.row), "found embed, a Embedding, with style row, needed a Linear"),
    ],
)
def test_a_style_that_does_not_fit_is_refused(style: tuple[str, Style], words: str) -> None:
    assert words in refused(decoder_plan(tensor=(style,)))


def test_features_that_do_not_divide_are_refused_with_the_nearest() -> None:
    words = refused(decoder_plan(heads=(), tensor=(("*.out", Style.row),)), tensor=3)
    assert words.endswith("needed a divisor of 8; set parallel.tensor=2")


def test_of_several_globs_the_first_counts_and_absent_modules_have_none() -> None:
    module = Decoder(blocks=1)
    plan = decoder_plan(tensor=(("embed", Style.replicate), ("*e*", Style.vocabulary)))
    found = styles_of(module, plan)
    assert (found["embed"], found["head"]) == (Style.replicate, Style.vocabulary)
    module.head = Absent()
    assert "head" not in styles_of(module, plan)


def test_sequences_must_be_whole_multiples_of_what_cuts_them() -> None:
    assert sequence_multiple(ParallelConfig()) == 1
    assert sequence_multiple(ParallelConfig(tensor=4)) == 4
    assert sequence_multiple(ParallelConfig(tensor=4, sequence_parallel=False)) == 1
    assert sequence_multiple(ParallelConfig(context=3)) == 6
    assert sequence_multiple(ParallelConfig(context=2, tensor=2)) == 8
