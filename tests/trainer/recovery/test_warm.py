"""The warm server: forks workers quickly, tells how they ended, and nothing outlives anything."""

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from keepstep.trainer import StoppedError
from keepstep.trainer.recovery.heartbeat import Page, Phase
from keepstep.trainer.recovery.warm import Exit, WarmServer, Work, native_threads


@pytest.fixture(autouse=True)
def threads_of_earlier_tests_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokenizers and others keep native threads in the test process for good."""
    others = native_threads() - 1
    count = "keepstep.trainer.recovery.warm.native_threads"
    monkeypatch.setattr(count, lambda: native_threads() - others)


def work(page: Page, channel: socket.socket, slot_fds: Sequence[int] = ()) -> int:
    """Does what it is told."""
    order = json.loads(channel.recv(4096))
    page.beat(int(order.get("step", 0)), Phase.step)
    channel.send(f"{os.getpid()}".encode())
    if order.get("sleeps"):
        time.sleep(60)
    if order.get("raises"):
        raise RuntimeError("a worker's own error")
    if order.get("says"):
        print(order["says"])  # only flushed by the end of the worker's life
    return int(order.get("code", 0))


@contextlib.contextmanager
def warm(body: Work = work) -> Iterator[tuple[WarmServer, Page, Callable[..., int]]]:
    server, page = WarmServer.start(body), Page.create()
    channels: list[socket.socket] = []

    def fork(**order: int | str | float) -> int:
        pid, mine = told(server, page, order)
        channels.append(mine)
        return pid

    try:
        yield server, page, fork
    finally:
        server.close()
        page.close()
        for one in channels:
            one.close()


def told(
    server: WarmServer, page: Page, order: dict[str, int | str | float]
) -> tuple[int, socket.socket]:
    """A worker that was forked and told something, and our end of its line."""
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with theirs:
            pid = server.fork([page.fd, theirs.fileno()])
    except StoppedError:
        mine.close()
        raise
    mine.send(json.dumps(order).encode())
    return pid, mine


def wait_exits(server: WarmServer, count: int = 1) -> list[Exit]:
    found: list[Exit] = []
    deadline = time.monotonic() + 10
    while len(found) < count and time.monotonic() < deadline:
        found += server.exits()
        time.sleep(0.002)
    return found


def wait_gone(pid: int) -> bool:
    """Whether the process goes; one that only its parent has not reaped yet is gone."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.002)
    return False


def test_a_worker_is_a_fork_of_the_server_and_its_exit_code_comes_back() -> None:
    with warm() as (server, page, fork):
        pid = fork(step=41, code=75)
        assert wait_exits(server) == [Exit(pid, 75)]
        assert page.read().step == 41
        assert pid not in (os.getpid(), server.pid)


def test_the_line_reaches_the_worker_and_closes_with_it() -> None:
    with warm() as (server, page, _):
        pid, line = told(server, page, {})
        with line:
            assert line.recv(4096) == f"{pid}".encode()
            assert line.recv(4096) == b""


def test_a_signal_comes_back_as_its_negative_number() -> None:
    with warm() as (server, _, fork):
        pid = fork(sleeps=1)
        os.kill(pid, signal.SIGKILL)
        assert wait_exits(server) == [Exit(pid, -signal.SIGKILL)]


def test_an_error_of_a_worker_is_exit_1_and_its_traceback(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with warm() as (server, _, fork):
        pid = fork(raises=1)
        assert wait_exits(server) == [Exit(pid, 1)]
    assert "RuntimeError: a worker's own error" in capfd.readouterr().err


def test_exits_never_waits() -> None:
    with warm() as (server, _, fork):
        fork(sleeps=1)
        begun = time.monotonic()
        assert server.exits() == []
        assert time.monotonic() - begun < 1.0


def test_workers_in_turn_and_side_by_side_are_told_apart() -> None:
    with warm() as (server, _, fork):
        first = fork(code=3)
        second = fork(code=4)
        assert sorted(wait_exits(server, 2), key=lambda one: one.code) == [
            Exit(first, 3),
            Exit(second, 4),
        ]
        third = fork(code=5)
        assert wait_exits(server) == [Exit(third, 5)]


def test_an_exit_during_a_fork_is_not_lost() -> None:
    with warm() as (server, _, fork):
        pids = [fork(code=number) for number in range(20)]
        found = wait_exits(server, 20)
        assert {one.pid: one.code for one in found} == {p: n for n, p in enumerate(pids)}


def test_a_workers_words_go_to_the_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    with warm() as (server, _, fork):
        fork(says="from a worker")
        wait_exits(server)
    assert capfd.readouterr().out == "from a worker\n"


def test_closing_the_server_ends_its_workers_and_is_safe_twice() -> None:
    with warm() as (server, _, fork):
        pid = fork(sleeps=1)
        server.close()
        assert not Path(f"/proc/{pid}").exists()
        assert not Path(f"/proc/{server.pid}").exists()
        server.close()


def test_a_worker_dies_with_its_server() -> None:
    with warm() as (server, _, fork):
        pid = fork(sleeps=1)
        os.kill(server.pid, signal.SIGKILL)
        assert wait_gone(pid)


def test_server_and_worker_die_with_a_killed_guardian() -> None:
    read_fd, write_fd = os.pipe()
    guardian = os.fork()
    if guardian == 0:
        server = WarmServer.start(work)
        pid, _ = told(server, Page.create(), {"sleeps": 1})
        os.write(write_fd, f"{server.pid} {pid} .".encode())
        time.sleep(60)
    text = ""
    while "." not in text:
        text += os.read(read_fd, 100).decode()
    *_, server_pid, worker_pid, _ = text.split()
    os.kill(guardian, signal.SIGKILL)
    os.waitpid(guardian, 0)
    os.close(read_fd)
    os.close(write_fd)
    assert wait_gone(int(server_pid))
    assert wait_gone(int(worker_pid))


def test_a_launchers_signals_are_not_the_workers_business() -> None:
    with warm() as (server, _, fork):
        pid = fork(sleeps=1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            os.kill(pid, number)
            os.kill(server.pid, number)
        time.sleep(0.05)
        assert server.exits() == []
        assert os.getsid(pid) == server.pid != os.getsid(0)


def test_a_server_that_was_killed_is_named() -> None:
    with warm() as (server, _, fork):
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(
            StoppedError, match=rf"warm server: found its process {server.pid} gone"
        ):
            wait_exits(server)
        with pytest.raises(StoppedError, match="gone"):
            fork()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 sees the thread too
def test_it_refuses_to_fork_beside_a_thread() -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        with pytest.raises(StoppedError, match="found 2 threads at its fork, needed 1"):
            WarmServer.start(work)
    finally:
        end.set()
        thread.join()


def test_descriptors_stay_flat_over_many_workers() -> None:
    with warm() as (server, page, _):

        def live() -> None:
            told(server, page, {})[1].close()
            wait_exits(server)

        live()
        before = [descriptors(os.getpid()), descriptors(server.pid)]
        for _ in range(10):
            live()
        assert [descriptors(os.getpid()), descriptors(server.pid)] == before


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))
