"""Two real torchrun agents, each with a memory of its own, as two machines have: one is lost with
all that it held, the other goes on alone, and a new one is taken in."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from support.job import Ran, overrides, start_job
from torch.distributed import TCPStore

from keepstep.trainer.telemetry.files import write_atomically

TESTS = Path(__file__).parents[2]
STEPS = 80
# Each micro-batch asks how long it is to take, so that no run is over before the test comes to it.
SCRIPT = """
import sys, time
from dataclasses import replace
from pathlib import Path
from support.job import tiny
from keepstep.trainer import Trainer, supervise

def paced(config):
    made, pace = tiny()(config), Path(__file__).with_name("pace")

    def loss(module, batch):
        time.sleep(float(pace.read_text()))
        return made.loss(module, batch)

    return replace(made, loss=loss)

supervise(Trainer.fit, paced, sys.argv[1:])
"""


def can_have_own_memory() -> bool:
    if os.geteuid() or not shutil.which("unshare"):
        return False
    mounts = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]
    return subprocess.run(mounts, check=False, capture_output=True).returncode == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not can_have_own_memory(), reason="needs the right to make mount namespaces"
    ),
]


class Agents:
    """Agents of one job; the store by which they meet is this process's, and outlives them."""

    def __init__(self, folder: Path, words: list[str]) -> None:
        self.store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.folder, self.words = folder, words
        self.started: list[subprocess.Popen[bytes]] = []
        (folder / "job.py").write_text(SCRIPT)
        self.pace(0.3)

    def pace(self, seconds: float) -> None:
        """What each micro-batch takes from now on."""
        write_atomically(self.folder / "pace", str(seconds))

    def start(self) -> subprocess.Popen[bytes]:
        """One more, with two ranks."""
        own_memory = 'mount -t tmpfs tmpfs /dev/shm && exec "$@"'
        # Generous, or else agents on a busy machine take one another for dead. None of it is waited
        # for longer than guardians wait for those that are gone.
        rendezvous = "is_host=0,last_call_timeout=8,keep_alive_interval=1,keep_alive_max_attempt=12"
        launcher = [
            *(sys.executable, "-m", "torch.distributed.run", "--nnodes=1:2", "--nproc-per-node=2"),
            *("--rdzv-backend=c10d", "--rdzv-id=agents", "--max-restarts=9"),
            *(f"--rdzv-endpoint=127.0.0.1:{self.store.port}", f"--rdzv-conf={rendezvous}"),
            "--monitor-interval=0.2",
        ]
        job = [str(self.folder / "job.py"), *self.words]
        variables = {
            "OMP_NUM_THREADS": "1",
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
            "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, sys.path)]),
        }
        with open(self.folder / f"agent-{len(self.started)}", "wb") as log:
            agent = subprocess.Popen(
                ["unshare", "-m", "sh", "-c", own_memory, "sh", *launcher, *job],
                env={**os.environ, **variables},
                stdout=log,
                stderr=log,
            )
        self.started.append(agent)
        return agent

    def until(self, holds: Callable[[], bool], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            logs = [path.read_text()[-3000:] for path in sorted(self.folder.glob("agent-*"))]
            assert time.monotonic() < deadline, "\n".join([f"no {what}", *logs])
            time.sleep(0.05)


def lose(agent: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the whole tree, as when the machine goes; its memory goes with the last of it."""
    for pid in tree(agent.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    agent.wait()


def tree(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [one for child in task.read_text().split() for one in tree(int(child))]
    return found


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[Agents]:
    words = overrides(tmp_path / "run", "parallel.replicate=2", steps=STEPS, save_every=0)
    made = Agents(tmp_path, words)
    yield made
    for agent in made.started:
        if agent.poll() is None:
            lose(agent)


def test_a_lost_node_costs_no_step_and_a_new_one_is_taken_in(
    agents: Agents, tmp_path: Path
) -> None:
    ran = Ran(tmp_path / "run")

    def worlds() -> list[int]:
        return [event["world_size"] for event in ran.events("start")]

    def has_ten_steps_of_four() -> bool:
        begun = max((event["step"] for event in ran.events("restore")), default=0)
        return worlds()[-1:] == [4] and max(ran.losses, default=0) >= begun + 10

    first = agents.start()
    second = agents.start()  # may come so late that the first has begun alone
    agents.until(has_ten_steps_of_four, 240.0, "ten steps of four ranks")
    lose(second)
    agents.until(lambda: bool(ran.events("salvage")), 240.0, "state put together")
    (saved,) = ran.events("salvage")
    agents.until(lambda: max(ran.losses) > saved["step"] + 2, 120.0, "more steps")
    agents.pace(1.5)
    third = agents.start()
    agents.until(lambda: worlds()[-1] == 4, 240.0, "start with the new one")
    agents.pace(0.0)
    agents.until(lambda: first.poll() is not None, 180.0, "end")
    third.wait(60)
    assert (first.returncode, third.returncode) == (0, 0)
    assert worlds()[-3:] == [4, 2, 4]
    assert saved["step"] >= 9
    assert len(saved["lost"]) == 2
    stopped = ran.events("preemption")[-1]["step"]  # torchrun asks the ranks to end, and they save
    assert [event["step"] for event in ran.events("restore")][-2:] == [saved["step"], stopped]
    straight = Ran(tmp_path / "straight")
    words = [*agents.words, f"run.dir={straight.folder}"]
    with start_job(4, words, folder=tmp_path) as job:
        assert job.wait(120.0) == [0] * 4, job.errors(0)
    assert sorted(ran.losses) == sorted(straight.losses) == list(range(1, STEPS + 1))
    losses = [
        torch.tensor([one.losses[step] for step in sorted(one.losses)]) for one in (ran, straight)
    ]
    torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-4)
