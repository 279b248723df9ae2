"""Hugging Face's layout is written whole or not at all, and read by its index alone."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from keepstep.checkpoint import CorruptError
from keepstep.checkpoint.formats import export_huggingface, import_huggingface
from keepstep.checkpoint.offline import Item

CONFIG = {"model_type": "none"}


def export(items: list[Item], out: Path, shard_bytes: int = 2**30) -> list[str]:
    files = {"README.md": b"# it\n"}
    return export_huggingface(items, out, config=CONFIG, files=files, shard_bytes=shard_bytes)


def test_weights_of_one_file_have_no_index(
    kit: SimpleNamespace, items: list[Item], tmp_path: Path
) -> None:
    names = export(items, tmp_path / "out")
    assert names == ["README.md", "config.json", "model.safetensors"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert kit.is_equal(load_file(tmp_path / "out" / "model.safetensors"), kit.full_state(3))
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == CONFIG


def test_larger_weights_are_cut_into_files_of_bounded_size(
    kit: SimpleNamespace, items: list[Item], tmp_path: Path
) -> None:
    names = export(items, tmp_path / "out", 100)
    shards = [name for name in names if name.startswith("model-")]
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert len(shards) > 2
    assert index["metadata"]["total_size"] == sum(item.num_bytes for item in items)
    assert set(index["weight_map"].values()) == set(shards)
    for name in shards:
        held = load_file(tmp_path / "out" / name)
        size = sum(tensor.nbytes for tensor in held.values())
        assert size <= 100 or len(held) == 1
        assert all(index["weight_map"][key] == name for key in held)
    again = {item.name: item.read() for item in import_huggingface(tmp_path / "out")}
    assert kit.is_equal(again, kit.full_state(3))


def test_a_damaged_source_leaves_no_export(items: list[Item], tmp_path: Path) -> None:
    (path,) = (tmp_path / "ours").glob("*/rank-00000.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptError, match="do not match their digest"):
        export(items, tmp_path / "out")
    assert [one.name for one in tmp_path.iterdir()] == ["ours"]


def test_an_export_over_something_is_refused(items: list[Item], tmp_path: Path) -> None:
    (tmp_path / "out").write_text("notes")
    with pytest.raises(FileExistsError, match="out: found something there, needed a new or empty"):
        export(items, tmp_path / "out")


def test_pickled_weights_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(ValueError, match=r"found pytorch_model\.bin, which can run code when read"):
        import_huggingface(tmp_path)
    with pytest.raises(ValueError, match="found no such folder"):
        import_huggingface(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "weights.bin"])
def test_an_index_that_leaves_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(ValueError, match=r"needed the name of a \.safetensors file"):
        import_huggingface(tmp_path)


def test_missing_torn_and_doubled_files_are_named(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "a.safetensors")
    save_file({"w": torch.ones(2)}, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match=r"found w in a\.safetensors and in b\.safetensors"):
        import_huggingface(tmp_path)
    (tmp_path / "b.safetensors").write_bytes(b"torn")
    with pytest.raises(CorruptError, match=r"b\.safetensors: cannot be read"):
        import_huggingface(tmp_path)
    index = {"weight_map": {"w": "a.safetensors", "v": "c.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CorruptError, match=r"c\.safetensors: is missing"):
        import_huggingface(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CorruptError, match="is no index"):
        import_huggingface(tmp_path)
