"""The examples, as a reader would run them, for a few steps."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from support.scripts import SCRIPTS, load_script
from support.world import run_world
from typer.testing import CliRunner

from keepstep.trainer import Trainer
from keepstep.trainer.commands.app import app
from keepstep.trainer.recovery.preload import preload
from keepstep.trainer.supervise import run

FOLDER = SCRIPTS / "examples"
IN_PLACE = ("recovery.enabled=false", "telemetry.progress=false", "parallel.device=cpu")

preload()


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_first_example_is_the_readmes() -> None:
    found = re.search(r"```python\n(.*?)```", (SCRIPTS.parent / "README.md").read_text(), re.DOTALL)
    assert found is not None
    lines = [line for line in found.group(1).splitlines() if line]  # formatters add empty ones
    assert [line for line in (FOLDER / "sines.py").read_text().splitlines() if line][1:] == lines


def test_every_file_is_in_the_list() -> None:
    listed = re.findall(r"^\| `([\w.]+)`", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert set(listed) == {
        path.name for path in FOLDER.iterdir() if path.suffix in (".py", ".ipynb")
    }


def test_a_decoder_is_made_fine_tuned_on_answers_and_exported_for_transformers() -> None:
    example = load_script("examples/fine_tune")

    def body(_: int) -> None:
        example.make_base(Path("base"))
        words = ["model.path=base", "run.name=sums", "train.steps=12", "optim.lr=1e-2", *IN_PLACE]
        assert run(Trainer.fit, example.sums, [*example.DEFAULTS, *words]) == 0

    run_world(1, body, join=False)
    lines = Path("runs/sums/metrics.jsonl").read_text().splitlines()
    first, last = json.loads(lines[0]), json.loads(lines[-1])
    assert last["loss"] < 0.8 * first["loss"]
    assert last["tokens"] < 12 * 32 * 16 / 2  # answers alone are counted, and they are short

    def exported(_: int) -> list[float]:
        from transformers import AutoModelForCausalLM

        words = ["checkpoint", "export", "huggingface", "runs/sums", "out"]
        done = CliRunner().invoke(app, [*words, "--tokenizer", "base/tokenizer.json"])
        assert done.exit_code == 0, done.output
        held_out = example.samples(example.Tokenizer.load("out/tokenizer.json"), 16)
        tokens, targets = (held_out[name][-40:] for name in ("tokens", "targets"))
        losses = []
        for folder in ("base", "out"):
            model = AutoModelForCausalLM.from_pretrained(folder)
            with torch.no_grad():
                logits = model(tokens[:, :-1]).logits
            losses.append(torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets).item())
        return losses

    (found,) = run_world(1, exported, join=False)
    summary = json.loads(Path("runs/sums/summary.json").read_text())
    assert found[1] == pytest.approx(summary["eval_loss"], rel=1e-4)
    assert found[1] < 0.8 * found[0]


@pytest.mark.slow
def test_the_notebook_runs_from_its_first_cell_to_its_last(tmp_path: Path) -> None:
    def body(_: int) -> list[list[str]]:
        import nbformat
        from nbclient import NotebookClient

        os.environ["JUPYTER_RUNTIME_DIR"] = str(tmp_path / "runtime")
        os.environ["IPYTHONDIR"] = str(tmp_path / "ipython")
        notebook = nbformat.read(FOLDER / "first_run.ipynb", as_version=4)
        NotebookClient(
            notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}
        ).execute()
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        return [[str(output) for output in cell.outputs] for cell in cells]

    (outputs,) = run_world(1, body, join=False, timeout_seconds=300)
    assert "step  40" not in outputs[2][0]
    assert outputs[2][0].count("loss") == 4
    assert "('restore', 40)" in outputs[3][-1]
    summary = json.loads((tmp_path / "runs" / "first" / "summary.json").read_text())
    assert summary["steps"] == 60
