"""`keepstep checkpoint export` and `import`: transformers computes what the live model does, and
what comes back is the same bit for bit."""

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from support.families import words
from support.training import Corpus, copied, train
from torch import nn

from keepstep.trainer import Recipe, RunConfig
from keepstep.trainer.identity import RunFolder
from keepstep.trainer.language_model import language_model
from keepstep.trainer.recovery.chaos import flip_byte

Keepstep = Callable[..., Any]
TOKENS = torch.randint(0, 300, (2, 16), generator=torch.Generator().manual_seed(1))


def trained(corpus: Corpus, folder: Path, *overrides: str) -> torch.Tensor:
    """The live model's logits of TOKENS after some steps of a run that is saved."""
    config = corpus.config(folder, "train.steps=4", *overrides)

    def recipe(own: RunConfig) -> Recipe:
        def look(module: nn.Module) -> dict[str, Any]:
            with torch.no_grad():
                torch.save(module(TOKENS), folder / "logits.pt")
            return {}

        return replace(language_model(own), finish=look)

    with closing(RunFolder(config)) as own:
        own.open()
        assert train(config, recipe=recipe) == [0]
    logits: torch.Tensor = torch.load(folder / "logits.pt")
    return logits


def logits_of(folder: Path) -> torch.Tensor:
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        found: torch.Tensor = model.eval()(TOKENS).logits
    return found


@pytest.mark.parametrize("is_tied", [False, True])
def test_transformers_has_the_logits_of_the_live_llama(
    keepstep: Keepstep, corpus: Corpus, tmp_path: Path, is_tied: bool
) -> None:
    wanted = trained(corpus, tmp_path / "run", f"model.tie_embeddings={str(is_tied).lower()}")
    done = keepstep("export", "huggingface", tmp_path / "run", tmp_path / "out")
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path}/out\n")
    assert (logits_of(tmp_path / "out") - wanted).abs().max() < 1e-5


@pytest.mark.parametrize("family", ["Qwen3ForCausalLM", "GPT2LMHeadModel", "GemmaForCausalLM"])
def test_a_model_of_transformers_is_exported_as_itself(
    keepstep: Keepstep, corpus: Corpus, tmp_path: Path, family: str
) -> None:
    wanted = trained(corpus, tmp_path / "run", *words(family))
    assert keepstep("export", "huggingface", tmp_path / "run", tmp_path / "out").exit_code == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["architectures"], config["vocab_size"]) == ([family], 300)
    assert (logits_of(tmp_path / "out") - wanted).abs().max() < 1e-5


def test_the_tokenizer_and_a_card_with_lineage_go_with_it(
    keepstep: Keepstep, run: Path, tmp_path: Path
) -> None:
    assert keepstep("export", "huggingface", run, tmp_path / "out").exit_code == 0
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "3 times 4 makes 12."
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert (tokenizer.eos_token, tokenizer.model_max_length) == ("<|endoftext|>", 16)
    card = (tmp_path / "out" / "README.md").read_text()
    manifest = json.loads(
        (max((run / "checkpoints").glob("step-*")) / "manifest.json").read_bytes()
    )["head"]
    assert "| optimizer steps | 4 |" in card
    assert f"| configuration | {manifest['lineage']['config_digest']} |" in card
    assert f"| parent checkpoint | {manifest['lineage']['parent']} |" in card


def test_an_export_in_small_files_of_bf16_is_loaded(
    keepstep: Keepstep, run: Path, tmp_path: Path
) -> None:
    size = ("--shard-gigabytes", 1e-5, "--dtype", "bfloat16")
    assert keepstep("export", "huggingface", run, tmp_path / "out", *size).exit_code == 0
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 2
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype is torch.bfloat16


