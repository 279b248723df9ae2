"""What a snapshot, a durable save and a restore cost, beside torch's own ways, torch_checkpointing
and the machine's limits, in turn in the same processes. Prints a table and writes JSON under
scripts/results/ (with at least 5 turns).

    blocked   what the loop waits for a save whose copy runs beside a forward and backward
    save      from its begin until it is durable
    restore   from the checkpoint's path until the live tensors hold it
    steps     of ten copies each, with and without a snapshot; a core idle: on one rank alone, so
              that the copy has a core of its own, as beside a GPU
    disk      of a restore or read: after the kernel was told to forget the files; else they lie in
              its memory
    bucket    the same on an S3 server on loopback (SeaweedFS), which shares the cores

--peers names the interpreter of an environment that has torch_checkpointing beside all of ours
(scripts/saving/peer.py says how it is made); the ranks run under it. What is left out (--skip):
disk, bucket, metadata.

    scripts/bench_checkpoint --turns 5 --mib 1000 --peers /tmp/peers/tc/bin/python
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from saving.bucket import NAME, Bucket
from saving.disk import Disk
from saving.metadata import metadata_seconds
from saving.peer import TorchCheckpointing
from saving.rank import Rank
from saving.report import ratios, show, write
from support.seaweed import CREDENTIALS, seaweed

RESULTS = Path(__file__).parent / "results"
SIDES = ("disk", "bucket", "metadata")


def job(asked: argparse.Namespace) -> None:
    """One rank, under torchrun."""
    dist.init_process_group("gloo")
    rank = Rank(asked.mib, Path(asked.folder))
    with contextlib.ExitStack() as stack:
        cases: list[Callable[[], None]] = []
        if "disk" not in asked.skip:
            cases += stack.enter_context(contextlib.closing(Disk(rank))).cases
        if asked.peers:
            cases += stack.enter_context(contextlib.closing(TorchCheckpointing(rank))).cases
        if asked.endpoint:
            cases += Bucket(rank, asked.endpoint).cases
        for turn in range(asked.turns + 1):
            for case in cases if turn % 2 == 0 else reversed(cases):
                case()
            dist.barrier()
            if rank.rank == 0:
                print(f"turn {turn} of {asked.turns}", file=sys.stderr, flush=True)
            dist.barrier()
    # The first turn opened files and warmed buffers.
    seconds = {name: found[1:] for name, found in rank.seconds.items()}
    if rank.rank == 0:
        most = {name: max(found) for name, found in rank.mib.items()}
        print(json.dumps({"bytes": rank.bytes * rank.size, "seconds": seconds, "memory": most}))
    dist.destroy_process_group()


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="keepstep-bench-", dir=asked.place) as folder:
        place = Path(folder)
        found: dict[str, Any] = {"ranks": asked.ranks, "missing": {}}
        with server(place, is_wanted="bucket" not in asked.skip) as endpoint:
            found |= timings(asked, place, endpoint)
        found["ratios"] = ratios(found["seconds"])
        if not asked.peers:
            found["missing"]["torch_checkpointing"] = "no --peers"
        if "metadata" not in asked.skip:
            found["metadata"] = metadata_seconds(place / "metadata")
    return found


@contextlib.contextmanager
def server(place: Path, *, is_wanted: bool) -> Iterator[str | None]:
    if not is_wanted:
        yield None
        return
    os.environ.update(CREDENTIALS)
    (place / "seaweed").mkdir()
    with seaweed(place / "seaweed", [NAME]) as endpoint:
        yield endpoint


def timings(asked: argparse.Namespace, place: Path, endpoint: str | None) -> dict[str, Any]:
    command = [
        *(asked.peers or sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *(f"--nproc-per-node={asked.ranks}", __file__, "--job", f"--folder={place}"),
        *(f"--turns={asked.turns}", f"--mib={asked.mib}", "--skip", *asked.skip),
        *([f"--endpoint={endpoint}"] if endpoint else []),
        *([f"--peers={asked.peers}"] if asked.peers else []),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"the job failed with exit code {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--mib", type=int, default=1000, help="of the state of all ranks")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--place", help="a folder of the disk to measure; the system's otherwise")
    parser.add_argument("--peers", metavar="PYTHON", help="interpreter of the peers' environment")
    parser.add_argument("--skip", nargs="*", choices=SIDES, default=[])
    parser.add_argument("--job", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--endpoint", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.job:
        return job(asked)
    found = measure(asked)
    print(f"\n{show(found)}")
    if asked.turns >= 5 and not asked.skip:
        path = RESULTS / f"bench_checkpoint_{asked.mib}mib.json"
        write(found, path)
        print(f"written: {path}")


if __name__ == "__main__":
    main()
