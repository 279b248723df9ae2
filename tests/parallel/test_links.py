"""Connections of a group: who waits for a stuck peer gets free at once, and all can meet anew."""

import os
import socket
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from support.forks import fork, wait_for
from torch.distributed import FileStore, PrefixStore

from keepstep.parallel import Links, join, leave

CPU = torch.device("cpu")
MINUTE = timedelta(seconds=60)


def meet(folder: Path, rank: int, name: str, links: Links, size: int = 2) -> None:
    store = PrefixStore(name, FileStore(str(folder / "store")))
    with links.recording():
        join(store, rank, size, device=CPU, timeout=MINUTE)


def answers(folder: Path, body: Any, size: int = 2) -> list[str]:
    """`body(rank)` in forks; what each said."""

    def live(rank: int) -> None:
        (folder / f"said-{rank}").write_text(str(body(rank)))

    pids = [fork(lambda rank=rank: live(rank)) for rank in range(size)]
    assert [wait_for(pid) for pid in pids] == [0] * size
    return [(folder / f"said-{rank}").read_text() for rank in range(size)]


def test_who_waits_for_a_stuck_peer_is_freed_and_both_meet_again(tmp_path: Path) -> None:
    def body(rank: int) -> float:
        links = Links()
        meet(tmp_path, rank, "first", links)
        dist.all_reduce(torch.ones(1))
        begun = time.monotonic()
        if rank == 0:
            threading.Timer(0.2, links.shut).start()
            with pytest.raises(RuntimeError):
                dist.all_reduce(torch.ones(1))
        else:
            time.sleep(1.0)  # stuck, as far as the other can tell
            links.shut()
        seconds = time.monotonic() - begun
        leave()
        again = Links()
        meet(tmp_path, rank, "second", again)
        total = torch.ones(1)
        dist.all_reduce(total)
        assert total.item() == 2
        leave()
        return seconds

    freed, _ = map(float, answers(tmp_path, body))
    assert 0.2 <= freed < 0.9


def test_descriptors_and_threads_stay_flat_over_many_meetings(tmp_path: Path) -> None:
    def body(rank: int) -> list[tuple[int, int]]:
        counts = []
        for number in range(8):
            links = Links()
            meet(tmp_path, rank, f"meeting-{number}", links)
            dist.all_reduce(torch.ones(1))
            links.shut()
            leave()
            counts.append((len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))))
        assert len(set(counts[2:])) == 1, counts
        return counts

    answers(tmp_path, body)


def test_connections_of_others_are_spared() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        before = socket.create_connection(server.getsockname())
        links = Links()
        with links.recording():
            during = socket.create_connection(server.getsockname())
            listener = socket.create_server(("127.0.0.1", 0))
        after = socket.create_connection(server.getsockname())
        links.shut()
        with before, during, after, listener:
            assert [alive(one) for one in (before, during, after)] == [True, False, True]
            socket.create_connection(listener.getsockname()).close()


def alive(one: socket.socket) -> bool:
    try:
        one.send(b"x")
    except BrokenPipeError:
        return False
    return True


def test_a_descriptor_that_something_else_has_taken_is_left_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        links = Links()
        with links.recording():
            socket.create_connection(server.getsockname()).close()
        with socket.create_connection(server.getsockname()) as other:
            links.shut()
            assert alive(other)


def test_what_is_shut_before_it_records_refuses_to() -> None:
    links = Links()
    links.shut()
    with pytest.raises(ConnectionAbortedError), links.recording():
        pass


def test_a_silent_peer_is_given_up_by_the_kernel() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        links = Links()
        with links.recording():
            one = socket.create_connection(server.getsockname())
        links.limit_silence(1.5)
        with one:
            assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1500
            assert one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
