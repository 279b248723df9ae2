"""One rank of the nvidia-resiliency-ext side: its in-process wrapper calls the loop anew.

Ranks from ACTIVE on are reserves, which wait with all imported and take a dead rank's place. It is
started without torchrun, which ends all ranks when one dies. Rank 0 holds the store: killing it
ends the job, so the bench kills others. The environment:

    python3.11 -m venv ENV
    ENV/bin/pip install "torch==2.13.0" numpy psutil nvidia-ml-py pynvml pyyaml defusedxml packaging
    ENV/bin/pip install --no-deps nvidia-resiliency-ext==0.4.1

    RANK=0 WORLD_SIZE=5 MASTER_ADDR=127.0.0.1 MASTER_PORT=... ENV/bin/python nvrx.py FOLDER ACTIVE
"""

import argparse
import os
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from loop import train
from nvidia_resiliency_ext import inprocess
from steps import may_be_killed

# Of the gloo group, as in its examples: where a survivor waits for another, it waits so long.
PATIENCE = timedelta(seconds=10)
TUNED = timedelta(seconds=0.1)
INTERVALS = (
    *("monitor_thread_interval", "monitor_process_interval", "heartbeat_interval"),
    *("progress_watchdog_interval", "last_call_wait"),
)


def main(folder: Path, active: int, *, is_tuned: bool) -> None:
    rank = int(os.environ["RANK"])
    # The loop's store lies beside the wrapper's, as in its examples, and outlives each call.
    store = dist.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]) + 1,
        is_master=rank == 0,
        wait_for_workers=False,
    )

    def call(call_wrapper: inprocess.CallWrapper | None = None) -> None:
        assert call_wrapper is not None
        if rank > 0:
            may_be_killed()
        generation = call_wrapper.iteration
        dist.init_process_group(
            "gloo",
            store=dist.PrefixStore(str(generation), store),
            rank=int(os.environ["RANK"]),
            world_size=int(os.environ["WORLD_SIZE"]),
            timeout=PATIENCE,
        )
        train(folder, generation=generation)

    assignment = inprocess.rank_assignment
    inprocess.Wrapper(
        rank_assignment=inprocess.Compose(
            assignment.MaxActiveWorldSize(active), assignment.ShiftRanks()
        ),
        **dict.fromkeys(INTERVALS if is_tuned else (), TUNED),
    )(call)()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("active", type=int)
    parser.add_argument("--tuned", action="store_true")
    asked = parser.parse_args()
    main(asked.folder, asked.active, is_tuned=asked.tuned)
