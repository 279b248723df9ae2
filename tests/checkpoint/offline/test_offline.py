"""Checkpoints that no run has open: written, renamed, averaged, compared and copied."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from keepstep.checkpoint import (
    Checkpoints,
    CorruptError,
    LocalStore,
    SoloExchange,
    committed,
    read_manifest,
    verify,
)
from keepstep.checkpoint.claims import Fence, claim
from keepstep.checkpoint.commit import Cargo
from keepstep.checkpoint.dtypes import dtype_name
from keepstep.checkpoint.offline import Item, average, compare, copy, items_of, rename, write

CARGO = Cargo(step=7, topology={"world_size": 2}, progress={"loss": 0.5}, lineage={"parent": None})


def held(state: dict[str, torch.Tensor]) -> list[Item]:
    return [
        Item(
            name=name,
            dtype=dtype_name(tensor.dtype),
            shape=tuple(tensor.shape),
            read=lambda tensor=tensor: tensor,
        )
        for name, tensor in sorted(state.items())
    ]


def read(items: list[Item]) -> dict[str, torch.Tensor]:
    return {item.name: item.read() for item in items}


def stored(place: LocalStore) -> dict[str, torch.Tensor]:
    (found,) = committed(place)
    return read(items_of(place, found.folder, read_manifest(place, found.folder)))


@pytest.mark.parametrize("file_bytes", [1, 300, 10**9])
def test_what_is_written_is_whole_and_comes_back(
    kit: SimpleNamespace, tmp_path: Path, file_bytes: int
) -> None:
    place, seen = LocalStore(tmp_path), []
    items = held(kit.full_state(2))
    write(place, items, CARGO, file_bytes=file_bytes, progress=lambda *n: seen.append(n))
    (found,) = committed(place)
    assert (found.step, verify(place, found.folder)) == (7, [])
    assert found.head is not None
    assert found.head.progress == CARGO.progress
    assert kit.is_equal(stored(place), kit.full_state(2))
    assert seen[-1] == (sum(item.num_bytes for item in items),) * 2


def test_a_write_that_fails_leaves_nothing(kit: SimpleNamespace, tmp_path: Path) -> None:
    items = held(kit.full_state(2))
    items[3] = replace(items[3], read=lambda: torch.ones(1))
    with pytest.raises(ValueError, match=f"Tensor {items[3].name}: found torch.float32"):
        write(LocalStore(tmp_path), items, CARGO)
    assert list(tmp_path.iterdir()) == []


NAMES = ["model.a.w", "model.b.w", "optim.a.step"]


def renamed(*rules: tuple[str, str]) -> list[str]:
    return [one.name for one in rename(held({name: torch.ones(1) for name in NAMES}), rules)]


@pytest.mark.parametrize(
    ("rules", "names"),
    [
        ([], NAMES),
        ([("model.*", "*")], ["a.w", "b.w", "optim.a.step"]),
        ([("model.*.w", "x.*.y")], ["optim.a.step", "x.a.y", "x.b.y"]),
        ([("optim.*", "")], NAMES[:2]),
        ([("model.a.w", "head"), ("model.*", "*")], ["b.w", "head", "optim.a.step"]),
        ([("*.*.w", "*/*")], ["model/a", "model/b", "optim.a.step"]),
        ([("[a].w", "x")], NAMES),
    ],
)
def test_names_change_by_the_first_rule_that_matches(
    rules: list[tuple[str, str]], names: list[str]
) -> None:
    assert renamed(*rules) == names


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (("model.*", "one"), "found two tensors that become one, needed a name for each"),
        (("model.*", "*.*"), r"found model\.\*=\*\.\*, needed at most as many \*"),
    ],
)
def test_rules_that_cannot_be_meant_are_refused(rule: tuple[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        renamed(rule)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=4))
def test_an_average_of_equals_is_the_same_bit_for_bit(values: list[float]) -> None:
    tensor = torch.tensor(values)
    mean = average([held({"w": tensor})] * 4, [1.0] * 4)
    assert torch.equal(mean[0].read(), tensor)


def test_an_average_is_weighted_and_counts_are_of_the_last() -> None:
    states: list[dict[str, torch.Tensor]] = [
        {"w": torch.tensor([0.0, 4.0], dtype=torch.bfloat16), "n": torch.tensor(step)}
        for step in (1, 2)
    ]
    states[1]["w"] = torch.tensor([4.0, 8.0], dtype=torch.bfloat16)
    found = read(average([held(state) for state in states], [3, 1]))
    assert found["w"].tolist() == [1.0, 5.0]
    assert (found["w"].dtype, int(found["n"])) == (torch.bfloat16, 2)


@pytest.mark.parametrize(
    ("states", "weights", "words"),
    [
        ([{"w": 2}, {"w": 3}], [1, 1], r"Checkpoint 2 of 2: found 1 tensors that differ .*\(w\)"),
        ([{"w": 2}, {"v": 2}], [1, 1], r"found 2 tensors that differ .*\(v, w\)"),
        ([{"w": 2}, {"w": 2}], [1], r"weights: found \[1\] for 2 checkpoints"),
        ([{"w": 2}, {"w": 2}], [0, 0], r"weights: found \[0, 0\] for 2 checkpoints"),
        ([{"w": 2}, {"w": 2}], [2, -1], r"weights: found \[2, -1\] for 2 checkpoints"),
    ],
)
def test_what_cannot_be_averaged_is_refused(
    states: list[dict[str, int]], weights: list[float], words: str
) -> None:
    sources = [held({k: torch.ones(size) for k, size in state.items()}) for state in states]
    with pytest.raises(ValueError, match=words):
        average(sources, weights)


def test_equal_states_compare_equal_though_they_hold_nan(kit: SimpleNamespace) -> None:
    state = {**kit.full_state(1), "odd": torch.tensor([float("nan"), float("inf"), 0.0])}
    found = compare(held(state), held({name: one.clone() for name, one in state.items()}))
    assert found.is_equal
    assert found.num_equal == len(state)


def test_changes_are_told_by_size_the_largest_first() -> None:
    before = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([0.0, 10.0]), "c": torch.ones(1)}
    after = {"a": torch.tensor([1.5, 2.0]), "b": torch.tensor([3.0, 11.0]), "c": torch.ones(1)}
    found = compare(held(before), held(after))
    assert [(one.name, one.absolute, one.relative) for one in found.changes] == [
        ("a", 0.5, 0.5),
        ("b", 3.0, pytest.approx(0.1)),
    ]
    assert (found.is_equal, found.num_equal) == (False, 1)


@pytest.mark.parametrize(
    ("one", "other", "absolute"),
    [(0.0, -0.0, 0.0), (1.0, float("nan"), float("inf")), (float("inf"), 1.0, float("inf"))],
)
def test_odd_numbers_are_changes_too(one: float, other: float, absolute: float) -> None:
    found = compare(held({"w": torch.tensor([one])}), held({"w": torch.tensor([other])}))
    assert [change.absolute for change in found.changes] == [absolute]


def test_names_and_kinds_that_differ_are_told() -> None:
    found = compare(
        held({"a": torch.ones(1), "b": torch.ones(2)}),
        held({"c": torch.ones(1), "b": torch.ones(2).double()}),
    )
    assert (found.only_first, found.only_second) == (["a"], ["c"])
    assert found.kinds == ["b: float32[2] -> float64[2]"]


@pytest.fixture
def source(kit: SimpleNamespace, tmp_path: Path) -> tuple[LocalStore, str]:
    place = LocalStore(tmp_path / "source")
    return place, write(place, held(kit.full_state(4)), CARGO, file_bytes=300)


def test_a_copy_has_the_same_bytes_and_name(source: tuple[LocalStore, str], tmp_path: Path) -> None:
    place, folder = source
    copy(place, folder, LocalStore(tmp_path / "target"))
    paths = sorted((tmp_path / "source" / folder).iterdir())
    copies = sorted((tmp_path / "target" / folder).iterdir())
    assert [path.name for path in paths] == [path.name for path in copies]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(paths, copies, strict=True))


def test_each_flipped_byte_stops_a_copy_and_leaves_nothing(
    source: tuple[LocalStore, str], tmp_path: Path
) -> None:
    place, folder = source
    target = tmp_path / "target"
    path = tmp_path / "source" / folder / "rank-00001.safetensors"
    good = path.read_bytes()
    for at in range(0, len(good), 7):
        path.write_bytes(good[:at] + bytes([good[at] ^ 8]) + good[at + 1 :])
        with pytest.raises(CorruptError, match=r"rank-00001\.safetensors: bytes \d+ to \d+"):
            copy(place, folder, LocalStore(target))
        assert not any(target.glob("*"))


def test_a_copy_that_was_cut_short_is_made_anew_and_a_whole_one_is_left(
    source: tuple[LocalStore, str], tmp_path: Path
) -> None:
    place, folder = source
    target = LocalStore(tmp_path / "target")
    target.create(f"{folder}/rank-00000.safetensors", [b"torn"])
    copy(place, folder, target)
    assert verify(target, folder) == []
    with pytest.raises(FileExistsError, match="is there already, and is left as it is"):
        copy(place, folder, target)


class Lossy:
    """A place that keeps less than it was given."""

    def __init__(self, inner: LocalStore) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def size(self, name: str) -> int:
        return self.inner.size(name) - 1


def test_a_place_that_loses_bytes_is_told(source: tuple[LocalStore, str], tmp_path: Path) -> None:
    place, folder = source
    with pytest.raises(RuntimeError, match="the place lost some of them"):
        copy(place, folder, Lossy(LocalStore(tmp_path / "target")))


def test_what_is_written_beside_a_jobs_checkpoints_comes_first(
    kit: SimpleNamespace, tmp_path: Path
) -> None:
    place = LocalStore(tmp_path)
    owned = claim(place, "run-1")
    owned.close()
    checkpoints = Checkpoints(place, SoloExchange(), keep=9, fence=Fence(claim=owned))
    kit.save(checkpoints, kit.full_state(1), 9)
    write(place, held(kit.full_state(2)), CARGO)
    manifests = [found.head for found in committed(place)]
    assert [(one.step, one.claim, one.run) for one in manifests if one] == [
        (7, owned.number, "run-1"),
        (9, owned.number, "run-1"),
    ]
