"""The node apart from its GPUs: memory, /dev/shm, descriptors, cores; and what a run needs of them.

Read from the kernel; where it does not say (another system than Linux) a fact is None.
"""

import os
import resource
from dataclasses import dataclass
from pathlib import Path

import torch

from .finding import GIB, Finding, Level, judged

_AREA = "node"
_SHM = Path("/dev/shm")
# What Python, torch and the guardians keep open beside data, stores and the links between ranks.
_OWN_FILES, _FILES_A_RANK = 256, 4
_UNBOUNDED = 2**60


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """What this node has."""

    shm_free: int | None
    memory_total: int | None
    memory_free: int | None
    """Bytes that programs can still take, within the bounds of this container."""
    files: int
    """Descriptors that a process may open."""
    files_most: int
    """What it may raise that to by itself."""
    cores: float
    """That this process may use, within the bounds of this container."""
    threads: int
    """That torch would use in each rank."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """What the ranks of this node need of it for the configured run; bytes of all of them."""

    ranks: int
    world_size: int
    slots: int
    """Of snapshots in memory."""
    cache: int
    """That the data's cache may hold in memory."""
    training: int
    """Parameters, gradients, optimizer and what is gathered, where that lies in the host."""
    files: int
    """Descriptors that data and stores of a rank may hold open."""


def read_host() -> Host:
    """Asks the kernel."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    total, free = _memory()
    return Host(
        shm_free=_free(_SHM),
        memory_total=total,
        memory_free=free,
        files=_bounded(soft),
        files_most=_bounded(hard),
        cores=_cores(),
        threads=torch.get_num_threads(),
    )


def _bounded(limit: int) -> int:
    return _UNBOUNDED if limit == resource.RLIM_INFINITY else limit


def _free(folder: Path) -> int | None:
    if not folder.is_dir():
        return None
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _memory() -> tuple[int | None, int | None]:
    """Bytes in all and free, of the machine or of the control group where that is less."""
    path = Path("/proc/meminfo")
    if not path.exists():
        return None, None
    lines = (line.split() for line in path.read_text().splitlines())
    kib = {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) > 1}
    total, free = kib["MemTotal"] * 1024, kib["MemAvailable"] * 1024
    group = Path("/sys/fs/cgroup")
    bound, used = _number(group / "memory.max"), _number(group / "memory.current")
    if bound is None or used is None:
        return total, free
    return min(total, bound), min(free, max(0, bound - used))


def _number(path: Path) -> int | None:
    """Of a control file; None where there is none, or no bound."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _cores() -> float:
    is_bound = hasattr(os, "sched_getaffinity")
    count = float(len(os.sched_getaffinity(0)) if is_bound else os.cpu_count() or 1)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return count
    return count if quota == "max" else min(count, int(quota) / int(period))


def judge_host(found: Host, need: Need) -> list[Finding]:
    """Memory, /dev/shm, descriptors and cores against the need of the node's ranks."""
    looks = (_memory_for, _shm_for, _files_for, _cores_for)
    return [look(found, need) for look in looks]


def _memory_for(found: Host, need: Need) -> Finding:
    if found.memory_free is None or found.memory_total is None:
        return judged(_AREA, "memory", "this system does not say", worst=None)
    wanted = need.slots + need.training
    words = f"{found.memory_free / GIB:.1f} GiB free of {found.memory_total / GIB:.1f} GiB"
    return judged(
        *(_AREA, "memory", words),
        worst=Level.problem if wanted > found.memory_free else None,
        needed=f"{wanted / GIB:.2f} GiB for {need.ranks} ranks, without activations",
        remedy="fewer ranks a node, more nodes to shard over, or recovery.slots=2",
    )


def _shm_for(found: Host, need: Need) -> Finding:
    if found.shm_free is None:
        return judged(
            *(_AREA, "/dev/shm", "no such folder"),
            worst=Level.warning,
            needed="it, for snapshots that outlive the job's processes",
            remedy="mount a tmpfs there; until then a job that is killed whole goes back to its "
            "newest checkpoint",
        )
    wanted = need.slots + need.cache
    return judged(
        *(_AREA, "/dev/shm", f"{found.shm_free / GIB:.2f} GiB free"),
        worst=Level.warning if wanted > found.shm_free else None,
        needed=f"{wanted / GIB:.2f} GiB for the snapshots and data cache of {need.ranks} ranks",
        remedy="docker run --shm-size, an emptyDir of medium Memory, or mount -o remount,size=...; "
        "until then snapshots have no name and end with their job",
    )


def _files_for(found: Host, need: Need) -> Finding:
    wanted = _OWN_FILES + need.files + _FILES_A_RANK * need.world_size
    is_short = wanted > found.files
    return judged(
        *(_AREA, "open files", f"{found.files:,}" if found.files < _UNBOUNDED else "no bound"),
        worst=(Level.problem if wanted > found.files_most else Level.warning) if is_short else None,
        needed=f"{wanted:,} in a rank's processes",
        remedy="ulimit -n 65536 before the launch, or LimitNOFILE= of the service",
    )


def _cores_for(found: Host, need: Need) -> Finding:
    cores, wanted = found.cores, need.ranks * found.threads
    words = f"{cores:g} cores, {found.threads} threads a rank"
    least = max(1, int(cores // need.ranks))
    return judged(
        *(_AREA, "cores", words),
        worst=Level.warning if wanted > cores else None,
        needed=f"{need.ranks} ranks x {found.threads} threads = {wanted} cores or more",
        remedy=f"OMP_NUM_THREADS={least}" if need.ranks <= cores else "fewer ranks on this node",
    )
