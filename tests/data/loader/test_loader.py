"""The loader gives the same batches to any number of readers, from any position, and lets go."""

import threading
import time
from collections.abc import Callable, Iterator
from itertools import chain

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.world import run_world
from torch import Tensor

from keepstep.data import (
    Loader,
    Mixed,
    Order,
    OrderRecipe,
    Source,
    TensorSource,
    evaluation_batches,
    fit_recipe,
    share_microbatches,
)
from keepstep.data.access import NextUse
from keepstep.data.corpus.slice import Slice
from keepstep.data.store import StoredObject

SOURCE = TensorSource({"x": torch.arange(90)})
ORDER = Order(fit_recipe(SOURCE, seed=5))


class Faulty:
    """A source that fails on its `fail_at`-th reading."""

    digest = "faulty"

    def __init__(self, fail_at: int) -> None:
        self.readings = 0
        self.fail_at = fail_at

    def __len__(self) -> int:
        return 90

    def read(self, ids: npt.NDArray[np.int64]) -> dict[str, Tensor]:
        self.readings += 1
        if self.readings == self.fail_at:
            raise OSError("the store is away")
        return {"x": torch.from_numpy(ids)}


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread.name for thread in threading.enumerate() if "keepstep" in thread.name]


def read(loader: Loader, position: int, steps: int) -> list[list[int]]:
    with loader.open(position):
        windows = [next(loader) for _ in range(steps)]
    return [torch.cat([batch["x"] for batch in window.batches]).tolist() for window in windows]


@settings(max_examples=25, deadline=None)
@given(
    recipe=st.builds(
        OrderRecipe,
        num_samples=st.just(90),
        block=st.integers(1, 9),
        lanes=st.integers(1, 9),
        window=st.integers(1, 4),
        seed=st.integers(0, 99),
    ),
    microbatch=st.integers(1, 4),
    readers=st.sampled_from([2, 3, 4, 6]),
    position=st.integers(0, 300),
)
def test_any_number_of_readers_shares_the_same_batches(
    recipe: OrderRecipe, microbatch: int, readers: int, position: int
) -> None:
    def stream(index: int, count: int) -> list[list[int]]:
        sizes = {"batch_samples": 12 * microbatch, "microbatch_samples": microbatch}
        loader = Loader(SOURCE, Order(recipe), reader_index=index, reader_count=count, **sizes)
        return read(loader, position, 4)

    shares = [stream(index, readers) for index in range(readers)]
    joined = [list(chain(*parts)) for parts in zip(*shares, strict=True)]
    assert joined == stream(0, 1)
    assert joined[0] == Order(recipe).batch(position, 12 * microbatch).tolist()


def test_resume_at_every_position_equals_the_undisturbed_stream() -> None:
    loader = Loader(SOURCE, ORDER, batch_samples=6, microbatch_samples=2)
    whole = read(loader, 0, 40)
    for step in range(39):
        assert read(loader, step * 6, 2) == whole[step : step + 2]


def test_epochs_follow_one_another_without_loss() -> None:
    loader = Loader(SOURCE, ORDER, batch_samples=9, microbatch_samples=3, prefetch=1)
    seen = list(chain(*read(loader, 0, 30)))
    for epoch in range(3):
        assert sorted(seen[epoch * 90 : (epoch + 1) * 90]) == list(range(90))


def test_a_window_names_its_position_and_microbatches() -> None:
    loader = Loader(
        SOURCE, ORDER, batch_samples=8, microbatch_samples=2, reader_index=1, reader_count=2
    )
    with loader.open(16):
        windows = [next(loader), next(loader)]
    assert [window.position for window in windows] == [16, 24]
    assert windows[0].microbatches == range(2, 4)
    assert [tuple(batch["x"].shape) for batch in windows[0].batches] == [(2,), (2,)]


def test_reading_ahead_is_bounded() -> None:
    source = Faulty(fail_at=-1)
    with Loader(source, ORDER, batch_samples=6, microbatch_samples=2, prefetch=3).open(0) as loader:
        next(loader)
        deadline = time.monotonic() + 30
        while source.readings < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        # One taken, three in the queue, one in the thread's hand.
        assert source.readings == 5


