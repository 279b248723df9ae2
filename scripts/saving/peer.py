"""torch_checkpointing 0.1.1: what its asynchronous save and its load take, in the same processes.

It writes to local folders only, and never calls fsync, so that a save of it is not durable when it
says that it is. Set up as its page on hosts without an accelerator says (no pinned memory, no
copies behind the host's back), without O_DIRECT, which it leaves to the file system to refuse, and
without its resharder: with one it asks for a tensor on device "cuda" whatever there is
(metadata_manager.py, _all_gather_pickled_data), so that on CPU it loads the saved layout only.
The environment, which takes all else from ours:

    .venv/bin/python -m venv --without-pip ENV
    OURS=$PWD/.venv/lib/python3.11/site-packages
    echo "import site; site.addsitedir('$OURS')" > ENV/lib/python3.11/site-packages/ours.pth
    ENV/bin/python -m pip install torch_checkpointing==0.1.1
"""

import itertools
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist

from .rank import Rank

PATIENCE_SECONDS = 300


class TorchCheckpointing:
    def __init__(self, rank: Rank) -> None:
        from torch_checkpointing import (
            AsyncCheckpointSaverConfig,
            CheckpointManager,
            CheckpointStagerConfig,
        )
        from torch_checkpointing.checkpoint_process import CheckpointProcessConfig
        from torch_checkpointing.storage.filesystem import LocalFileSystemStorageConfig

        self.rank, self.payload = rank, {"model": rank.state}
        staging = CheckpointStagerConfig(use_pinned_memory=False, use_non_blocking_copy=False)
        self.manager = CheckpointManager.Config(
            save=AsyncCheckpointSaverConfig(
                staging_config=staging,
                process_config=CheckpointProcessConfig(
                    subprocess_init_timeout_secs=PATIENCE_SECONDS
                ),
            ),
            storage_config=LocalFileSystemStorageConfig(use_direct_io=False),
        ).build()
        self.manager.prewarm_staging(self.payload)
        self.turns = itertools.count()

    @property
    def cases(self) -> list[Callable[[], None]]:
        return [self.save_beside_a_step, self.save_and_load]

    def close(self) -> None:
        self.manager.close()

    def save_beside_a_step(self) -> None:
        folder = self._folder()
        dist.barrier()
        begun = time.perf_counter()
        written = self.manager.save(str(folder), self.payload)
        blocked = time.perf_counter() - begun
        self.rank.compute()
        waiting = time.perf_counter()
        with self.manager.lock():  # as before an optimizer step
            blocked += time.perf_counter() - waiting
        written.result()
        self.rank.note("torch_checkpointing blocked", blocked)
        self._remove(folder)

    def save_and_load(self) -> None:
        folder = self._folder()
        self.rank.settle()
        with self.rank.timed("torch_checkpointing save"):
            self.manager.save(str(folder), self.payload).result()
        for name in ("torch_checkpointing load, disk", "torch_checkpointing load"):
            if "disk" in name:
                self.rank.forget(folder)
            with self.rank.timed(name):
                self.manager.load(str(folder), into=self.payload)
        self._remove(folder)

    def _folder(self) -> Path:
        return self.rank.folder / f"torch_checkpointing-{next(self.turns)}"

    def _remove(self, folder: Path) -> None:
        dist.barrier()
        if self.rank.rank == 0:
            shutil.rmtree(folder)
