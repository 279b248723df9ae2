"""Batches are staged by the thread that reads ahead, and taken by the one that trains."""

import threading
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from keepstep.data import DataError, Loader, Order, TensorSource, fit_recipe
from keepstep.data.loader import Handoff, hand_off
from keepstep.data.loader.handoff import CudaHandoff, PlainHandoff, Staged

SOURCE = TensorSource({"x": torch.arange(96), "y": torch.rand(96, 3)})
ORDER = Order(fit_recipe(SOURCE, seed=5))
SIZES = {"batch_samples": 12, "microbatch_samples": 3}

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]


class Noted:
    """Says who did what; rows are not usable between the two steps, as on a device."""

    def __init__(self) -> None:
        self.staged_by: list[str] = []
        self.taken_by: list[str] = []

    def stage(self, rows: Mapping[str, Tensor]) -> Staged:
        self.staged_by.append(threading.current_thread().name)
        return Staged({name: -1 - tensor for name, tensor in rows.items()}, "on its way")

    def take(self, staged: Staged) -> dict[str, Tensor]:
        assert staged.arrival == "on its way"
        self.taken_by.append(threading.current_thread().name)
        return {name: -1 - tensor for name, tensor in staged.rows.items()}


def read(handoff: Handoff | None, steps: int) -> list[list[int]]:
    loader = Loader(SOURCE, ORDER, handoff=handoff, reader_count=2, **SIZES)
    with loader.open(24):
        windows = [next(loader) for _ in range(steps)]
    assert all(len(window.batches) == 2 for window in windows)
    return [torch.cat([b["x"] for b in window.batches]).tolist() for window in windows]


def test_the_loader_stages_ahead_in_its_thread_and_takes_in_the_callers() -> None:
    noted = Noted()
    assert read(noted, 4) == read(None, 4)
    assert set(noted.staged_by) == {"keepstep-prefetch"}
    assert noted.taken_by == ["MainThread"] * 4
    assert len(noted.staged_by) >= 4


@pytest.mark.parametrize("device", DEVICES)
def test_every_batch_arrives_whole_and_in_order(device: str) -> None:
    assert read(hand_off(torch.device(device)), 20) == read(None, 20)


def test_on_the_cpu_nothing_is_copied() -> None:
    handoff, rows = hand_off(torch.device("cpu")), {"x": torch.arange(4)}
    assert isinstance(handoff, PlainHandoff)
    assert handoff.take(handoff.stage(rows))["x"] is rows["x"]


def test_other_devices_are_refused() -> None:
    with pytest.raises(DataError, match="found the device meta, needed a CUDA device or the CPU"):
        hand_off(torch.device("meta"))
    if not torch.cuda.is_available():
        with pytest.raises(DataError, match="found 0 usable CUDA devices, needed cuda:1; correct"):
            hand_off(torch.device("cuda", 1))


@needs_cuda
def test_memory_is_not_reused_while_the_consumers_stream_reads_it() -> None:
    """Rows are dropped right after slow work on them was queued: later copies must not touch it."""
    device = torch.device("cuda", 0)
    handoff = CudaHandoff(device)
    size, sums = 1 << 20, []
    for number in range(30):
        rows = handoff.take(handoff.stage({"x": torch.full((size,), float(number))}))
        assert rows["x"].device == device
        torch.cuda._sleep(2_000_000)
        sums.append(rows["x"].mean())
        del rows
    assert torch.stack(sums).tolist() == list(range(30))


@needs_cuda
def test_staging_does_not_wait_for_the_training_stream() -> None:
    handoff = hand_off(torch.device("cuda", 0))
    before = torch.cuda.Event()
    torch.cuda._sleep(2_000_000_000)
    before.record()
    staged = handoff.stage({"x": torch.arange(1000)})
    staged.arrival.synchronize()
    assert not before.query()
    assert handoff.take(staged)["x"].tolist() == list(range(1000))
