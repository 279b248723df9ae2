"""The Vision Transformer: every patch counts, nothing about it is language, layouts are equal."""

from pathlib import Path

import pytest
import sklearn.datasets  # noqa: F401 - before the forks, since it takes seconds
import torch
from support.scripts import load_script
from support.training import Corpus, differs, events, losses, summary, train
from torch import Tensor

from keepstep.parallel import initialise
from keepstep.trainer import ConfigError
from keepstep.trainer.compose import compose
from keepstep.trainer.config import ViTConfig
from keepstep.trainer.models.vit import ViT, flops_per_image, vit_plan

digits = load_script("train_digits")
WORDS = (
    *("model=vit_digits", "model.hidden_size=16", "model.intermediate_size=32"),
    *("train.batch_samples=32", "train.microbatch_samples=8", "train.eval_samples=40"),
    *("schedule.warmup_steps=2", "optim.lr=5e-3", "train.steps=4", "train.sample_tokens=0"),
)


def config(**changes: int) -> ViTConfig:
    sizes = {"image_size": 8, "patch_size": 4, "num_channels": 2, "num_classes": 5}
    sizes |= {"hidden_size": 12, "intermediate_size": 16, "num_layers": 2, "num_heads": 3}
    return ViTConfig(**{"name": "x", "initializer_range": 0.3, **sizes, **changes})


def model() -> ViT:
    module = ViT(config())
    initialise(module, vit_plan(config()), seed=1)
    return module


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 2, 8, 8, generator=torch.Generator().manual_seed(2))


def test_images_become_one_row_of_logits_each() -> None:
    module, batch = model(), images()
    with torch.no_grad():
        assert module(batch).shape == (3, 5)
        torch.testing.assert_close(module(batch)[1:2], module(batch[1:2]))


def test_every_pixel_changes_the_answer() -> None:
    batch = images(1).requires_grad_()
    model()(batch)[0, 0].backward()
    assert batch.grad is not None
    assert (batch.grad != 0).all()


def test_patches_are_cut_row_by_row_and_have_their_own_positions() -> None:
    module, batch = model().requires_grad_(False), images(1)
    turned = batch.roll(4, 3)  # the left and the right patches change places
    patches = [module.embed(one)[:, 1:] - module.embed.positions[:, 1:] for one in (batch, turned)]
    torch.testing.assert_close(patches[1], patches[0][:, [1, 0, 3, 2]])
    assert not torch.allclose(module(batch), module(turned))


def test_flops_are_six_a_weight_and_position_and_those_of_attention() -> None:
    module = model()
    blocks = sum(p.numel() for p in module.blocks.parameters() if p.dim() == 2)
    patch, head = module.embed.patch_proj.weight, module.classifier.proj.weight
    weights = 5 * blocks + 4 * patch.numel() + head.numel()
    assert flops_per_image(config()) == 6 * weights + 12 * 2 * 12 * 25


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"patch_size": 3}, "model.image_size: found 8, needed a multiple of model.patch_size"),
        ({"num_heads": 5}, "model.hidden_size: found 12, needed a multiple of model.num_heads"),
        ({"num_classes": 0}, "model.num_classes: found 0, needed 1 or more"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}"):
        config(**changes)


@pytest.fixture(scope="module")
def one_rank(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vit")
    assert train(corpus.config(folder, *WORDS), recipe=digits.digits) == [0]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("axis", ["shard", "tensor", "pipeline"])
def test_a_layout_has_the_curve_of_one_rank(
    corpus: Corpus, tmp_path: Path, one_rank: Path, axis: str
) -> None:
    asked = corpus.config(tmp_path / "run", *WORDS, f"parallel.{axis}=2")
    assert train(asked, 2, recipe=digits.digits) == [0, 0]
    assert differs(losses(tmp_path / "run"), losses(one_rank)) < 1e-6
    found, wanted = summary(tmp_path / "run"), summary(one_rank)
    assert found["accuracy"] == wanted["accuracy"]
    assert found["eval_loss"] == pytest.approx(wanted["eval_loss"], rel=1e-6)
    assert found["parameters"] == wanted["parameters"]
    assert not events(tmp_path / "run", "skip")


@pytest.mark.slow
def test_the_example_learns_to_read_digits(tmp_path: Path) -> None:
    words = (*digits.DEFAULTS, f"run.dir={tmp_path}", "train.steps=100", "recovery.enabled=false")
    asked = compose([*words, "parallel.device=cpu", "telemetry.progress=false"])
    assert train(asked, recipe=digits.digits) == [0]
    assert summary(tmp_path)["accuracy"] > 0.9


def test_the_example_wants_a_vision_transformer() -> None:
    with pytest.raises(ConfigError, match=r"^model: found llama_tiny, needed a ViT; set model=vit"):
        digits.digits(compose())
