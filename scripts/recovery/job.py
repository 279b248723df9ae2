"""One started job of a side: its processes, found by a mark in their environment, and their end."""

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).parent.parent.parent
MEMORY = Path("/dev/shm")
MARK = "BENCH_JOB"


class JobError(Exception):
    """The job ended or stood still; says what it printed last."""


class Job:
    """Processes that end with the `with` block, whatever they started and whoever their parent is.

    Args:
        folder: where the job may write; its output goes to log.txt there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = uuid.uuid4().hex
        self.started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Job":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def start(
        self, command: Sequence[str | Path], variables: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables, MARK: self.mark}
        with open(self.folder / "log.txt", "ab") as log:
            process = subprocess.Popen(
                [str(word) for word in command],
                env=environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,  # where a relative PYTHONPATH holds
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def marked(self, name: str | None = None) -> list[int]:
        """Process ids of the job that run, those of one name alone where it is given."""
        mark, found = f"{MARK}={self.mark}".encode(), []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if (
                    entry.name.isdigit()
                    and mark in (entry / "environ").read_bytes().split(b"\0")
                    and (name is None or (entry / "comm").read_text().strip() == name)
                ):
                    found.append(int(entry.name))
        return sorted(found)

    def kill(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def end(self, *, seconds: float = 30.0) -> None:
        """Kills all of them, until none is left, and removes what they shared in memory; safe
        twice."""
        shared = {path for pid in self.marked() for path in memory_files(pid)}
        deadline = time.monotonic() + seconds
        while pids := self.marked():
            for pid in pids:
                self.kill(pid)
            for process in self.started:
                process.poll()
            if time.monotonic() > deadline:
                raise JobError(f"processes {pids}: found alive after {seconds} s of SIGKILL")
            time.sleep(0.01)
        for process in self.started:
            process.wait(seconds)
        for path in shared:
            path.unlink(missing_ok=True)

    def log_tail(self, characters: int = 1500) -> str:
        path = self.folder / "log.txt"
        return path.read_text(errors="replace")[-characters:] if path.exists() else ""


def memory_files(pid: int) -> list[Path]:
    """Files of /dev/shm that a process has open: they outlive a job that is killed."""
    found = []
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                path = entry.readlink()
                if path.parent == MEMORY and path.exists():
                    found.append(path)
    return found
