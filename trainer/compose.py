"""Command line -> one RunConfig, by Hydra; every mistake in it becomes one sentence.

No OmegaConf object leaves this file.
"""

import contextlib
import dataclasses
import difflib
import functools
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from ..parallel import set_variable
from .config import (
    ConstantConfig,
    CosineConfig,
    HuggingFaceConfig,
    InverseSqrtConfig,
    LinearConfig,
    LlamaConfig,
    MoEConfig,
    RunConfig,
    ViTConfig,
    WSDConfig,
)
from .errors import ConfigError
from .optim.config import AdamWConfig, LionConfig, MuonConfig, SGDConfig
from .recovery.verdict import EXIT_WRONG

_SCHEMAS: dict[str, dict[str, type]] = {
    "model": {
        "huggingface": HuggingFaceConfig,
        "llama": LlamaConfig,
        "moe": MoEConfig,
        "vit": ViTConfig,
    },
    "optim": {"adamw": AdamWConfig, "lion": LionConfig, "muon": MuonConfig, "sgd": SGDConfig},
    "schedule": {
        "constant": ConstantConfig,
        "cosine": CosineConfig,
        "inverse_sqrt": InverseSqrtConfig,
        "linear": LinearConfig,
        "wsd": WSDConfig,
    },
}

_SWEEP = ("-m", "--multirun")
_HYDRAS = re.compile(r"-|[+~]*hydra[./=]")
"""Begins a word that is for Hydra: its flags, and overrides of its own settings."""
_OPEN = ("model.config",)
"""Keys that hold whatever another package names."""

Job = Callable[[RunConfig, int | None], int]
Note = Callable[[int, Sequence[str], RunConfig | str, int], None]
"""(number, overrides, configuration or why it was refused, exit code): of a job of a sweep."""


@functools.cache
def register_schemas() -> None:
    """Tells Hydra the types behind the files in configs/; its store is the process's."""
    store = ConfigStore.instance()
    store.store(name="run_schema", node=RunConfig)
    for group, options in _SCHEMAS.items():
        for name, node in options.items():
            store.store(group=group, name=f"{name}_schema", node=node)


def compose(overrides: Sequence[str] = ()) -> RunConfig:
    """Composes one run from overrides such as `train.steps=50`, without a command line."""
    register_schemas()
    with _plain_errors(), hydra.initialize_config_module("keepstep.configs", version_base="1.3"):
        return _to_config(hydra.compose("run", overrides=list(overrides)))


def read_config(path: Path) -> RunConfig:
    """The configuration of a run, as its folder's config.yaml has it.

    Raises:
        ConfigError: no such file, or one that no run of this release wrote.
    """
    with _plain_errors():
        try:
            saved: Any = OmegaConf.load(path)
            chosen = {
                group: OmegaConf.structured(_chosen(saved[group], kinds))
                for group, kinds in _SCHEMAS.items()
            }
        except Exception as error:  # YAML and OmegaConf have classes of their own
            raise ConfigError(
                f"{path}: found no configuration that can be read ({type(error).__name__}), needed "
                "the config.yaml of a run; name the run's folder"
            ) from error
        return _to_config(OmegaConf.merge(OmegaConf.structured(RunConfig), chosen, saved))


def _chosen(section: Any, kinds: dict[str, type]) -> type:
    """The kind of a section: by its name, or else the smallest that has all of its keys."""
    if (named := kinds.get(str(section.get("name")))) is not None:
        return named
    fields = {kind: {field.name for field in dataclasses.fields(kind)} for kind in kinds.values()}
    able = (kind for kind in kinds.values() if set(section) <= fields[kind])
    return next(iter(sorted(able, key=lambda kind: len(fields[kind]))))


def run_hydra(
    argv: Sequence[str],
    job: Job,
    *,
    is_speaker: bool = True,
    note: Note = lambda number, words, config, code: None,
) -> int:
    """Runs `job(config, number)` once, or once a combination under `-m`; returns the worst code.
    Where nothing is asked of Hydra but a configuration, it is asked for that alone: its application
    composes twice.

    `number` is None for a single run and counts from 0 in a sweep, whose ended jobs are noted, by
    the process that ran them. Hydra's own flags (`--cfg job`, `--help`, `--info`) answer without
    running anything.

    Raises:
        ConfigError: for an unknown key, option or value, before any job has run.
    """
    if not any(_HYDRAS.match(word) for word in argv):
        return job(compose(argv), None)
    register_schemas()
    set_variable("HYDRA_FULL_ERROR", "1")  # Hydra then raises instead of printing and exiting
    codes: list[int] = []
    errors: list[ValueError] = []

    def task(composed: Any) -> None:
        hydra_config = HydraConfig.get()
        number = hydra_config.job.num if hydra_config.mode == RunMode.MULTIRUN else None
        words = list(hydra_config.overrides.task)
        if number is not None and is_speaker:
            sys.stdout.write(f"job {number}: {' '.join(words)}\n")
        found: RunConfig | str = ""
        try:
            found = _to_config(composed)
            codes.append(job(found, number))
        except ValueError as error:  # kept, since Hydra adds lines of its own to what passes it
            errors.append(error)
            found = str(error)
        if number is not None:
            note(number, words, found, EXIT_WRONG if isinstance(found, str) else codes[-1])

    main = hydra.main(version_base="1.3", config_path="pkg://keepstep.configs", config_name="run")
    with _plain_errors(), _arguments(argv), _quiet(not is_speaker and _asks_hydra(argv)):
        main(task)()
    if errors:
        raise errors[0]
    return max(codes, default=0)