def test_the_sources_error_comes_after_the_windows_before_it_and_stays() -> None:
    with Loader(Faulty(3), ORDER, batch_samples=6, microbatch_samples=2, prefetch=2).open(
        0
    ) as loader:
        assert [window.position for window in (next(loader), next(loader))] == [0, 6]
        for _ in range(2):
            with pytest.raises(OSError, match="the store is away"):
                next(loader)


class Distant:
    """A stored source that answers once it may, and whose store is away until then."""

    digest, sample_bytes = "distant", 8

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.wanted: list[npt.NDArray[np.int64]] = []
        self.due: list[npt.NDArray[np.float64]] = []
        self.next_use: NextUse = lambda ids: ids
        self.is_full = False
        self.ahead_bytes = 8 * 40
        self.waited = {"network": 0.0}
        self.objects: list[StoredObject] = []

    @property
    def accesses(self) -> list["Distant"]:
        return [self]

    @property
    def outage(self) -> str | None:
        return None if self.may_answer.is_set() else "since 12:00, refused"

    def __len__(self) -> int:
        return 90

    def want(self, ids: npt.NDArray[np.int64], due: npt.NDArray[np.float64]) -> None:
        self.wanted.append(ids)
        self.due.append(due)

    def follow(self, next_use: NextUse) -> None:
        self.next_use = next_use

    def read(self, ids: npt.NDArray[np.int64]) -> dict[str, Tensor]:
        self.may_answer.wait(20)
        self.waited["network"] += 0.25
        return {"x": torch.from_numpy(ids)}


def test_whoever_waits_is_told_of_an_outage() -> None:
    source, told = Distant(), []

    def told_once(outage: str | None) -> None:
        told.append(outage)
        source.may_answer.set()

    with Loader(source, ORDER, batch_samples=6, microbatch_samples=2).open(0) as loader:
        window = loader.take(told_once)
    assert told == ["since 12:00, refused"]
    assert window.seconds["network"] == 0.25


def told(source: Distant, steps: int, **settings: int) -> list[npt.NDArray[np.int64]]:
    """What the source is told while the first step is taken, once it is told no more."""
    source.may_answer.set()
    loader = Loader(source, ORDER, batch_samples=4, microbatch_samples=2, **settings)
    with loader.open(40):
        window = next(loader)
        while sum(map(len, source.wanted)) < steps:
            time.sleep(0.005)
        time.sleep(0.05)
        wanted = list(source.wanted)
    first = torch.cat([batch["x"] for batch in window.batches])
    assert (wanted[0] == first.numpy()).all()
    return wanted


def test_a_stored_source_is_told_as_far_ahead_as_its_accesses_have_room_for() -> None:
    source = Distant()
    wanted = told(source, 40, reader_count=2)
    # The first step alone, then two at a time. Five windows of two samples are made by now; they
    # and the 40 samples that fit, with one more group begun.
    assert [len(ids) for ids in wanted[:3]] == [2, 4, 4]
    assert 40 <= sum(map(len, wanted)) <= 40 + 6 * 2 + 8
    assert all((np.diff(due) >= 0).all() for due in source.due)


def test_a_source_with_enough_on_its_way_is_told_no_more_than_what_is_read_next() -> None:
    source = Distant()
    source.is_full = True
    assert sum(map(len, told(source, 8))) <= 8 + 2 * 16 + 8


def test_what_is_wanted_after_the_end_is_not_asked_for_and_counts_as_wanted_never() -> None:
    source = Distant()
    wanted = told(source, 12, reader_count=2, stop=64)
    assert sum(map(len, wanted)) == (64 - 40) // 2
    shown = ORDER.samples(np.arange(40, 64, dtype=np.int64))[1]
    uses = source.next_use(np.arange(90))
    assert (uses[np.setdiff1d(np.arange(90), shown)] == 2**62).all()


def test_close_is_safe_before_open_twice_and_with_a_full_queue() -> None:
    loader = Loader(SOURCE, ORDER, batch_samples=6, microbatch_samples=2, prefetch=1)
    loader.close()
    loader.open(0)
    next(loader)
    loader.close()
    loader.close()
    with pytest.raises(RuntimeError, match="found it closed"):
        next(loader)


