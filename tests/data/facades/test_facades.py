"""Torch's DataLoader and Grain get every sample once, of the right values, from what is theirs."""

import os
import pickle
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.forks import fork, wait_for
from support.records import MemoryRecords
from torch.utils.data import DataLoader

from keepstep.data import DataError, Mixture, Order, Source, TensorSource, fit_recipe, mix
from keepstep.data.facades import GrainSource, IndexedDataset, StreamDataset
from keepstep.data.transform import Samples

SOURCE = TensorSource({"n": torch.arange(96), "x": torch.arange(192).reshape(96, 2)})
ORDER = Order(fit_recipe(SOURCE, seed=5))


def opens(folder: Path) -> Callable[[], Source]:
    """Opens a stored source, and leaves a mark of the process that did."""

    def open_source() -> Source:
        (folder / str(os.getpid())).touch()
        return Samples(MemoryRecords(96, lambda n: {"n": n, "x": np.array([2 * n, 2 * n + 1])}))

    return open_source


def stream(source: Any, order: Any = ORDER, **settings: Any) -> StreamDataset:
    return StreamDataset(source, order, **{"batch_samples": 8, "stop": 96, **settings})


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker")
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_an_iterable_dataset_gives_one_sequence_for_any_workers(
    workers: int, tmp_path: Path
) -> None:
    dataset = stream(opens(tmp_path))
    batches = list(DataLoader(dataset, batch_size=None, num_workers=workers))
    assert [b["n"].tolist() for b in batches] == [ORDER.batch(8 * k, 8).tolist() for k in range(12)]
    assert all((b["x"][:, 0] == 2 * b["n"]).all() for b in batches)
    opened = {int(path.name) for path in tmp_path.iterdir()}
    assert (os.getpid() in opened) == (workers == 0)
    assert len(opened) == max(1, workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_share_batches_and_their_state_is_one_position(workers: int) -> None:
    def read(position: int, rank: int, world: int) -> list[list[int]]:
        dataset = stream(SOURCE, rank=rank, world_size=world)
        dataset.load_state_dict(stream(SOURCE, position=position).state_dict())
        loader = DataLoader(dataset, batch_size=None, num_workers=workers)
        return [batch["n"].tolist() for batch in loader]

    whole = read(0, 0, 1)
    parts = zip(read(40, 0, 2), read(40, 1, 2), strict=True)
    assert [first + second for first, second in parts] == whole[5:]


def test_the_state_is_the_position_after_what_was_handed_out() -> None:
    dataset = stream(SOURCE, stop=None)
    batches = iter(dataset)
    seen = [next(batches)["n"].tolist() for _ in range(15)]
    state = dataset.state_dict()
    assert state["position"] == 120
    assert dataset.state_dict(batches=3)["position"] == 24
    resumed = stream(SOURCE, stop=None)
    resumed.load_state_dict(state)
    more = iter(resumed)
    assert next(more)["n"].tolist() == next(batches)["n"].tolist() == ORDER.batch(120, 8).tolist()
    assert sorted(chain(*seen[:12])) == list(range(96))
    assert resumed.state_dict()["position"] == 128
    batches.close()
    more.close()
    other = stream(SOURCE, Order(fit_recipe(SOURCE, seed=6)))
    with pytest.raises(DataError, match="data cursor recipe: found"):
        other.load_state_dict(state)


def test_iterating_again_begins_again() -> None:
    dataset = stream(SOURCE, position=64)
    first, second = ([b["n"].tolist() for b in dataset] for _ in range(2))
    assert first == second == [ORDER.batch(64 + 8 * k, 8).tolist() for k in range(4)]
    assert list(stream(SOURCE, position=90)) == []


def test_a_mixture_streams_too() -> None:
    other = TensorSource({"n": torch.arange(50)})
    recipes = {"a": fit_recipe(SOURCE), "b": fit_recipe(other)}
    order = Mixture(mix(recipes, [(0, [3, 1])]))
    both = TensorSource({"n": torch.arange(146)})
    dataset = stream(both, order, stop=5000, batch_samples=1000)
    loader = DataLoader(dataset, batch_size=None, num_workers=2)
    planned = [order.batch(1000 * k, 1000).tolist() for k in range(5)]
    assert [b["n"].tolist() for b in loader] == planned


@pytest.mark.parametrize("kind", [stream, IndexedDataset])
def test_a_source_that_was_opened_here_is_not_read_in_a_worker(
    kind: Callable[[Source], Any], tmp_path: Path
) -> None:
    dataset = kind(opens(tmp_path)())

    def child() -> None:
        with pytest.raises(DataError, match="opened in one process and is read in a fork, needed"):
            next(iter(dataset))

    assert wait_for(fork(child)) == 0
    assert set(next(iter(dataset))) == {"n", "x"}
    with pytest.raises(DataError, match="is read in another process, needed a function"):
        pickle.dumps(dataset)


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(DataError, match=r"found 8 for rank 0 of 3, needed .*; set batch_samples=6"):
        stream(SOURCE, world_size=3)
    with pytest.raises(DataError, match="found 8 for rank 2 of 2"):
        stream(SOURCE, world_size=2, rank=2)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_map_style_dataset_gives_every_sample_once(workers: int, tmp_path: Path) -> None:
    dataset = IndexedDataset(opens(tmp_path), length=96)
    loader = DataLoader(dataset, batch_size=10, shuffle=True, num_workers=workers)
    batches = list(loader)
    assert sorted(chain(*(b["n"].tolist() for b in batches))) == list(range(96))
    assert all((b["x"][:, 1] == 2 * b["n"] + 1).all() for b in batches)
    assert (os.getpid() in {int(path.name) for path in tmp_path.iterdir()}) == (workers == 0)


def test_indices_count_from_both_ends_and_not_beyond() -> None:
    dataset, source = IndexedDataset(SOURCE), GrainSource(SOURCE)
    assert len(dataset) == len(source) == 96
    assert dataset[-1]["n"] == source[np.int64(95)]["n"] == 95
    assert [one["n"].item() for one in dataset.__getitems__([4, 2])] == [4, 2]
    for one in (dataset, source):
        for index in (96, -97):
            with pytest.raises(IndexError, match=f"sample {index}: found 96 samples"):
                one[index]


def test_a_function_needs_what_cannot_be_asked_of_it() -> None:
    with pytest.raises(DataError, match="the dataset's length: found None with a function"):
        IndexedDataset(lambda: SOURCE)
    with pytest.raises(DataError, match="GrainSource name: found None with a function"):
        GrainSource(lambda: SOURCE, length=96)


@pytest.fixture
def grain() -> Any:
    return pytest.importorskip("grain")


def test_grain_reads_every_sample_once(grain: Any, tmp_path: Path) -> None:
    source = GrainSource(opens(tmp_path), length=96, name="numbers")
    assert isinstance(source, grain.sources.RandomAccessDataSource)
    batches = list(grain.MapDataset.source(source).shuffle(seed=3).to_iter_dataset().batch(10))
    assert sorted(chain(*(b["n"].tolist() for b in batches))) == list(range(96))
    assert all((b["x"][:, 0] == 2 * b["n"]).all() for b in batches)


def test_grains_own_loader_resumes_over_it(grain: Any) -> None:
    def load() -> Any:
        sampler = grain.samplers.IndexSampler(96, shuffle=True, seed=1, num_epochs=1)
        return iter(
            grain.DataLoader(data_source=GrainSource(SOURCE), sampler=sampler, worker_count=0)
        )

    first = load()
    seen = [int(next(first)["n"]) for _ in range(50)]
    state = first.get_state()
    assert f"GrainSource(name='{SOURCE.digest}', length=96)" in state.decode()
    second = load()
    second.set_state(state)
    assert sorted([*seen, *(int(one["n"]) for one in second)]) == list(range(96))


def module_source() -> Source:
    return SOURCE


def test_what_grain_sends_to_its_workers_opens_anew() -> None:
    source = GrainSource(module_source, length=96, name="numbers")
    assert source[5]["n"] == 5
    again = pickle.loads(pickle.dumps(source))
    assert repr(again) == repr(source) == "GrainSource(name='numbers', length=96)"
    assert again[7]["x"].tolist() == [14, 15]
