"""Names: a changed object never has an old one's, and a file says which extent it holds."""

from dataclasses import replace

import pytest

from keepstep.data import DataError
from keepstep.data.cache import ExtentName, object_name
from keepstep.data.cache.name import parse_file, parse_temporary, temporary_file
from keepstep.data.store import StoredObject

SHARD = StoredObject("s3://bucket/shard-0.mds", 1000, "tag", "zstd", 2000)


def test_whatever_makes_it_another_object_gives_it_another_name() -> None:
    changes: list[dict[str, str | int]] = [
        {"url": "s3://bucket/shard-1.mds"},
        {"tag": "gat"},
        {"size": 1001},
        {"packing": ""},
    ]
    names = [object_name(replace(SHARD, **change), 2**20) for change in changes]  # type: ignore[arg-type]
    names += [object_name(SHARD, 2**20), object_name(SHARD, 2**21)]
    assert len(set(names)) == 6
    assert names[-2] == object_name(replace(SHARD, raw_size=-1), 2**20)


def test_names_stay_the_same_over_versions() -> None:
    assert object_name(SHARD, 2**20) == "2b137f8eff5803fbb8f3d598f04c97d5"
    assert ExtentName(object_name(SHARD, 2**20), 7).shelf == "a6"


@pytest.mark.parametrize("extent_bytes", [2**16 - 1, 2**23 + 1])
def test_an_extent_of_another_size_than_allowed_is_refused(extent_bytes: int) -> None:
    with pytest.raises(DataError, match=f"found extents of {extent_bytes} bytes, needed 65536"):
        object_name(SHARD, extent_bytes)


def test_a_file_name_is_read_back_and_no_other_is() -> None:
    name = ExtentName(object_name(SHARD, 2**20), 31)
    assert parse_file(name.file) == name
    temporary = temporary_file("0123456789ab", 4096, 5, name)
    assert parse_temporary(temporary) == ("0123456789ab", 4096, name)
    for wrong in (
        name.file + "0x",
        name.file.upper(),
        f"{name.object}-031",
        "a",
        "../" + name.file,
    ):
        assert parse_file(wrong) is None
        assert parse_temporary(wrong) is None


def test_extents_spread_over_the_shelves() -> None:
    shelves = {ExtentName(object_name(SHARD, 2**20), number).shelf for number in range(4096)}
    assert len(shelves) == 256
