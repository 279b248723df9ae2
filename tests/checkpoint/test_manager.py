"""Save and restore as a run calls them: any layout, damage passed over, newest first."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from support.world import run_world

from keepstep.checkpoint import (
    CheckpointError,
    Checkpoints,
    LocalStore,
    MismatchError,
    VersionError,
    verify,
)
from keepstep.checkpoint.manifest import decode

LAYOUTS = ["solo", "shard2", "shard2_dim1", "replicate2", "shard4", "hsdp2x2", "grid2x2"]


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)


@pytest.fixture(scope="module")
def saved_by_layout(kit, tmp_path_factory):
    """A folder with one checkpoint a layout, each in a place of its own, named for the layout."""
    root = tmp_path_factory.mktemp("layouts")

    def write(rank, layouts):
        for layout in layouts:
            checkpoints = Checkpoints(LocalStore(root / layout), kit.GlooExchange(), keep=1)
            kit.save(checkpoints, kit.spread(kit.full_state(3), layout), 7)

    for size in (1, 2, 4):
        run_world(size, write, [name for name in LAYOUTS if kit.LAYOUTS[name][0] == size])
    return root


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_checkpoint_of_any_layout_loads_on_every_layout(kit, saved_by_layout, size):
    full = kit.full_state(3)

    def read(rank, layout, saved):
        state = kit.spread(kit.zeroed(full), layout)
        place = LocalStore(saved_by_layout / saved)
        restored = Checkpoints(place, kit.GlooExchange(), keep=1).restore(state)
        assert restored.progress == {"step": 7, "loss": 0.1}
        return kit.is_equal(kit.gathered(state), full) and not restored.damaged

    def read_all(rank):
        layouts = [name for name in LAYOUTS if kit.LAYOUTS[name][0] == size]
        return {(on, of): read(rank, on, of) for on in layouts for of in LAYOUTS}

    for outcome in run_world(size, read_all):
        assert len(outcome) >= len(LAYOUTS)
        assert all(outcome.values()), outcome


def test_every_rank_is_told_the_same_of_a_save(kit, tmp_path):
    def write(rank):
        checkpoints = Checkpoints(LocalStore(tmp_path), kit.GlooExchange(), keep=1)
        saved = kit.save(checkpoints, kit.spread(kit.full_state(1), "shard2"), 5)
        return saved.step, saved.path, saved.bytes

    one, other = run_world(2, write)
    assert one == other
    assert one[2] == sum(file.stat().st_size for file in Path(one[1]).iterdir())


def test_nothing_to_restore_is_none_and_the_state_stays(kit, solo):
    state = kit.full_state(1)
    assert solo().restore(state) is None
    assert kit.is_equal(state, kit.full_state(1))


def test_the_newest_is_restored_unless_a_step_is_named(kit, solo):
    for step in (1, 2, 3):
        kit.save(solo(), kit.full_state(step), step)
    state = kit.full_state(0)
    assert solo().restore(state).step == 3
    assert solo().restore(state, step=2).step == 2
    assert kit.is_equal(state, kit.full_state(2))
    assert solo().restore(state, step=9) is None


def test_two_saves_of_a_step_stand_beside_each_other_and_the_later_is_restored(kit, solo):
    paths = [kit.save(solo(), kit.full_state(seed), 4).path for seed in (1, 2)]
    assert [path for _, path in solo().steps()] == paths[::-1]
    state = kit.full_state(0)
    assert solo().restore(state).path == paths[1]
    assert kit.is_equal(state, kit.full_state(2))


def test_only_the_newest_are_kept(kit, solo):
    for step in range(1, 6):
        kit.save(solo(keep=2), kit.full_state(step), step)
    assert [step for step, _ in solo().steps()] == [5, 4]


def test_a_run_that_went_back_keeps_and_resumes_what_it_saved_since(kit, solo):
    for step in (1, 2, 3):
        kit.save(solo(), kit.full_state(step), step)
    solo().restore(kit.full_state(0), step=1)
    kit.save(solo(keep=1), kit.full_state(20), 2)
    state = kit.full_state(0)
    assert solo().restore(state).step == 2
    assert kit.is_equal(state, kit.full_state(20))


def test_a_torn_checkpoint_does_not_count_among_those_kept(kit, solo):
    for step in (1, 2):
        kit.save(solo(), kit.full_state(step), step)
    (Path(solo().steps()[0][1]) / "rank-00000.safetensors").unlink()
    kit.save(solo(keep=2), kit.full_state(3), 3)
    assert [step for step, _ in solo().steps()] == [3, 2, 1]


def test_a_clock_that_went_backwards_does_not_hide_the_newest(kit, solo, monkeypatch):
    kit.save(solo(), kit.full_state(1), 1)
    monkeypatch.setattr("time.time", lambda: 1.0)
    kit.save(solo(), kit.full_state(2), 2)
    assert solo().restore(kit.full_state(0)).step == 2


@pytest.mark.parametrize("layout", ["solo", "shard2"])
def test_a_flipped_byte_anywhere_is_named_and_the_older_one_used(kit, tmp_path, layout):
    """Every region of every file: the manifest, each header, and each chunk at both its ends."""
    size = kit.LAYOUTS[layout][0]

    def body(rank):
        checkpoints = Checkpoints(LocalStore(tmp_path), kit.GlooExchange(), keep=9)
        kit.save(checkpoints, kit.spread(kit.full_state(1), layout), 1)
        newest = Path(kit.save(checkpoints, kit.spread(kit.full_state(2), layout), 2).path)
        outcomes = []
        spots = regions(newest)
        dist.barrier()  # rank 0 flips its first byte once every rank has read the manifest
        for name, position in spots:
            if rank == 0:
                flip(newest / name, position)
            state = kit.spread(kit.zeroed(kit.full_state(1)), layout)
            restored = checkpoints.restore(state)
            whole = kit.is_equal(kit.gathered(state), kit.full_state(1))
            outcomes.append((restored.step, whole, name in {d.file for d in restored.damaged}))
            if rank == 0:
                assert [damage.file for damage in verify(LocalStore(tmp_path), newest.name)] == [
                    name
                ]
                flip(newest / name, position)
        return outcomes

    results = run_world(size, body)
    assert len(results[0]) > 20 * size
    assert all(outcome == (1, True, True) for rank in results for outcome in rank)


def regions(folder: Path) -> list[tuple[str, int]]:
    manifest = decode((folder / "manifest.json").read_bytes(), path="here")
    last = (folder / "manifest.json").stat().st_size - 1
    found = [("manifest.json", last * part // 16) for part in range(17)]
    for file in manifest.files:
        ends = (0, 7, 8, file.header_bytes // 2, file.header_bytes - 1)
        found += [(file.name, position) for position in ends]
    for chunk in manifest.chunks:
        if chunk.end > chunk.start:
            found += [(chunk.file, chunk.start), (chunk.file, chunk.end - 1)]
    return found


@pytest.mark.parametrize("harm", ["truncate", "grow", "unlink", "empty the manifest"])
def test_a_file_cut_grown_or_gone_is_named_and_the_older_one_used(kit, solo, harm):
    for step in (1, 2):
        kit.save(solo(), kit.full_state(step), step)
    folder = Path(solo().steps()[0][1])
    file = folder / ("manifest.json" if "manifest" in harm else "rank-00000.safetensors")
    data = file.read_bytes()
    file.write_bytes({"truncate": data[:-1], "grow": data + b"\0"}.get(harm, b""))
    if harm == "unlink":
        file.unlink()
    state = kit.full_state(0)
    restored = solo().restore(state)
    assert restored.step == 1
    assert [(one.path, one.file) for one in restored.damaged] == [(str(folder), file.name)]
    assert kit.is_equal(state, kit.full_state(1))


def test_with_none_whole_each_damage_is_named_and_the_state_stays(kit, solo):
    for step in (1, 2):
        folder = Path(kit.save(solo(), kit.full_state(step), step).path)
        flip(folder / "rank-00000.safetensors", -1)
    state = kit.full_state(5)
    with pytest.raises(CheckpointError, match="no whole checkpoint") as caught:
        solo().restore(state)
    assert all(path in str(caught.value) for _, path in solo().steps())
    assert kit.is_equal(state, kit.full_state(5))


def test_damage_that_one_rank_meets_keeps_every_rank_from_loading(kit, tmp_path):
    def body(rank):
        checkpoints = Checkpoints(LocalStore(tmp_path), kit.GlooExchange(), keep=9)
        saved = kit.save(checkpoints, kit.spread(kit.full_state(1), "shard2"), 1)
        if rank == 0:
            raw = (Path(saved.path) / "manifest.json").read_bytes()
            entries = decode(raw, path="here").by_name["model.deep"]
            only_rank_1 = next(entry for entry in entries if entry.offsets[0])
            flip(Path(saved.path) / only_rank_1.file, only_rank_1.start)
        state = kit.spread(kit.full_state(5), "shard2")
        with pytest.raises(CheckpointError, match=r"model\.deep"):
            checkpoints.restore(state)
        return kit.is_equal(kit.gathered(state), kit.full_state(5))

    assert run_world(2, body) == [True, True]


def test_another_models_checkpoint_is_refused_with_the_names_that_differ(kit, solo):
    kit.save(solo(), {"a": torch.ones(2), "b": torch.ones(3), "c": torch.ones(4)}, 1)
    state = {"a": torch.zeros(2), "b": torch.zeros(5), "d": torch.zeros(1)}
    with pytest.raises(MismatchError, match="is of another model") as caught:
        solo().restore(state)
    assert caught.value.missing == ["d"]
    assert caught.value.unexpected == ["c"]
    assert caught.value.differing == ["b: saved float32[3], live float32[5]"]
    assert not any(tensor.any() for tensor in state.values())


def test_a_mismatch_is_raised_on_every_rank(kit, tmp_path):
    def body(rank):
        checkpoints = Checkpoints(LocalStore(tmp_path), kit.GlooExchange(), keep=9)
        kit.save(checkpoints, kit.spread(kit.full_state(1), "shard2"), 1)
        state = kit.spread(kit.full_state(1), "shard2")
        state["extra"] = torch.zeros(1)
        with pytest.raises(MismatchError, match="1 missing in it \\(extra\\)"):
            checkpoints.restore(state)

    run_world(2, body)


def test_a_newer_format_is_refused_rather_than_passed_over(kit, solo, monkeypatch):
    kit.save(solo(), kit.full_state(1), 1)
    with monkeypatch.context() as patch:
        patch.setattr("keepstep.checkpoint.manifest.FORMAT_VERSION", 99)
        kit.save(solo(), kit.full_state(2), 2)
    with pytest.raises(VersionError, match="format_version 99, but this release reads"):
        solo().restore(kit.full_state(0))


def test_progress_that_json_would_change_is_refused(kit, solo):
    records = {"topology": {}, "lineage": {}, "progress": {1: "int keys become str"}}
    with pytest.raises(CheckpointError, match="use str keys"):
        solo().save(kit.full_state(1), step=1, **records)
    assert solo().steps() == []
