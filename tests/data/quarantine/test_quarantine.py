"""Bad records are refused, or replaced by others: the same for every reader and resumed run."""

import json
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from support.records import MemoryRecords

from keepstep.data import CorruptDataError, DataError, Loader, Order, TensorSource, fit_recipe
from keepstep.data.corpus.slice import Slice
from keepstep.data.dataset import Dataset
from keepstep.data.errors import StoreError
from keepstep.data.quarantine import (
    BadRecord,
    Column,
    GoodRecords,
    GoodSamples,
    OnBad,
    Policy,
    Skips,
    places,
)
from keepstep.data.sources import Records, Source, Stored
from keepstep.data.store import StoredObject
from keepstep.data.transform import Samples

DAMAGED, BROKEN = (3, 17, 18, 55), (4, 40)
BAD = {*DAMAGED, *BROKEN}
SKIP = Policy(on_bad=OnBad.skip, max_bad=6)
RULES = (Column(name="n", highest=99),)


def ids(*numbers: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array(numbers, dtype=np.int64)


def records() -> MemoryRecords:
    return MemoryRecords(60, lambda n: {"n": n + 100 * (n in BROKEN)}, damaged=DAMAGED)


def good(kind: str, inner: MemoryRecords, **settings: Any) -> Source:
    """The same quarantine before and after records became samples."""
    if kind == "records":
        return Samples(GoodRecords(inner, RULES, policy=SKIP, **settings))
    return GoodSamples(Samples(inner), RULES, policy=SKIP, **settings)


KINDS = pytest.mark.parametrize("kind", ["records", "samples"])


@KINDS
def test_bad_samples_are_replaced_by_good_ones_and_the_rest_stays(kind: str) -> None:
    told: list[BadRecord] = []
    skips = Skips()
    source = good(kind, records(), skips=skips, report=told.append)
    seen = source.read(np.arange(60))["n"].tolist()
    assert {one.id for one in told} == BAD == {one.id for one in skips.found}
    assert all(seen[n] == n for n in range(60) if n not in BAD)
    assert not BAD & set(seen)
    assert len({seen[n] for n in BAD}) > 3
    assert [one.reason for one in told if one.id == 40] == ["'n' holds 140, needed 99 or less"]
    assert "object-5: found bytes that do not decode" in next(t.reason for t in told if t.id == 55)


@KINDS
def test_every_reader_and_order_of_finding_gives_the_same_samples(kind: str) -> None:
    whole = good(kind, records()).read(np.arange(60))["n"]
    one_by_one = good(kind, records())
    for number in (55, 18, 3, 4, 40, 17, 20):
        assert one_by_one.read(ids(number))["n"].tolist() == [whole[number]]
    skips = Skips([BadRecord(id=n, object="", index=-1, reason="known") for n in (17, 40)])
    assert torch.equal(good(kind, records(), skips=skips).read(np.arange(60))["n"], whole)


@KINDS
def test_known_bad_samples_are_neither_read_nor_wanted_again(kind: str) -> None:
    skips = Skips()
    whole = good(kind, records(), skips=skips).read(np.arange(60))["n"]
    state = json.loads(json.dumps(skips.state_dict()))
    inner, told = records(), []
    source = good(kind, inner, skips=Skips.of(state), report=told.append)
    assert isinstance(source, Stored)
    source.want(np.arange(60), np.zeros(60))
    assert torch.equal(source.read(np.arange(60))["n"], whole)
    assert not BAD & {*inner.seen, *inner.wanted}
    assert not told


@KINDS
def test_an_epoch_shows_every_good_sample_once_where_it_stands(kind: str) -> None:
    source = good(kind, records())
    order = Order(fit_recipe(source, seed=3))
    shares = []
    for rank in range(2):
        loader = Loader(
            good(kind, records()),
            order,
            batch_samples=12,
            microbatch_samples=3,
            reader_index=rank,
            reader_count=2,
        )
        with loader.open(0):
            windows = [next(loader) for _ in range(5)]
        shares.append([torch.cat([b["n"] for b in w.batches]).tolist() for w in windows])
    steps = [first + second for first, second in zip(*shares, strict=True)]
    planned = [order.batch(12 * step, 12).tolist() for step in range(5)]
    for seen, ids_ in zip(chain(*steps), chain(*planned), strict=True):
        assert (seen == ids_) == (ids_ not in BAD)
    assert set(chain(*steps)) == set(range(60)) - BAD


@KINDS
def test_more_bad_samples_than_allowed_end_the_run_with_the_first_reasons(kind: str) -> None:
    inner = MemoryRecords(60, lambda n: {"n": n + 100}, damaged=(2,))
    said = r"found 7 bad samples of 60, needed 6 at most; .* The first of them: sample 0: 'n' holds"
    with pytest.raises(DataError, match=said):
        good(kind, inner).read(np.arange(60))
    skips = Skips([BadRecord(id=n, object="a", index=n, reason="why") for n in range(7)])
    with pytest.raises(DataError, match=r"of them: a 0: why; a 1: why; a 2: why$"):
        good(kind, inner, skips=skips)


def test_a_refused_record_is_named_by_object_and_index() -> None:
    dataset = Dataset(
        format="mds",
        url="s3://b",
        objects=[StoredObject("s3://b/0", 9), StoredObject("s3://b/1", 9)],
        counts=np.array([10, 50]),
    )
    refusing = GoodRecords(records(), RULES, place=places(dataset))
    said = "s3://b/1 record 30 .id 40.: found that 'n' holds 140, needed 99 or less; restore it fr"
    with pytest.raises(DataError, match=said):
        refusing.records(ids(1, 40, 2))
    said = "s3://b/0 record 3: found bytes that do not decode in object-0, needed a record; restore"
    with pytest.raises(CorruptDataError, match=said):
        refusing.records(ids(1, 3, 2))
    assert len(refusing.skips) == 0
    assert places(dataset, unit=4)(2) == ("s3://b/0", 2)
    assert places(dataset, unit=4)(3) == ("s3://b/1", 0)


def test_token_ids_out_of_the_vocabulary_are_found_in_any_batch() -> None:
    rows = torch.arange(400).reshape(40, 10) % 50
    rows[7, 3], rows[9, 0] = 50, -1
    rule = Column(name="tokens", dtype="int64", lowest=0, highest=49)
    source = GoodSamples(TensorSource({"tokens": rows}), [rule], policy=SKIP)
    seen = source.read(np.arange(40))["tokens"]
    assert int(seen.max()) == 49
    assert int(seen.min()) == 0
    assert [one.id for one in source.skips.found] == [7, 9]
    assert source.read(ids())["tokens"].shape == (0, 10)


def test_a_column_that_is_not_there_or_of_half_precision_is_checked_too() -> None:
    source = TensorSource({"x": torch.tensor([1.0, float("nan"), 3.0]).bfloat16()})
    found = GoodSamples(source, [Column(name="x", dtype="float", finite=True)], policy=SKIP)
    assert found.read(np.arange(3))["x"].isfinite().all()
    with pytest.raises(DataError, match="found that 'y' is missing"):
        GoodSamples(source, [Column(name="y")]).read(ids(0))


def test_what_is_no_fault_of_a_record_is_raised() -> None:
    class Away:
        digest = "away"

        def __len__(self) -> int:
            return 9

        def read(self, ids: Any) -> Any:
            if len(ids) > 1:
                raise CorruptDataError("index", "a digest", "another")
            raise StoreError("s3://b/0", "away")

    with pytest.raises(CorruptDataError, match="index: found a digest"):
        GoodSamples(TensorSourceOf(Away()), policy=SKIP).read(ids(0, 1))
    with pytest.raises(StoreError):
        GoodSamples(Away(), policy=SKIP).read(ids(0))


class TensorSourceOf:
    """Reads one sample at a time without complaint."""

    digest = "one"

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __len__(self) -> int:
        return len(self._inner)

    def read(self, ids: Any) -> Any:
        return {"x": torch.zeros(1)} if len(ids) == 1 else self._inner.read(ids)


def test_where_no_sample_is_good_it_says_so() -> None:
    policy = Policy(on_bad=OnBad.skip, max_bad=9)
    source = GoodSamples(
        TensorSource({"x": -torch.ones(5)}), [Column(name="x", lowest=0)], policy=policy
    )
    with pytest.raises(
        DataError, match="found no good sample to take its place among 5, needed one"
    ):
        source.read(ids(2))


def test_epochs_reach_the_source_and_replacements_come_of_the_same_epoch() -> None:
    def draw(record: Any, rng: np.random.Generator) -> Any:
        return {"n": record["n"], "drawn": rng.random()}

    plain = Samples(MemoryRecords(60, lambda n: {"n": n}), draw)
    found = GoodSamples(Samples(records(), draw), RULES, policy=SKIP).read_at(ids(3, 9), ids(2, 5))
    other = int(found["n"][0])
    assert other not in BAD
    assert torch.equal(found["drawn"], plain.read_at(ids(other, 9), ids(2, 5))["drawn"])


def test_a_held_out_slice_is_never_drawn_from() -> None:
    inner = MemoryRecords(60, lambda n: {"n": n}, damaged=tuple(range(6)))
    train = GoodSamples(Slice(Samples(inner), 0, 10), policy=SKIP)
    assert set(train.read(np.arange(10))["n"].tolist()) == set(range(6, 10))


@pytest.mark.parametrize(("bound", "allowed"), [(0, 0), (0.5, 30), (0.0001, 1), (7, 7), (1.0, 1)])
def test_the_bound_is_a_number_or_a_share(bound: float, allowed: int) -> None:
    assert Policy(max_bad=bound).bound(60) == allowed


@pytest.mark.parametrize("bound", [-1, 1.5, float("nan")])
def test_a_bound_that_is_neither_is_refused(bound: float) -> None:
    with pytest.raises(DataError, match=r"Policy max_bad: found .*, needed a whole number of samp"):
        Policy(max_bad=bound)


def test_lists_of_several_readers_are_merged_and_damaged_ones_refused() -> None:
    first, second = Skips(), Skips()
    one = BadRecord(id=4, object="a", index=4, reason="why")
    assert first.add(one)
    assert not first.add(one)
    second.merge([first.state_dict(), {"version": 1, "skips": []}])
    second.add(BadRecord(id=2, object="a", index=2, reason="why"))
    assert [found.id for found in second.found] == [2, 4]
    assert 4 in second
    with pytest.raises(DataError, match="data skips version: found 2 in the saved state, needed 1"):
        Skips.of({"version": 2})
    with pytest.raises(
        DataError, match=r"found entries that cannot be read \(KeyError\('object'\)"
    ):
        Skips.of({"version": 1, "skips": [{"id": 1}]})


def test_the_digest_is_the_sources_own() -> None:
    inner: Records = records()
    assert GoodRecords(inner, RULES, policy=SKIP).digest == inner.digest
    assert GoodSamples(Samples(inner), RULES).digest == Samples(inner).digest
