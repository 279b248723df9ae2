"""One rank of the plain side: torchrun restarts all of them when one dies.

Needs torch alone, and TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1: else the first restart on gloo fails,
since the ranks read one another's old addresses in the store that torchrun's agent keeps.

    torchrun --standalone --max-restarts 1000 --nproc-per-node 4 plain.py FOLDER
"""

# ruff: noqa: E402
from steps import may_be_killed

may_be_killed()  # before torch is imported: a restart may be hit as well

import os
import sys
from pathlib import Path

import torch.distributed as dist
from loop import train

if __name__ == "__main__":
    dist.init_process_group("gloo")
    train(Path(sys.argv[1]), generation=int(os.environ["TORCHELASTIC_RESTART_COUNT"]))