def test_opening_again_moves_to_another_position() -> None:
    with Loader(SOURCE, ORDER, batch_samples=6, microbatch_samples=2).open(0) as loader:
        next(loader)
        assert next(loader.open(60)).position == 60


def test_ranks_of_a_world_read_disjoint_shares_of_the_same_batch() -> None:
    def body(rank: int) -> list[list[int]]:
        loader = Loader(
            SOURCE, ORDER, batch_samples=12, microbatch_samples=3, reader_index=rank, reader_count=2
        )
        return read(loader, 24, 3)

    first, second = run_world(2, body)
    assert [a + b for a, b in zip(first, second, strict=True)] == [
        ORDER.batch(24 + 12 * step, 12).tolist() for step in range(3)
    ]


def test_a_batch_of_no_whole_microbatches_is_refused() -> None:
    said = r"train.batch_samples: found 10, needed a multiple of train.microbatch_samples=4; set t"
    with pytest.raises(ValueError, match=said):
        share_microbatches(10, 4, 0, 1)


def test_microbatches_that_the_readers_cannot_share_are_refused() -> None:
    with pytest.raises(ValueError, match=r"3 micro-batches.*shard = 2 divides; set train.*=32"):
        share_microbatches(24, 8, 0, 2)
    with pytest.raises(ValueError, match=r"found 0 with train.microbatch_samples=8"):
        share_microbatches(0, 8, 0, 1)


@pytest.mark.parametrize("readers", [1, 2, 3, 5])
def test_evaluation_shows_every_sample_once_in_equally_many_batches(readers: int) -> None:
    parts = [
        list(
            evaluation_batches(
                SOURCE, microbatch_samples=7, reader_index=index, reader_count=readers
            )
        )
        for index in range(readers)
    ]
    assert {len(part) for part in parts} == {-(-90 // (7 * readers))}
    dealt = [batch["x"].tolist() for turn in zip(*parts, strict=True) for batch in turn]
    assert list(chain(*dealt)) == list(range(90))


class Shown:
    """A source that gives back which epoch shows a sample, and says that its reading took time."""

    digest = "shown"

    def __init__(self) -> None:
        self.spent = {"transform": 0.0}

    def __len__(self) -> int:
        return 90

    def read(self, ids: npt.NDArray[np.int64]) -> dict[str, Tensor]:
        return self.read_at(ids, np.zeros_like(ids))

    def read_at(
        self, ids: npt.NDArray[np.int64], epochs: npt.NDArray[np.int64]
    ) -> dict[str, Tensor]:
        self.spent["transform"] += 0.5
        return {"x": torch.from_numpy(ids * 100 + epochs)}


@pytest.mark.parametrize("wrap", [lambda one: one, lambda one: Slice(one, 0, 90)])
def test_a_source_that_tells_epochs_apart_is_told_them(wrap: Callable[[Source], Source]) -> None:
    loader = Loader(wrap(Shown()), ORDER, batch_samples=36, microbatch_samples=18)
    seen = list(chain(*read(loader, 0, 5)))
    epochs, ids = ORDER.samples(np.concatenate([ORDER.arrange(36 * step, 36) for step in range(5)]))
    assert seen == (ids * 100 + epochs).tolist()
    assert sorted(seen) == sorted(sample * 100 + epoch for sample in range(90) for epoch in (0, 1))


def test_what_a_source_spends_by_itself_is_part_of_its_windows_seconds() -> None:
    loader = Loader(Shown(), ORDER, batch_samples=6, microbatch_samples=2)
    with loader.open(0):
        # The first step is read alone, the next ones two at a time.
        assert [next(loader).seconds["transform"] for _ in range(3)] == [0.5, 0.25, 0.25]


def test_a_mixture_gives_each_of_its_sources_its_own_epochs() -> None:
    plain = TensorSource({"x": torch.arange(30)})
    mixed = Mixed({"plain": plain, "shown": Slice(Shown(), 5, 35)}, [(0, [1.0, 1.0])])
    ids, epochs = np.array([3, 31, 59, 0]), np.array([9, 1, 2, 9])
    assert mixed.read_at(ids, epochs)["x"].tolist() == [3, 601, 3402, 0]
    assert mixed.read(ids)["x"].tolist() == [3, 600, 3400, 0]
    assert mixed.spent == {"transform": 1.0}