def asks_sweep(argv: Sequence[str]) -> bool:
    """Whether the command line asks for a run of each combination, and for jobs at all."""
    return any(word in _SWEEP for word in argv) and not _asks_hydra(argv)


def _to_config(composed: Any) -> RunConfig:
    try:
        config = OmegaConf.to_object(composed)
    except AttributeError as error:  # a key that was added with +
        raise ConfigError(_unknown_key(str(error).split("'")[-2])) from error
    except ValueError as error:  # a __post_init__ spoke; its sentence is the cause of OmegaConf's
        raise ConfigError(_sentence(error)) from error
    assert isinstance(config, RunConfig)
    return config


@contextlib.contextmanager
def _arguments(argv: Sequence[str]) -> Iterator[None]:
    """Hydra reads its arguments from sys.argv and nowhere else, and flags before overrides."""
    flags = [word for word in argv if word in _SWEEP]
    rest = [word for word in argv if word not in flags]
    before, sys.argv = sys.argv, ["keepstep", *flags, *rest]
    try:
        yield
    finally:
        sys.argv = before


def _asks_hydra(argv: Sequence[str]) -> bool:
    """Whether Hydra answers by itself, on standard output, instead of running the job."""
    flags = ("--cfg", "-c", "--help", "-h", "--hydra-help", "--info", "-i")
    return any(word.split("=")[0] in flags for word in argv)


@contextlib.contextmanager
def _quiet(holds: bool) -> Iterator[None]:
    with contextlib.ExitStack() as open_files:
        if holds:
            nowhere = open_files.enter_context(open(os.devnull, "w"))
            open_files.enter_context(contextlib.redirect_stdout(nowhere))
        yield


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_sentence(error)) from error


def _sentence(error: BaseException) -> str:
    """What a person needs of Hydra's and OmegaConf's many-line messages."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    key = getattr(cause, "full_key", None)
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and key:
        return _unknown_key(key)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    if isinstance(cause, OmegaConfBaseException) and key:
        return f"{key}: {lines[0]}; see the comments in configs/run.yaml"
    missing = re.search(r"Could not find '([^']+)/([^'/]+)'", str(error))
    if missing:
        group, found = missing.groups()
        words = [line for line in lines if re.fullmatch(r"[\w.-]+", line)]
        options = [word for word in words if not word.endswith("_schema")]
        advice = _nearest(found, options) or f"set {group}={options[0]}"
        if found.startswith("submitit"):
            advice = 'run pip install "keepstep[slurm]"'
        return f"{group}: found {found!r}, needed one of {', '.join(options)}; {advice}"
    unknown = re.search(r"Could not override '([^']+)'", str(error))
    if unknown:
        return _unknown_key(unknown.group(1))
    return " ".join(lines)


def _unknown_key(key: str) -> str:
    keys = _keys()
    parent = key.rpartition(".")[0]
    if parent in _OPEN:
        return (
            f"{key}: found a key that {parent} has no value of yet, needed a plus before it, as "
            f"Hydra adds keys; write +{key}=VALUE"
        )
    if key in keys:  # it is one of another model or schedule than the chosen one
        group = key.split(".")[0]
        return (
            f"{key}: found a key that the chosen {group} has not, needed one of that {group}; "
            f"leave it out, or choose the {group} that has it"
        )
    advice = _nearest(key, keys) or "keepstep train --cfg job shows them all"
    return f"{key}: found no such key, needed one of configs/run.yaml; {advice}"


def _nearest(found: str, known: Sequence[str]) -> str | None:
    close = difflib.get_close_matches(found, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else None


def _keys() -> list[str]:
    """Every dotted key of a run and of the models and schedules that are chosen by name."""
    sections = {field.name: field.type for field in dataclasses.fields(RunConfig)}
    keys = list(sections)
    for name, kind in sections.items():
        kinds = _with_subclasses(kind) if isinstance(kind, type) else []
        keys += [f"{name}.{f.name}" for one in kinds for f in dataclasses.fields(one)]
    return sorted(set(keys))


def _with_subclasses(kind: type) -> list[type]:
    below: list[type] = kind.__subclasses__()
    return [kind, *(found for one in below for found in _with_subclasses(one))]
