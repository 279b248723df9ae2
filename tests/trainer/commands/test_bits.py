"""`keepstep compare A B --bits`: where two runs part, to the step and the tensor."""

import json
from pathlib import Path

import pytest
import torch
from support.training import Corpus, lines, observed, train
from typer.testing import CliRunner

from keepstep.trainer import Trainer
from keepstep.trainer.commands.app import app
from keepstep.trainer.errors import ConfigError
from keepstep.trainer.telemetry.reading.parting import of_metrics

WORDS = (
    *("train.steps=6", "checkpoint.every_steps=2", "parallel.exact=true", "checkpoint.keep=9"),
    *("train.batch_samples=8", "train.microbatch_samples=2", "telemetry.bits_every=1"),
)
STEP, NAME = 3, "layers.0.mlp.down_proj.weight"


def made(corpus: Corpus, folder: Path, size: int, *words: str, flip: bool = False) -> Path:
    """A run in which one bit of one parameter flips, after step 3 was noted and before step 4."""

    def observe(trainer: Trainer, rank: int) -> None:
        real = trainer._after_step

        def after(verdict: object) -> None:
            if flip and trainer.progress.step == STEP:
                named = dict(trainer.job.module.named_parameters())
                local = named[NAME].to_local()  # type: ignore[attr-defined]
                if rank == 0:
                    local.detach().view(torch.int32)[0, 1] ^= 1 << 14
            real(verdict)  # type: ignore[arg-type]

        trainer._after_step = after  # type: ignore[method-assign]

    observed(corpus.config(folder, *WORDS, *words), size, observe)
    (folder / "config.yaml").write_text("{}\n")  # which a job's first process writes
    return folder


def compared(*runs: Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["compare", *map(str, runs), "--bits"], catch_exceptions=False)
    return done.exit_code, done.output


@pytest.fixture(scope="module")
def straight(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(corpus, tmp_path_factory.mktemp("bits") / "straight", 2)


@pytest.mark.slow
def test_two_layouts_of_an_exact_run_have_the_same_bits(
    corpus: Corpus, straight: Path, tmp_path: Path
) -> None:
    other = made(corpus, tmp_path / "other", 4, "parallel.replicate=2")
    code, said = compared(straight, other)
    assert code == 0, said
    assert "metrics.jsonl  the same in all 6 steps in common" in said
    assert "bits.jsonl     the same in all 6 steps in common" in said
    assert "checkpoints    the same in all 3 steps in common" in said
    assert "\nthe same bits\n" in said


def test_a_flipped_bit_is_found_at_its_step_and_in_its_tensor(
    corpus: Corpus, straight: Path, tmp_path: Path
) -> None:
    flipped = made(corpus, tmp_path / "flipped", 2, flip=True)
    code, said = compared(straight, flipped)
    assert code == 1
    assert f"bits.jsonl     part at step {STEP + 1}: " in said
    assert f"checkpoints    part at step {STEP + 1}: " in said
    assert f"step {STEP + 1} is the first that differs, in " in said
    first = lines(straight, "bits")[STEP]["bits"]
    second = lines(flipped, "bits")[STEP]["bits"]
    assert f"model.{NAME}" in {name for name in first if first[name] != second[name]}


def test_what_was_noted_names_every_tensor_of_the_state(straight: Path) -> None:
    noted = lines(straight, "bits")
    assert [line["step"] for line in noted] == [1, 2, 3, 4, 5, 6]
    kinds = {name.partition(".")[0] for name in noted[0]["bits"]}
    assert kinds == {"model", "optim"}
    changed = {n for n in noted[0]["bits"] if noted[0]["bits"][n] != noted[1]["bits"][n]}
    assert f"model.{NAME}" in changed
    assert f"optim.{NAME}.exp_avg" in changed


def test_without_checkpoints_and_notes_the_losses_speak(straight: Path, tmp_path: Path) -> None:
    for name, wrong in (("one", 0.0), ("other", 2.0**-40)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yaml").write_text((straight / "config.yaml").read_text())
        (folder / "checkpoints").mkdir()
        rows = lines(straight, "metrics")
        rows[4]["loss"] += wrong
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, said = compared(tmp_path / "one", tmp_path / "other")
    assert code == 1
    assert "step 5 is the first that differs, in loss" in said
    assert "0x1." in said
    assert "telemetry.bits_every=1 writes them" in said


def test_a_step_that_only_one_run_has_is_no_difference() -> None:
    row = {"step": 1, "loss": 2.0, "grad_norm": None, "lr": 0.1, "tokens": 8, "time": 5.0}
    found = of_metrics([row, {**row, "step": 2}], [{**row, "time": 6.0}])
    assert (found.steps, found.step) == (1, None)


def test_runs_without_a_step_in_common_and_other_numbers_of_runs_are_refused(
    corpus: Corpus, straight: Path, tmp_path: Path
) -> None:
    config = corpus.config(tmp_path / "none", *WORDS, "train.steps=1")
    assert train(config) == [0]
    (tmp_path / "none" / "config.yaml").write_text("{}\n")
    (tmp_path / "none" / "metrics.jsonl").write_text("")
    (tmp_path / "none" / "bits.jsonl").write_text("")
    with pytest.raises(ConfigError, match=r"found no step that .* has too, needed one or more"):
        compared(straight, tmp_path / "none")
    with pytest.raises(ConfigError, match="--bits: found 3 runs, needed two"):
        compared(straight, straight, straight)
    with pytest.raises(ConfigError, match="--out: found it beside --bits"):
        compared(straight, straight, Path("--out"), tmp_path / "drawn.html")
