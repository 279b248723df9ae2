"""Files that the real writers of other tools made (scripts/peers) are read sample for sample."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.plain import plain

from keepstep.data import DataError
from keepstep.data.access import LocalAccess
from keepstep.data.dataset import Dataset
from keepstep.data.lock import lock
from keepstep.data.sources.open import open_records, open_tokens
from keepstep.data.store import LocalStore

FIXTURES = Path(__file__).parent.parent / "fixtures"
RECORDS = {
    "mds": ("all", "zstd", "gz", "bz2", "br", "snappy", "merged", "json", "csv", "tsv", "xsv"),
    "litdata": ("plain", "zstd", "samples", "frames", "rows", "rows_zstd", "pairs"),
    "webdataset": ("plain", "packed", "kinds", "wids", "energon"),
}
TOKENS = {
    "megatron": ("one", "many", "modes"),
    "litdata": ("tokens", "tokens_zstd"),
}
CASES = [f"{peer}/{name}" for peer, names in RECORDS.items() for name in names]
# Packages that unpack these are not among keepstep's own.
OPTIONAL = {"mds/br": "brotli", "mds/snappy": "snappy"}


def expected(case: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FIXTURES / f"{case}.expected.json").read_text())
    return content


def access(dataset: Dataset) -> LocalAccess:
    return LocalAccess(dataset.objects)


@pytest.mark.parametrize("case", [case for case in CASES if case not in OPTIONAL])
def test_records_are_what_was_written_in_any_order(case: str) -> None:
    samples = expected(case)["samples"]
    dataset = lock(str(FIXTURES / case), LocalStore())
    records = open_records(dataset, access(dataset))
    ids = np.random.default_rng(0).permutation(len(samples)).astype(np.int64)
    records.want(ids, np.zeros(len(ids)))
    found = [plain(record) for record in records.records(ids)]
    assert len(records) == len(samples)
    assert found == [samples[place] for place in ids.tolist()]
    records.want(ids, np.zeros(len(ids)))
    assert records.sample_bytes >= 1


@pytest.mark.parametrize(("case", "package"), OPTIONAL.items())
def test_a_packing_without_its_package_is_refused_by_name(
    case: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    dataset = lock(str(FIXTURES / case), LocalStore())
    with pytest.raises(DataError, match=f"no {package}, needed it to unpack; run `pip install"):
        open_records(dataset, access(dataset)).records(np.arange(1))


@pytest.mark.parametrize("case", [f"{peer}/{name}" for peer, all in TOKENS.items() for name in all])
@pytest.mark.parametrize("width", [1, 7, 60])
def test_tokens_are_what_was_written_over_the_ends_of_objects(case: str, width: int) -> None:
    tokens = np.array(expected(case)["tokens"])
    dataset = lock(str(FIXTURES / case), LocalStore())
    source = open_tokens(dataset, access(dataset))
    starts = np.random.default_rng(0).permutation(len(tokens) - width + 1).astype(np.int64)
    source.want(starts, width, np.zeros(len(starts)))
    rows = source.gather(starts, width)
    assert len(source) == len(tokens)
    assert np.array_equal(rows, tokens[starts[:, None] + np.arange(width)])


@pytest.mark.parametrize("name", TOKENS["megatron"])
def test_documents_of_megatron_begin_where_they_were_ended(name: str) -> None:
    dataset = lock(str(FIXTURES / "megatron" / name), LocalStore())
    documents = open_tokens(dataset, access(dataset)).documents
    assert documents is not None
    assert documents.tolist() == expected(f"megatron/{name}")["documents"]


def test_a_split_is_a_folder_of_its_own() -> None:
    url = str(FIXTURES / "mds" / "splits")
    dataset = lock(url, LocalStore(), split="val")
    found = open_records(dataset, access(dataset)).records(np.arange(10))
    assert plain(found) == expected("mds/splits")["samples"]
    with pytest.raises(DataError, match=r"found no index but in train, val, needed one dataset"):
        lock(url, LocalStore())


@pytest.mark.parametrize("case", ["mds/pickled", "litdata/pickled"])
def test_pickled_values_are_refused(case: str) -> None:
    with pytest.raises(DataError, match="pickled values"):
        lock(str(FIXTURES / case), LocalStore())
