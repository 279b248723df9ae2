"""Whether a run's job lives: its first process says in the run's folder who it is, and whoever
looks asks the kernel. On another machine only what the run writes can be looked at."""

import contextlib
import json
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .files import write_atomically

JOB = "job.json"
# What a living job writes at least every ten seconds, and what it writes as it goes on.
_SIGNS = ("ledger.json", "metrics.jsonl", "events.jsonl", JOB)


@dataclass(frozen=True, kw_only=True, slots=True)
class Presence:
    """What is known of the last job of a run."""

    host: str
    begun: float
    """Unix seconds."""
    is_alive: bool | None
    """None where this machine is not the job's and cannot know."""
    silent_seconds: float
    """Since the job last wrote anything."""


def note_job(folder: Path) -> None:
    """Says that this process's job has the run now; for the one that holds its lock."""
    said = {
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "ticks": _ticks(os.getpid()),
        "begun": time.time(),
    }
    write_atomically(folder / JOB, json.dumps(said) + "\n")


def presence(folder: Path) -> Presence | None:
    """Whether the run's last job lives; None where no job said who it was. Answers at once."""
    said = _read(folder / JOB)
    if not said:
        return None
    is_here = said["machine"] == _machine()
    ticks = _ticks(int(said["pid"])) if is_here else None
    return Presence(
        host=str(said["host"]),
        begun=float(said["begun"]),
        is_alive=(ticks is not None and ticks == said["ticks"]) if is_here else None,
        silent_seconds=max(0.0, time.time() - _last_sign(folder)),
    )


def _machine() -> str:
    """This boot of this kernel, and the space in which its process numbers count."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def _ticks(pid: int) -> int | None:
    """When that process began, in the kernel's ticks, which with its number is unique; None where
    it has ended. 0 where the kernel does not say."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None if Path("/proc/self/stat").exists() else _answers(pid)
    return None if state in "ZX" else int(fields[18])


def _answers(pid: int) -> int | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return 0
    return 0


def _last_sign(folder: Path) -> float:
    moments = [0.0]
    for name in _SIGNS:
        with contextlib.suppress(OSError):
            moments.append((folder / name).stat().st_mtime)
    return max(moments)


def _read(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, json.JSONDecodeError):
        found = json.loads(path.read_text())
        if isinstance(found, dict) and {"host", "machine", "pid", "begun"} <= found.keys():
            return found
    return {}
