"""What a new run begins with: its model's initial values, or the weights of another run."""

import json
from pathlib import Path

from ..checkpoint import CheckpointError, Checkpoints, MismatchError, Store, committed
from ..checkpoint.exchange import RanksFailedError, share
from ..checkpoint.stores import open_place
from ..parallel import Exchange, initialise
from .build import Job
from .compose import read_config
from .config import RunConfig
from .errors import ConfigError, StoppedError
from .identity import CONFIG_FILE, checkpoint_folder, open_seal
from .state import State

_INNER = "checkpoints"


def begin_anew(job: Job, state: State) -> str | None:
    """Collective: gives every tensor the value it begins with. The path of the checkpoint whose
    weights are taken; None where `run.init_from` names none. Raises as `load_initial`.
    """
    if not job.is_drawn and job.plan.initial:
        initialise(job.module, job.plan, seed=job.config.train.seed)
        state.copy_to_twins()
        state.begin_averages(state.tensors)
    return load_initial(job, state)


def load_initial(job: Job, state: State) -> str | None:
    """Collective: fills what `run.init_only` names from the checkpoint that `run.init_from` names,
    and nothing else: no progress, no place in the data. Its path; None where none is named.

    Raises:
        ConfigError: there is no checkpoint there.
        MismatchError: it has other names, dtypes or shapes of what is to be filled.
        StoppedError: none there is whole.
    """
    config = job.config
    if config.run.init_from is None:
        return None
    exchange = Exchange(job.topology.control)
    place, name = _locate(config, exchange)
    source = Checkpoints(place, exchange, keep=1, seal=open_seal(config))
    try:
        found = source.restore(state.tensors, name=name, only=config.run.init_only, in_place=True)
    except CheckpointError as error:
        raise StoppedError(str(error)) from error
    except MismatchError:
        raise
    except ValueError as error:
        raise ConfigError(f"run.init_from={config.run.init_from}: {error}") from error
    if found is None:
        raise ConfigError(
            f"run.init_from={config.run.init_from}: found no checkpoint there, needed one; name a "
            "run's folder, a place of checkpoints, or one of them"
        )
    state.copy_to_twins()
    state.begin_averages(found.left)
    return found.path


def _locate(config: RunConfig, exchange: Exchange) -> tuple[Store, str | None]:
    """The place that `run.init_from` names, and the checkpoint in it where it names one."""
    text = (config.run.init_from or "").rstrip("/")

    def look() -> bytes:
        return json.dumps(_place_of(text, config)).encode()

    try:
        url, name = json.loads(share(exchange, look))
    except RanksFailedError as error:
        raise ConfigError(
            f"run.init_from={text}: found that it cannot be read ({error}), needed a place of "
            "checkpoints; correct it"
        ) from error
    return open_place(url, config.checkpoint.store), name


def _place_of(text: str, config: RunConfig) -> tuple[str, str | None]:
    above, _, last = text.rpartition("/")
    if last.startswith("step-"):
        return above or ".", last
    inner = f"{text}/{_INNER}"
    if (Path(text) / CONFIG_FILE).is_file() and not Path(inner).is_dir():
        saved = read_config(Path(text) / CONFIG_FILE)
        return checkpoint_folder(saved), None
    has_inner = not committed(open_place(text, config.checkpoint.store)) and committed(
        open_place(inner, config.checkpoint.store)
    )
    return inner if has_inner else text, None
