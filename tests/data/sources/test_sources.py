"""Every source keeps the one contract: ids in, one batch out, a digest of the content."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support.shards import open_shards

from keepstep.data import Source, Subset, TensorSource

MAKERS: dict[str, Callable[[Path], Source]] = {
    "tokens": lambda folder: open_shards(folder, sequence_length=16),
    "subset": lambda folder: Subset(open_shards(folder, sequence_length=16), 30),
    "tensors": lambda _: TensorSource({"x": torch.arange(60).reshape(20, 3), "y": torch.rand(20)}),
}


@pytest.fixture(params=MAKERS)
def source(request: pytest.FixtureRequest, prepared: Path) -> Source:
    torch.manual_seed(0)
    return MAKERS[request.param](prepared)


def test_a_batch_has_one_row_an_id_in_the_order_asked(source: Source) -> None:
    ids = np.array([3, 0, len(source) - 1, 3])
    batch = source.read(ids)
    for name, rows in batch.items():
        assert len(rows) == 4
        for row, index in zip(rows, ids, strict=True):
            assert torch.equal(row, source.read(np.array([index]))[name][0])


def test_no_ids_give_a_batch_of_no_rows_and_the_usual_shape(source: Source) -> None:
    empty, one = source.read(np.array([], dtype=np.int64)), source.read(np.array([0]))
    assert {name: (0, *rows.shape[1:]) for name, rows in one.items()} == {
        name: tuple(rows.shape) for name, rows in empty.items()
    }


def test_a_batch_is_a_copy(source: Source) -> None:
    before = source.read(np.array([1]))
    for rows in source.read(np.array([1])).values():
        rows.zero_()
    after = source.read(np.array([1]))
    assert all(torch.equal(after[name], rows) and rows.any() for name, rows in before.items())


def test_an_id_past_the_end_is_an_error(source: Source) -> None:
    with pytest.raises((IndexError, ValueError)):
        source.read(np.array([len(source)]))


def test_the_digest_follows_the_content(source: Source, prepared: Path) -> None:
    others = {
        open_shards(prepared, sequence_length=17).digest,
        open_shards(prepared, split="eval", sequence_length=16).digest,
        TensorSource({"x": torch.arange(60).reshape(20, 3)}).digest,
        TensorSource({"x": torch.arange(60).reshape(3, 20)}).digest,
    }
    assert len(others | {source.digest}) == 5


def test_a_subset_is_spread_evenly_and_never_larger_than_its_source() -> None:
    source = TensorSource({"x": torch.arange(10)})
    assert Subset(source, 4).read(np.arange(4))["x"].tolist() == [0, 2, 5, 7]
    assert Subset(source, 99).read(np.arange(10))["x"].tolist() == list(range(10))
    assert len(Subset(source, 99)) == 10
