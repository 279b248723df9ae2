"""Which code, configuration and data made a checkpoint: plain facts for its manifest."""

import functools
import platform
import subprocess
from typing import Any

import numpy
import torch


def lineage(
    *, config_digest: str, data_digest: str, seed: int, parent: str | None
) -> dict[str, Any]:
    """Facts for the manifest of a checkpoint whose run began from `parent`, a checkpoint's path."""
    return {
        "config_digest": config_digest,
        "data_digest": data_digest,
        "seed": seed,
        "git_commit": git_commit(),
        "parent": parent,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
        },
    }


@functools.cache
def git_commit() -> str | None:
    """The commit of the working folder, read once; None outside a repository or without git."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
