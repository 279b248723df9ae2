"""What makes a run that run: the settings its numbers depend on, apart from where and on how many
ranks it is trained. Owns the run's default name and its folder's configuration file."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import xxhash
from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from .config import OnChange, RunConfig
from .errors import ConfigError
from .telemetry.files import write_atomically

CONFIG_FILE = "config.yaml"
_DECIDING = ("model", "data", "precision", "optim", "schedule", "train")
_FREE = {
    *("data.prefetch_batches", "data.extent_bytes", "data.ahead_bytes", "data.held_bytes"),
    *("data.on_bad", "data.max_bad", "data.require_signed", "data.prepare.workers"),
    *("train.eval_every", "train.eval_samples", "train.max_skips", "train.sample_tokens"),
}

# How bytes are reached, fetched and kept changes none of them.
_FREE_SECTIONS = ("data.cache.", "data.store.", "data.fetch.")


def identity(config: RunConfig) -> dict[str, Any]:
    """The dotted settings that decide a run's numbers, in a fixed order."""
    every = flatten({name: asdict(getattr(config, name)) for name in _DECIDING})
    return {
        key: every[key]
        for key in sorted(every)
        if key not in _FREE and not key.startswith(_FREE_SECTIONS)
    }


def digest(values: dict[str, Any]) -> str:
    """xxh3-128 over dotted settings."""
    return xxhash.xxh3_128_hexdigest(repr(sorted(values.items())).encode())


def config_digest(config: RunConfig) -> str:
    """xxh3-128 over the whole configuration; equal on all ranks or the run does not start."""
    return digest(flatten(asdict(config)))


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted keys; enums as their values."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value) if isinstance(value, str) else value
    return flat


def named(config: RunConfig, label: str) -> RunConfig:
    """The configuration with a name for its run: by default the label and a digest of what decides
    the run's numbers, so that the same command goes on and another one begins anew."""
    name = config.run.name or f"{label}-{digest(identity(config))[:8]}"
    return replace(config, run=replace(config.run, name=name))


def text_label(config: RunConfig) -> str:
    """The main job's part of its run's name: model and text."""
    path = config.data.path
    text = config.data.name if path is None else Path(path.rstrip("/*")).stem or "text"
    return f"{config.model.name}-{text}"


def run_folder(config: RunConfig) -> Path:
    """Where the run lives."""
    if config.run.dir is not None:
        return Path(config.run.dir)
    return Path("runs") / (config.run.name or "run")


def checkpoint_folder(config: RunConfig) -> Path:
    """Where the run's checkpoints are."""
    path = config.checkpoint.path
    return Path(path) if path is not None else run_folder(config) / "checkpoints"


class RunFolder:
    """The run's folder while a job owns it; one job at a time (the kernel drops the lock with the
    process, so a kill leaves nothing to clean up)."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.path = run_folder(config)
        self._lock = FileLock(self.path / ".lock")

    def open(self) -> None:
        """Makes the folder, or checks that it holds this very run; writes `config.yaml`.

        Raises:
            ConfigError: the folder holds a run of another configuration, or another job has it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise ConfigError(
                f"run.dir={self.path}: found another job training in it, needed it free; wait for "
                "that job, or set another run.name"
            ) from error
        except OSError as error:
            raise ConfigError(
                f"run.dir={self.path}: {error.strerror}, needed a folder that can be written; "
                "set another run.dir"
            ) from error
        try:
            self._check()
        except ConfigError:
            self.close()
            raise
        write_atomically(self.path / CONFIG_FILE, _yaml(self.config))

    def close(self) -> None:
        """Lets another job have the folder; safe twice."""
        self._lock.release()

    def _check(self) -> None:
        path = self.path / CONFIG_FILE
        has_begun = (self.path / "metrics.jsonl").exists() or checkpoint_folder(
            self.config
        ).exists()
        if not path.exists() or not has_begun:
            return
        container: Any = OmegaConf.to_container(OmegaConf.load(path))
        saved = flatten(container)
        mine = flatten(_plain(self.config))
        names = identity(self.config)
        differing = [key for key in names if saved.get(key) != mine[key]]
        if differing and self.config.run.on_change is OnChange.refuse:
            shown = ", ".join(f"{k} was {saved.get(k)!r}, is {mine[k]!r}" for k in differing[:3])
            raise ConfigError(
                f"run.dir={self.path}: found a run of another configuration ({shown}"
                f"{', ...' if len(differing) > 3 else ''}), needed the same or an empty folder; "
                "set another run.name, or run.on_change=accept to go on with the new one"
            )


def _plain(config: RunConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _yaml(config: RunConfig) -> str:
    return OmegaConf.to_yaml(OmegaConf.create(_plain(config)))
