"""Copies between guardians: what is kept is what was sent, whole, from who knows the token."""

import socket
import struct
import threading
import time
from pathlib import Path

import pytest
import torch

from keepstep.checkpoint.commit import Cargo
from keepstep.checkpoint.slots import Image, SlotFile, Snapshots, newest
from keepstep.trainer.recovery.peers import Header, Keeper, Pair, Sender, peer_of, set_aside

TOKEN = b"only this job knows"


def pair(folder: Path, name: str) -> Pair:
    return Pair([folder / f"{name}-{index}" for index in range(2)])


class Worker:
    """What a training process does to its two slots."""

    def __init__(self, folder: Path) -> None:
        self.slots = [SlotFile.named(folder / f"own-{index}") for index in range(2)]
        self.state = {"model.w": torch.randn(300, 700), "optim.step": torch.tensor(0.0)}
        image = Image.of(self.state, self.state, rank=0, holders=[0], label={"rank": 0})
        self.snapshots = Snapshots(self.slots, [], image, volatile=(), say=print)
        self.snapshots.open()

    def snapshot(self, step: int) -> None:
        self.snapshots.wait()
        self.state["model.w"] += step
        cargo = Cargo(step=step, topology={}, progress={"samples": step}, lineage={})
        self.snapshots.begin(self.state, cargo)
        self.snapshots.settle()


@pytest.fixture
def worker(tmp_path: Path):  # type: ignore[no-untyped-def]
    made = Worker(tmp_path)
    yield made
    made.snapshots.close()


@pytest.fixture
def keeper(tmp_path: Path):  # type: ignore[no-untyped-def]
    made = Keeper("127.0.0.1", TOKEN, lambda rank: pair(tmp_path, f"kept-{rank}"))
    made.start()
    yield made
    made.close()


def kept(folder: Path, rank: int = 3) -> list[int]:
    paths = [folder / f"kept-{rank}-{index}" for index in range(2)]
    return [held.step for held in newest([SlotFile.named(path) for path in paths if path.exists()])]


def test_every_so_many_steps_are_kept_bit_for_bit(worker, keeper, tmp_path) -> None:
    told: list[tuple[int, int, float, str]] = []
    sender = Sender(
        worker.slots,
        pair(tmp_path, "mark"),
        keeper.address,
        rank=3,
        every=4,
        token=TOKEN,
        tell=lambda *words: told.append(words),
    )
    sender.start()
    for step in range(1, 14):
        worker.snapshot(step)
        deadline = time.monotonic() + 10
        while step % 4 == 0 and len(told) < step // 4 and time.monotonic() < deadline:
            time.sleep(0.005)
        if step == 12:
            seen = worker.state["model.w"].clone()
    sender.close()
    sender.join()
    assert [(step, trouble) for step, _, _, trouble in told] == [(4, ""), (8, ""), (12, "")]
    assert kept(tmp_path) == [12, 8]
    slots = [SlotFile.named(tmp_path / f"kept-3-{index}") for index in range(2)]
    found = {name: torch.zeros_like(one) for name, one in worker.state.items()}
    newest(slots)[0].prove()
    newest(slots)[0].load_into(found)
    assert torch.equal(found["model.w"], seen)


def test_a_run_that_went_back_sends_the_same_steps_again(worker, keeper, tmp_path) -> None:
    told: list[int] = []
    sender = Sender(
        worker.slots,
        pair(tmp_path, "mark"),
        keeper.address,
        rank=3,
        every=2,
        token=TOKEN,
        tell=lambda step, *_: told.append(step),
    )
    sender.start()
    for steps in ((3, 4), (1, 2, 3, 4)):
        for slot in worker.slots:
            slot.unseal()
        time.sleep(0.1)
        for step in steps:
            worker.snapshot(step)
            time.sleep(0.1)
    sender.close()
    sender.join()
    assert told == [4, 2, 4]


SIGNED = Header(rank=3, step=1, plan=4, data=8, tail=2).encode(TOKEN)


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (Header(rank=3, step=1, plan=4, data=8, tail=2).encode(b"another"), "not signed"),
        (struct.pack("<I", 2**31), "a header of"),
        (struct.pack("<I", 9) + b"not JSON!", "Expecting value"),
        (SIGNED + b"half", "bytes short"),
        (SIGNED + b"p" * 14, "is no snapshot"),
    ],
)
def test_what_is_not_a_copy_of_this_job_is_not_kept(
    keeper, tmp_path, caplog, sent: bytes, why: str
) -> None:
    with socket.create_connection(keeper.address, timeout=10) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
    assert "not kept" in caplog.text
    assert why in caplog.text
    assert kept(tmp_path) == []


def test_a_keeper_that_is_gone_is_told_of_once_and_tried_again(
    worker, keeper, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("keepstep.trainer.recovery.peers._AGAIN_SECONDS", 0.01)
    keeper.close()
    told: list[str] = []
    sender = Sender(
        worker.slots,
        pair(tmp_path, "mark"),
        keeper.address,
        rank=3,
        every=1,
        token=TOKEN,
        tell=lambda *words: told.append(words[3]),
    )
    sender.start()
    for step in range(1, 6):
        worker.snapshot(step)
        time.sleep(0.05)
    sender.close()
    sender.join()
    (why,) = told
    assert "ConnectionRefusedError" in why


def test_a_slot_that_its_writer_takes_is_never_half_set_aside(worker, tmp_path) -> None:
    """A writer that never stops beside a reader that copies: each copy is of one step."""
    target, over = SlotFile.named(tmp_path / "target"), threading.Event()

    def write() -> None:
        step = 1
        while not over.is_set():
            worker.snapshot(step)
            step += 1

    thread = threading.Thread(target=write)
    thread.start()
    whole = torn = 0
    deadline = time.monotonic() + 20
    while (whole < 20 or not torn) and time.monotonic() < deadline:
        if set_aside(worker.slots[whole % 2], target) is None:
            torn += 1
        else:
            whole += 1
            newest([target])[0].prove()
    over.set()
    thread.join()
    assert whole >= 20


@pytest.mark.parametrize(
    ("rank", "size", "node_size", "replicate", "peer"),
    [
        (0, 4, 2, 1, 2),
        (3, 4, 2, 1, 1),
        (5, 6, 2, 1, 1),
        (0, 4, 4, 1, None),
        (0, 4, 2, 2, None),
        (0, 4, 1, 1, 1),
    ],
)
def test_who_keeps_whose(rank, size, node_size, replicate, peer) -> None:
    width = size // replicate
    copies = [[r + width * copy for copy in range(replicate)] for r in range(width)]
    assert peer_of(rank, size=size, node_size=node_size, copies=copies) == peer
