"""Samples are what the transform makes of each record, with randomness that replays anywhere."""

from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from support.records import MemoryRecords
from support.world import run_world

from keepstep.data import CorruptDataError, DataError, Loader, Order, fit_recipe
from keepstep.data.errors import TransformError
from keepstep.data.sources import Placed, Record, Stored, Timed
from keepstep.data.transform import Samples

RECORDS = MemoryRecords(60, lambda n: {"n": n, "x": np.arange(4) + n, "text": f"record {n}"})


def crop(record: Record, rng: np.random.Generator) -> Record:
    return {"n": record["n"], "x": record["x"][:2], "drawn": rng.random(3), "one": rng.integers(9)}


def ids(*numbers: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array(numbers, dtype=np.int64)


def test_samples_are_stored_placed_and_timed() -> None:
    samples = Samples(RECORDS, crop)
    assert isinstance(samples, Stored)
    assert isinstance(samples, Placed)
    assert isinstance(samples, Timed)
    samples.want(ids(3, 1), np.zeros(2))
    assert RECORDS.wanted[-2:] == [3, 1]
    samples.read(ids(3))
    assert samples.spent["transform"] > 0


def test_rows_are_in_the_order_asked_and_of_the_values_types() -> None:
    rows = Samples(RECORDS, crop).read(ids(7, 0, 59, 7))
    assert rows["n"].tolist() == [7, 0, 59, 7]
    assert rows["x"].tolist() == [[7, 8], [0, 1], [59, 60], [7, 8]]
    assert (rows["n"].dtype, rows["drawn"].dtype) == (torch.int64, torch.float64)


def test_no_ids_give_no_rows_of_the_usual_shapes() -> None:
    rows = Samples(RECORDS, crop).read(ids())
    assert {name: tuple(one.shape) for name, one in rows.items()} == {
        "n": (0,), "x": (0, 2), "drawn": (0, 3), "one": (0,),
    }  # fmt: skip


def test_draws_depend_on_seed_epoch_and_record_alone() -> None:
    samples = Samples(RECORDS, crop, seed=3)
    whole = samples.read_at(np.arange(60), np.full(60, 2))["drawn"]
    for number in (0, 7, 59):
        alone = samples.read_at(ids(5, number), ids(1, 2))["drawn"][1]
        assert torch.equal(alone, whole[number])
    others = [
        whole,
        samples.read_at(np.arange(60), np.full(60, 3))["drawn"],
        Samples(RECORDS, crop, seed=4).read_at(np.arange(60), np.full(60, 2))["drawn"],
    ]
    assert len(torch.cat(others).unique()) == 3 * 60 * 3


def test_draws_are_frozen() -> None:
    """Golden values: a run that is resumed by a later release goes on with the same crops."""
    drawn = Samples(RECORDS, crop, seed=3).read_at(ids(5, 6), ids(0, 1))["drawn"][:, 0]
    assert drawn.tolist() == [0.010345604374706774, 0.06929071054675828]


def test_ranks_and_a_resumed_run_see_the_same_samples() -> None:
    order = Order(fit_recipe(Samples(RECORDS), seed=1))

    def body(rank: int, world: int, position: int) -> list[list[float]]:
        loader = Loader(
            Samples(RECORDS, crop, seed=1),
            order,
            batch_samples=12,
            microbatch_samples=3,
            reader_index=rank,
            reader_count=world,
        )
        with loader.open(position):
            windows = [next(loader) for _ in range(4)]
        return [torch.cat([b["drawn"] for b in w.batches]).tolist() for w in windows]

    whole = body(0, 1, 48)
    first, second = run_world(2, lambda rank: body(rank, 2, 48), join=False)
    assert [a + b for a, b in zip(first, second, strict=True)] == whole
    assert body(0, 1, 60)[:3] == whole[1:]


def test_numbers_of_python_and_numpy_become_rows() -> None:
    made = {"b": True, "i": 3, "f": 0.5, "h": np.float16(2), "t": torch.ones(2).bfloat16()}
    rows = Samples(MemoryRecords(2, lambda n: made)).read(ids(0, 1))
    assert [rows[name].dtype for name in made] == [
        torch.bool, torch.int64, torch.float64, torch.float16, torch.bfloat16,
    ]  # fmt: skip
    assert rows["t"].tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda n: {"x": np.zeros(n)}, r"record 4: found 'x' of float64 \[4\], needed .*\[3\] as"),
        (lambda n: {"x": np.zeros(2, f"i{4 * (n - 2)}")}, r"record 4: .* int64 .*needed int32"),
        (lambda n: {f"x{n}": 1}, r"record 4: found x4, needed x3 as of record 3; let"),
        (lambda n: {"x": "text"}, r"record 3: found str in 'x', needed a number, .* give a transf"),
        (lambda n: {"x": np.array(["a"])}, r"record 3: found an array of <U1 in 'x', needed"),
        (lambda n: {"x": 2**63}, r"record 3: found int in 'x', needed a number"),
        (lambda n: {}, r"the transform of record 3: found dict .*, needed a dict of arrays"),
    ],
)  # fmt: skip
def test_samples_that_make_no_batch_are_refused_by_name(make: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        Samples(MemoryRecords(9, make)).read(ids(3, 4))


def fail(record: Record, rng: np.random.Generator) -> Record:
    if record["n"] == 5:
        raise CorruptDataError("object-0", "no image", "a JPEG", "restore it")
    return {"y": 1 // (record["n"] - 4)}


def test_an_error_of_the_transform_names_its_record_and_shows_its_line() -> None:
    with pytest.raises(
        TransformError, match=r"record 4: found an error.*\n(.*\n)*.*1 // \(reco"
    ) as e:
        Samples(RECORDS, fail).read(ids(3, 4, 5))
    assert e.value.record == 4
    assert e.value.text.endswith("ZeroDivisionError: integer division or modulo by zero")
    with pytest.raises(CorruptDataError, match="found no image"):
        Samples(RECORDS, fail).read(ids(3, 5, 4))


def test_the_digest_follows_records_seed_and_version() -> None:
    made = [Samples(RECORDS), Samples(RECORDS, seed=1), Samples(RECORDS, version="2")]
    assert len({one.digest for one in made}) == 3
    assert Samples(RECORDS, crop).digest == made[0].digest


def test_records_of_an_epoch_come_each_once() -> None:
    samples = Samples(RECORDS, crop)
    loader = Loader(samples, Order(fit_recipe(samples)), batch_samples=6, microbatch_samples=6)
    with loader.open(0):
        windows = [next(loader) for _ in range(10)]
    seen = chain(*(w.batches[0]["n"].tolist() for w in windows))
    assert sorted(seen) == list(range(60))
    assert windows[0].seconds["transform"] > 0
