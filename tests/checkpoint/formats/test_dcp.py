"""torch's own checkpoints are read without unpickling; ours are loaded by plain torch."""

import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from support.world import run_world
from torch.distributed.checkpoint.filesystem import FileSystemWriter, SerializationFormat

from keepstep.checkpoint import CorruptError, LocalStore
from keepstep.checkpoint.commit import Cargo
from keepstep.checkpoint.formats import export_dcp, import_dcp
from keepstep.checkpoint.listing import read_manifest
from keepstep.checkpoint.offline import Item, items_of, write

CARGO = Cargo(step=3, topology={"world_size": 1}, progress={"step": 3}, lineage={"seed": 1})
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.distributed is disabled.*")


def read(items: list[Item]) -> dict[str, torch.Tensor]:
    return {item.name: item.read() for item in items}


def write_with_torch(state: dict[str, Any], folder: Path, **options: Any) -> None:
    dcp.save(state, storage_writer=FileSystemWriter(folder, **options), no_dist=True)


def test_plain_torch_loads_what_was_exported(
    kit: SimpleNamespace, items: list[Item], tmp_path: Path
) -> None:
    export_dcp(items, tmp_path / "out", CARGO)
    torch.save(kit.full_state(3), tmp_path / "wanted.pt")
    program = f"""
        import sys, torch, torch.distributed.checkpoint as dcp
        wanted = torch.load({str(tmp_path / "wanted.pt")!r})
        state = {{name: torch.zeros_like(tensor) for name, tensor in wanted.items()}}
        dcp.load(state, checkpoint_id={str(tmp_path / "out")!r}, no_dist=True)
        assert all(torch.equal(state[name], wanted[name]) for name in wanted)
        assert not any(name.partition(".")[0] == "keepstep" for name in sys.modules)
        print(len(state))
    """
    run = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)]
    done = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.stdout, done.returncode) == (f"{len(items)}\n", 0), done.stderr


def test_what_was_exported_comes_back_bit_for_bit_with_its_progress(
    kit: SimpleNamespace, items: list[Item], tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    export_dcp(items, tmp_path / "out", CARGO, progress=lambda *counts: seen.append(counts))
    found, others, cargo = import_dcp(tmp_path / "out")
    place = LocalStore(tmp_path / "again")
    folder = write(place, found, cargo)
    again = read(items_of(place, folder, read_manifest(place, folder)))
    assert kit.is_equal(again, kit.full_state(3))
    assert (others, cargo) == ([], CARGO)
    assert seen[-1] == (sum(item.num_bytes for item in items),) * 2


@pytest.mark.parametrize("layout", ["shard2", "shard2_dim1", "hsdp2x2", "grid2x2"])
@pytest.mark.parametrize("is_async", [False, True], ids=["save", "async_save"])
def test_a_checkpoint_of_many_ranks_is_read_whole(
    kit: SimpleNamespace, tmp_path: Path, layout: str, is_async: bool
) -> None:
    full = {name: one for name, one in kit.full_state(5).items() if one.numel()}
    size = kit.LAYOUTS[layout][0]

    def body(rank: int) -> None:
        state = kit.spread(full, layout)
        if is_async:
            dcp.async_save(state, checkpoint_id=tmp_path / "theirs").result(timeout=60)
        else:
            dcp.save(state, checkpoint_id=tmp_path / "theirs")

    run_world(size, body)
    found, others, _ = import_dcp(tmp_path / "theirs")
    assert kit.is_equal(read(found), full)
    assert others == []


@pytest.mark.parametrize("form", list(SerializationFormat))
def test_nested_states_have_dotted_names_and_what_is_no_tensor_is_named(
    tmp_path: Path, form: SerializationFormat
) -> None:
    state = {"model": {"w": torch.arange(3.0), "n": torch.tensor(4)}, "lr": 0.1, "words": ["x"]}
    write_with_torch(state, tmp_path / "theirs", serialization_format=form)
    found, others, cargo = import_dcp(tmp_path / "theirs")
    assert {name: one.tolist() for name, one in read(found).items()} == {
        "model.w": [0.0, 1.0, 2.0],
        "model.n": 4,
    }
    assert "lr" in others
    assert (cargo.step, cargo.progress) == (0, {})


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_metadata_that_would_run_something_is_refused_by_name(tmp_path: Path) -> None:
    write_with_torch({"w": torch.ones(2)}, tmp_path / "theirs")
    (tmp_path / "theirs" / ".metadata").write_bytes(pickle.dumps(Trap(tmp_path / "ran"), 4))
    with pytest.raises(ValueError, match=r"names pathlib\.Path\.touch, .* nothing was run"):
        import_dcp(tmp_path / "theirs")
    assert not (tmp_path / "ran").exists()


def with_metadata(folder: Path, change: Any) -> None:
    """Has torch's own objects changed and written again."""
    path = folder / ".metadata"
    found = pickle.loads(path.read_bytes())
    change(found)
    path.write_bytes(pickle.dumps(found))


def moved(found: Any) -> None:
    for info in found.storage_data.values():
        info.relative_path = "../secret"


def gapped(found: Any) -> None:
    found.state_dict_metadata["w"].chunks[0].sizes = torch.Size([1])


def lost(found: Any) -> None:
    found.storage_data.clear()


def squeezed(found: Any) -> None:
    for info in found.storage_data.values():
        info.transform_descriptors = ["zstd"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (moved, r"w lies in '\.\./secret', outside of the checkpoint"),
        (gapped, "w has boxes that leave a gap"),
        (lost, "w has a chunk that lies nowhere"),
        (squeezed, r"w was transformed by \['zstd'\], which is not undone"),
    ],
)
def test_metadata_that_cannot_be_trusted_is_refused(
    tmp_path: Path, change: Any, words: str
) -> None:
    write_with_torch({"w": torch.ones(2)}, tmp_path / "theirs")
    with_metadata(tmp_path / "theirs", change)
    with pytest.raises(ValueError, match=words):
        import_dcp(tmp_path / "theirs")


def test_a_flipped_byte_and_a_missing_file_are_named(tmp_path: Path) -> None:
    write_with_torch({"w": torch.arange(8.0)}, tmp_path / "theirs")
    path = tmp_path / "theirs" / "__0_0.distcp"
    data = bytearray(path.read_bytes())
    data[data.index(torch.arange(8.0).numpy().tobytes()) + 9] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptError, match=r"__0_0\.distcp: bytes 0 to \d+ \(w\): does not match"):
        read(import_dcp(tmp_path / "theirs")[0])
    path.unlink()
    with pytest.raises(CorruptError, match=r"__0_0\.distcp: is missing"):
        read(import_dcp(tmp_path / "theirs")[0])


def test_a_folder_without_metadata_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"found no \.metadata, needed the folder of a DCP"):
        import_dcp(tmp_path)


def test_an_export_whose_source_is_damaged_leaves_nothing(
    items: list[Item], tmp_path: Path
) -> None:
    (path,) = (tmp_path / "ours").glob("*/rank-00000.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptError, match="do not match their digest"):
        export_dcp(items, tmp_path / "out", CARGO)
    assert [one.name for one in tmp_path.iterdir()] == ["ours"]


def test_an_export_into_a_folder_with_something_in_it_is_refused(
    items: list[Item], tmp_path: Path
) -> None:
    with pytest.raises(FileExistsError, match="needed a new or empty folder"):
        export_dcp(items, tmp_path / "ours", CARGO)
