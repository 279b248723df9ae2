"""Every preset composes; every key stands in the files with its default and a comment."""

import dataclasses
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import keepstep.configs
from keepstep.trainer.compose import compose
from keepstep.trainer.config import LlamaConfig, MoEConfig, RunConfig
from keepstep.trainer.models.llama import Llama
from keepstep.trainer.models.moe import moe

FOLDER = Path(keepstep.configs.__file__).parent
PRESETS = sorted(path.relative_to(FOLDER).with_suffix("") for path in FOLDER.glob("*/*.yaml"))
# Groups in which each choice has keys of its own.
CHOICES = [path for path in PRESETS if path.parts[0] in ("optim", "schedule")]
# Where the keys of a group are written out: the file of its default choice, and what it lacks.
SPELLED_OUT = {
    "model": ("model/llama_tiny",),
    "data": ("run", "data/shakespeare"),
    "precision": ("precision/fp32",),
    "optim": ("optim/adamw",),
    "schedule": ("schedule/cosine",),
}
LINE = re.compile(r"^(?P<indent> *)(?P<key>\w+):(?P<value>[^#]*)(?P<comment># \S.*)?$")


def entries(file: str, section: str) -> Iterator[tuple[str, str | None]]:
    """Each key of a section, dotted below it, and its comment; run.yaml holds sections, the others
    are one. A key that only holds others has no comment of its own."""
    inside, above = file != "run", list[tuple[int, str]]()
    for line in (FOLDER / f"{file}.yaml").read_text().splitlines():
        found = LINE.match(line)
        if found is None:
            continue
        depth = len(found["indent"])
        if file == "run" and not depth:
            inside = found["key"] == section
        elif inside and found["key"] != "defaults":
            above = [one for one in above if one[0] < depth]
            if not found["value"].strip() and found["comment"] is None:
                above.append((depth, found["key"]))
            else:
                yield ".".join([*(key for _, key in above), found["key"]]), found["comment"]


def fields(config: Any) -> list[str]:
    """Dotted names of all values of a configuration."""
    found = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name, None)
        is_section = dataclasses.is_dataclass(value) and not isinstance(config, type)
        found += [f"{field.name}.{x}" for x in fields(value)] if is_section else [field.name]
    return found


@pytest.mark.parametrize("preset", PRESETS, ids=str)
def test_every_preset_composes(preset: Path) -> None:
    group, name = preset.parts
    chosen = getattr(compose([f"{group}={name}"]), group)
    assert getattr(chosen, "name", name) == name


@pytest.mark.parametrize("section", fields(RunConfig))
def test_every_key_stands_in_the_files_with_a_comment(section: str) -> None:
    files = SPELLED_OUT.get(section, ("run",))
    written = dict(entry for file in files for entry in entries(file, section))
    assert sorted(written) == sorted(fields(getattr(compose(), section)))
    assert [key for key, comment in written.items() if comment is None] == []


@pytest.mark.parametrize("preset", CHOICES, ids=str)
def test_every_choice_says_its_keys_and_their_defaults(preset: Path) -> None:
    group, name = preset.parts
    written = dict(entries(str(preset), group))
    chosen = getattr(compose([f"{group}={name}"]), group)
    assert sorted(written) == sorted(fields(chosen))
    assert None not in written.values()
    assert chosen == type(chosen)()
    assert chosen.name == name


def test_the_tiny_mixture_of_experts_says_its_keys_and_their_defaults() -> None:
    written = dict(entries("model/moe_tiny", "model"))
    chosen = compose(["model=moe_tiny"]).model
    assert sorted(written) == sorted(fields(chosen))
    assert None not in written.values()
    for name in ("load_balance", "balance_bias_rate", "balance_loss_weight"):
        assert getattr(chosen, name) == MoEConfig.__dataclass_fields__[name].default


@pytest.mark.parametrize("section", sorted(set(fields(RunConfig)) - {"model", "data", "schedule"}))
def test_a_default_in_the_files_is_the_default_of_its_class(section: str) -> None:
    config = getattr(compose(), section)
    assert config == type(config)()


def test_defaults_of_sections_with_required_keys_are_those_of_their_class() -> None:
    config = compose()
    assert config.data == type(config.data)(name="shakespeare")
    defaults = {f.name: f.default for f in dataclasses.fields(LlamaConfig)}
    wanted = {k: v for k, v in defaults.items() if v is not dataclasses.MISSING}
    assert len(wanted) >= 5
    assert {name: getattr(config.model, name) for name in wanted} == wanted


@pytest.mark.parametrize(
    ("preset", "billions"),
    [
        *(("llama_125m", 0.1095), ("llama_1b", 1.236), ("llama_8b", 8.030)),
        *(("llama_70b", 70.554), ("moe_8x7b", 46.703)),
    ],
)
def test_a_preset_has_the_parameters_of_its_name(preset: str, billions: float) -> None:
    model = compose([f"model={preset}"]).model
    assert isinstance(model, LlamaConfig)
    make = partial(moe, model) if isinstance(model, MoEConfig) else partial(Llama, model)
    with torch.device("meta"):
        module = make(vocabulary_size=model.vocabulary_size, max_length=8)
    count = sum(parameter.numel() for parameter in module.parameters())
    assert count / 1e9 == pytest.approx(billions, rel=1e-3)
