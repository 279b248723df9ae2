"""What makes a run that run: the settings its numbers depend on, apart from where and on how many
ranks it is trained. Owns the run's default name and its folder's configuration file."""

from dataclasses import asdict, fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import xxhash
from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from ..checkpoint import Store, committed
from ..checkpoint.claims import Claim, claim
from ..checkpoint.seal import Seal
from ..checkpoint.stores import open_place
from .config import OnChange, RunConfig
from .errors import ConfigError
from .recovery.chaos import Chaos
from .recovery.life import Life
from .telemetry.alive import note_job
from .telemetry.audit import append
from .telemetry.files import write_atomically
from .telemetry.lineage import note_surroundings
from .telemetry.scrub import scrub

CONFIG_FILE = "config.yaml"
TOKENIZER_FILE = "tokenizer.json"
_DECIDING = ("model", "data", "precision", "optim", "schedule", "train")
_FREE = {
    *("data.prefetch_batches", "data.extent_bytes", "data.ahead_bytes", "data.held_bytes"),
    *("data.on_bad", "data.max_bad", "data.require_signed", "data.prepare.workers"),
    "optim.ema_eval",
    *("train.eval_every", "train.eval_samples", "train.max_skips", "train.sample_tokens"),
}

# How bytes are reached, fetched and kept changes none of them.
_FREE_SECTIONS = ("data.cache.", "data.store.", "data.fetch.")


def identity(config: RunConfig) -> dict[str, Any]:
    """The dotted settings that decide a run's numbers, in a fixed order."""
    every = flatten({name: asdict(getattr(config, name)) for name in _DECIDING})
    if config.run.init_from is not None:
        every |= {f"run.{name}": getattr(config.run, name) for name in ("init_from", "init_only")}
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


def checkpoint_folder(config: RunConfig) -> str:
    """Where the run's checkpoints are: a folder or a URL."""
    return config.checkpoint.path or str(run_folder(config) / "checkpoints")


def planned_faults(config: RunConfig, life: Life) -> Chaos:
    """The faults of a rank, with the marks of those that have struck."""
    return Chaos(
        config.chaos.plan,
        rank=life.world.rank,
        size=life.world.world_size,
        seed=config.chaos.seed,
        cut=life.links.shut,
        folder=run_folder(config) / "chaos",
        checkpoints=Path(checkpoint_folder(config).removeprefix("file://")),
    )


def open_checkpoints(config: RunConfig) -> Store:
    """The place of the run's checkpoints; nothing is asked of it. Raises as `open_place`."""
    return open_place(checkpoint_folder(config), config.checkpoint.store)


def open_seal(config: RunConfig) -> Seal:
    """What the run signs and encrypts with, its key files read.

    Raises:
        ConfigError: one of them is no such key.
    """
    try:
        return Seal.of(config.checkpoint.seal)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def claim_checkpoints(config: RunConfig) -> Claim:
    """Claims the place of the checkpoints for this job. Rank 0 only, once a job.

    Raises:
        ConfigError: it is another run's, a live job's, or cannot be written.
    """
    try:
        place, run = open_checkpoints(config), config.run.name or run_folder(config).name
        return claim(place, run, takes_over=config.run.on_change is OnChange.accept)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    except OSError as error:
        raise ConfigError(
            f"checkpoint.path={checkpoint_folder(config)}: found that it cannot be written "
            f"({error}), needed a place that can; set another checkpoint.path"
        ) from error


class RunFolder:
    """The run's folder while a job owns it; one job at a time (the kernel drops the lock with the
    process, so a kill leaves nothing to clean up)."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.path = run_folder(config)
        self.claim: Claim | None = None
        """The place of the checkpoints, claimed, while the folder is open."""
        self._lock = FileLock(self.path / ".lock")

    def open(self) -> None:
        """Makes the folder, or checks that it holds this very run; writes `config.yaml` and who
        has it; claims the place of the checkpoints.

        Raises:
            ConfigError: the folder or that place holds another run, or another job has it.
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
            self.claim = claim_checkpoints(self.config)
        except ConfigError:
            self.close()
            raise
        note_surroundings(self.path)
        write_atomically(self.path / CONFIG_FILE, _yaml(self.config))
        note_job(self.path)

    def close(self) -> None:
        """Lets another job have the folder; safe twice."""
        if self.claim is not None:
            self.claim.close()
        self._lock.release()

    def _check(self) -> None:
        path = self.path / CONFIG_FILE
        has_begun = (self.path / "metrics.jsonl").exists() or committed(
            open_checkpoints(self.config)
        )
        if not path.exists() or not has_begun:
            return
        container: Any = OmegaConf.to_container(OmegaConf.load(path))
        saved = flatten(container)
        mine = flatten(plain(self.config))
        names = identity(self.config)
        differing = [key for key in names if saved.get(key) != mine[key]]
        if differing and self.config.run.on_change is OnChange.accept:
            changes = {k: [scrub(saved.get(k), k), scrub(mine[k], k)] for k in differing}
            append(self.path, "override", changes=changes)
        elif differing:
            shown = ", ".join(f"{k} was {saved.get(k)!r}, is {mine[k]!r}" for k in differing[:3])
            raise ConfigError(
                f"run.dir={self.path}: found a run of another configuration ({shown}"
                f"{', ...' if len(differing) > 3 else ''}), needed the same or an empty folder; "
                "set another run.name, or run.on_change=accept to go on with the new one"
            )


def plain(config: RunConfig) -> dict[str, Any]:
    """The configuration as YAML and JSON may hold it; enums as their names."""
    return {field.name: _plain(getattr(config, field.name)) for field in fields(config)}


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if is_dataclass(value):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
    return value


def _yaml(config: RunConfig) -> str:
    return OmegaConf.to_yaml(OmegaConf.create(plain(config)))