def test_an_export_takes_the_averaged_weights(
    keepstep: Keepstep, corpus: Corpus, tmp_path: Path
) -> None:
    trained(corpus, tmp_path / "run", "optim.ema_decay=0.5")
    for name, flags in (("live", ()), ("averaged", ("--ema",))):
        done = keepstep("export", "huggingface", tmp_path / "run", tmp_path / name, *flags)
        assert done.exit_code == 0
    (saved,) = (tmp_path / "run" / "checkpoints").glob("step-*/rank-00000.safetensors")
    state = load_file(saved)
    for name, part in (("live", "model"), ("averaged", "ema")):
        found = load_file(tmp_path / name / "model.safetensors")
        assert torch.equal(found["model.norm.weight"], state[f"{part}.norm.weight"])
        assert torch.equal(found["lm_head.weight"], state[f"{part}.lm_head.weight"])
    assert (logits_of(tmp_path / "live") - logits_of(tmp_path / "averaged")).abs().max() > 1e-3


@pytest.mark.parametrize("to", ["dcp", "huggingface"])
def test_what_was_exported_comes_back_the_same(
    keepstep: Keepstep, run: Path, tmp_path: Path, to: str
) -> None:
    assert keepstep("export", to, run, tmp_path / "out").exit_code == 0
    done = keepstep("import", to, tmp_path / "out", tmp_path / "again")
    assert done.exit_code == 0
    glob = "*" if to == "dcp" else "model.*"
    same = keepstep("diff", run, tmp_path / "again", "--tensors", glob)
    assert same.exit_code == 0
    assert not same.stdout.startswith("0 ")


def test_a_run_goes_on_from_what_was_exported_to_dcp_and_back(
    keepstep: Keepstep, corpus: Corpus, run: Path, tmp_path: Path
) -> None:
    assert keepstep("export", "dcp", run, tmp_path / "out").exit_code == 0
    place = f"checkpoint.path={tmp_path / 'again'}"
    assert keepstep("import", "dcp", tmp_path / "out", tmp_path / "again").exit_code == 0
    words = ("train.steps=6", "checkpoint.every_steps=2")
    assert train(corpus.config(tmp_path / "other", *words, place)) == [0]
    longer = copied(run, tmp_path / "longer")
    assert train(corpus.config(longer, *words)) == [0]
    digests = [
        json.loads((folder / "summary.json").read_text())["state_digest"]
        for folder in (tmp_path / "other", longer)
    ]
    assert digests[0] == digests[1]


def test_names_are_changed_on_the_way(keepstep: Keepstep, run: Path, tmp_path: Path) -> None:
    rename = ("--rename", "optim.*=", "--rename", "model.*=net.*")
    assert keepstep("export", "dcp", run, tmp_path / "out", *rename).exit_code == 0
    assert keepstep("import", "dcp", tmp_path / "out", tmp_path / "again").exit_code == 0
    shown = keepstep("show", tmp_path / "again").stdout.splitlines()
    names = [line.split()[0] for line in shown if line.startswith("  ")]
    assert all(name.startswith("net") for name in names)


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("export", "dcp", "RUN", "RUN"), 2, "found something there, needed a new or empty"),
        (("export", "dcp", "RUN", "OUT", "--ema"), 2, "--ema: found no averaged weights"),
        (("export", "dcp", "RUN", "OUT", "--rename", "x"), 2, "--rename: found 'x', needed GLOB"),
        (("export", "huggingface", "RUN", "OUT", "--run", "OUT"), 2, "found no config.yaml in"),
        (("export", "huggingface", "RUN", "OUT", "--tokenizer", "no"), 2, "found no file no"),
        (("import", "dcp", "RUN", "OUT"), 2, "found no .metadata, needed the folder of a DCP"),
        (("import", "huggingface", "RUN", "OUT"), 2, "found none, needed weights in safetensors"),
        (("export", "dcp", "DAMAGED", "OUT"), 1, "rank-00000.safetensors: "),
    ],
)
def test_what_cannot_be_is_said_and_leaves_nothing(
    keepstep: Keepstep, run: Path, tmp_path: Path, words: tuple[str, ...], code: int, sentence: str
) -> None:
    damaged = copied(run, tmp_path / "damaged")
    flip_byte(max((damaged / "checkpoints").glob("*")) / "rank-00000.safetensors")
    named = {"RUN": run, "OUT": tmp_path / "out", "DAMAGED": damaged}
    done = keepstep(*(named.get(word, word) for word in words))
    assert (done.exit_code, sentence in done.stderr) == (code, True), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["damaged"]
