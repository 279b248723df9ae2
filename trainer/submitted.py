"""This process as a task of a job that submitit has started, on SLURM or on this machine."""

import sys
from typing import Any

from ..parallel import World, read_world
from .errors import ConfigError


def world_of_job(before: World) -> World:
    """Who this process is in its job: as submitit says where that started it, else as the launcher
    did, which was `before`.

    Raises:
        ConfigError: submitit was asked to submit from under torchrun, by each of its ranks.
    """
    task = _task()
    if task is None:
        return before
    if before.launched:
        raise ConfigError(
            f"hydra/launcher: found submitit asked by {before.world_size} ranks of torchrun, "
            "needed one process that submits; start it with keepstep train -m, or python"
        )
    if task.num_tasks > 1 and not read_world().launched:
        from submitit.helpers import TorchDistributedEnvironment

        # Each rank takes the device of its own number, so all of them stay visible.
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
    return read_world()


def told(error: RuntimeError) -> str | None:
    """What submitit's error says in one line: a cluster refused, or a job ended without an answer;
    None for an error of anybody else."""
    if type(error).__module__.partition(".")[0] != "submitit":
        return None
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "no word")
    return (
        f"hydra/launcher: found that a job was not run to its end ({said}), needed each to answer; "
        "its log lies in .submitit of the sweep's folder"
    )


def _task() -> Any:
    """submitit's view of this process; None where it has not started it."""
    submitit = sys.modules.get("submitit")
    if submitit is None:
        return None
    try:
        task = submitit.JobEnvironment()
    except RuntimeError:
        return None
    return task
