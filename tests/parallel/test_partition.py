"""A network that goes silent between two ranks, each in a network namespace of its own: no packet
comes through and nobody says so."""

import ctypes
import os
import shutil
import subprocess
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from support.forks import fork, wait_for
from torch.distributed import FileStore

from keepstep.parallel import Links, join

_NEW_NET = 0x40000000


def in_namespace(pid: int, *words: str) -> None:
    subprocess.run(["nsenter", "-t", str(pid), "-n", *words], check=True, capture_output=True)


def can_make_namespaces() -> bool:
    if os.geteuid() or not shutil.which("ip") or not shutil.which("nsenter"):
        return False
    done = subprocess.run(
        ["unshare", "-n", "ip", "link", "add", "one0", "type", "veth", "peer", "name", "two0"],
        check=False,
        capture_output=True,
    )
    return done.returncode == 0


pytestmark = pytest.mark.skipif(
    not can_make_namespaces(), reason="needs the right to make network namespaces"
)


def wait_until(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert path.exists(), path.name


def train(folder: Path, rank: int) -> None:
    """Sums until that fails; writes when it did."""
    assert ctypes.CDLL(None, use_errno=True).unshare(_NEW_NET) == 0
    os.environ["GLOO_SOCKET_IFNAME"] = "wire0"
    (folder / f"in-{rank}").touch()
    wait_until(folder / "connected")
    links = Links()
    with links.recording():
        join(
            FileStore(str(folder / "store")),
            rank,
            2,
            device=torch.device("cpu"),
            timeout=timedelta(seconds=60),
        )
    links.limit_silence(1.5)
    steps = 0
    try:
        while True:
            dist.all_reduce(torch.ones(100_000))
            steps += 1
            if steps == 50:
                (folder / f"steps-{rank}").touch()
    except RuntimeError:
        (folder / f"broken-{rank}").write_text(repr(time.time()))


def test_a_silent_partition_is_found_by_both_sides_within_two_seconds(tmp_path: Path) -> None:
    pids = [fork(lambda rank=rank: train(tmp_path, rank)) for rank in range(2)]
    for rank in range(2):
        wait_until(tmp_path / f"in-{rank}")
    words = ["link", "add", "wire0", "type", "veth", "peer", "name", "wire0", "netns", str(pids[1])]
    in_namespace(pids[0], "ip", *words)
    for rank, pid in enumerate(pids):
        in_namespace(pid, "ip", "addr", "add", f"10.9.8.{rank + 1}/24", "dev", "wire0")
        in_namespace(pid, "ip", "link", "set", "wire0", "up")
        in_namespace(pid, "ip", "link", "set", "lo", "up")
    (tmp_path / "connected").touch()
    for rank in range(2):
        wait_until(tmp_path / f"steps-{rank}")
    # A route into nowhere: the kernel drops each packet without a word to its sender.
    cut = time.time()
    for pid in pids:
        in_namespace(pid, "ip", "neigh", "flush", "dev", "wire0")
        in_namespace(pid, "ip", "link", "set", "wire0", "arp", "off")
    assert [wait_for(pid) for pid in pids] == [0, 0]
    seconds = [float((tmp_path / f"broken-{rank}").read_text()) - cut for rank in range(2)]
    assert max(seconds) < 2.5, seconds
    assert min(seconds) > 0.5, seconds
