"""Which checkpoint a generation begins with: one rule, decided on rank 0, the same on all ranks."""

from collections.abc import Sequence

from ..checkpoint import CheckpointError, Found, LocalStore, Restored, committed
from ..data import Cursor
from ..parallel import Exchange
from .build import Job
from .config import OnChange, RunConfig
from .errors import ConfigError, StoppedError
from .history import NormHistory
from .identity import checkpoint_folder
from .recovery.life import Life
from .skipped import Skipped
from .state import Progress, State

NEWEST, NOTHING = "newest", "nothing"


def choose(config: RunConfig, found: Sequence[Found], *, started: float) -> str:
    """What to begin with: NEWEST, NOTHING, or a step's number. Pure.

    Once the job itself has saved something, later generations take the newest; until then each one
    repeats the rule of the start.

    Args:
        found: committed checkpoints, the last committed first.
        started: unix seconds at which the job began.

    Raises:
        ConfigError: `run.resume` cannot be met by what is there.
    """
    rule, folder = config.run.resume, checkpoint_folder(config)
    if found and found[0].created >= started:
        return NEWEST
    if rule == "never" and found:
        raise ConfigError(
            f"run.resume=never: found a checkpoint of step {found[0].step} in {folder}, needed "
            "none; set another run.name, or run.resume=auto to go on from it"
        )
    if rule == "must" and not found:
        raise ConfigError(
            f"run.resume=must: found no checkpoint in {folder}, needed one; correct run.dir or "
            "checkpoint.path, or set run.resume=auto"
        )
    if rule.isdigit():
        steps = sorted({one.step for one in found})
        if int(rule) not in steps:
            raise ConfigError(
                f"run.resume={rule}: found checkpoints of the steps {steps} in {folder}, needed "
                f"one of {rule}; set one of those, or run.resume=auto"
            )
        return rule
    return NEWEST if found else NOTHING


def resume(
    job: Job,
    state: State,
    progress: Progress,
    norms: NormHistory,
    life: Life,
    *,
    skipped: Skipped,
) -> Restored | None:
    """Collective: loads what `choose` says into the rest; None for a fresh start.

    Raises:
        ConfigError: `run.resume` cannot be met.
        MismatchError, DataError: the checkpoint is of another model or other data.
        StoppedError: there are checkpoints and none is whole.
    """
    choice = _agreed_choice(job, life)
    if choice == NOTHING:
        return None
    step = None if choice == NEWEST else int(choice)
    try:
        restored = job.checkpoints.restore(state.tensors, step=step)
    except CheckpointError as error:
        raise StoppedError(str(error)) from error
    if restored is None:
        return None
    saved = dict(restored.progress)
    state.copy_to_twins()
    cursor = saved.pop("data")
    if (scale := saved.pop("loss_scale", None)) is not None:
        job.scale.load_state_dict(scale)
    norms.load_state_dict(saved.pop("grad_norms", []))
    progress.load_state_dict(saved)
    skips = cursor.pop("skips", [])
    if job.config.run.on_change is OnChange.refuse:
        skipped.load(skips)
        Cursor(job.order).load_state_dict(cursor)
    return restored


def _agreed_choice(job: Job, life: Life) -> str:
    """Rank 0 looks and tells; a refusal is raised on every rank."""
    answer = ""
    if life.world.rank == 0:
        found = committed(LocalStore(checkpoint_folder(job.config)))
        try:
            answer = "+" + choose(job.config, found, started=life.started)
        except ConfigError as error:
            answer = "-" + str(error)
    answer = Exchange(job.topology.control).gather_bytes(answer.encode())[0].decode()
    if answer[0] == "-":
        raise ConfigError(answer[1:])
    return answer[1:]
