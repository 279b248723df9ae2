"""Checkpoints that somebody else made: no code of theirs runs, no file of ours is reached."""

import ast
import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import pytest
import torch

from keepstep.checkpoint import CheckpointError, LocalStore, verify
from keepstep.checkpoint.digest import digest_bytes
from keepstep.checkpoint.manifest import MANIFEST

ROOM = Path(__file__).parents[2] / "checkpoint"


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mknod, (str(self.mark),)


def archive(mark: Path) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        data = pickle.dumps(Bomb(mark))
        info = tarfile.TarInfo("../../data.pkl")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def saved_by_torch(mark: Path) -> bytes:
    out = io.BytesIO()
    torch.save({"w": Bomb(mark)}, out)
    return out.getvalue()


def resealed(folder: Path, change) -> None:
    """Changes a manifest's head and tensors, and makes every digest in it fit again."""
    record = json.loads((folder / MANIFEST).read_bytes())
    change(record["head"], record["tensors"])
    head, tensors = (
        json.dumps(record[name], separators=(",", ":")) for name in ("head", "tensors")
    )
    rest = (
        f'"format":"keepstep-checkpoint","format_version":3,"head_bytes":{len(head)},'
        f'"head_digest":"{digest_bytes(head.encode())}","signature":"",'
        f'"head":{head},"tensors":{tensors}}}'
    ).encode()
    (folder / MANIFEST).write_bytes(b'{"digest":"%b",%b' % (digest_bytes(rest).encode(), rest))


@pytest.mark.parametrize(
    "make",
    [lambda mark: pickle.dumps(Bomb(mark)), archive, saved_by_torch],
    ids=["pickle", "archive", "torch"],
)
@pytest.mark.parametrize("name", ["rank-00000.safetensors", MANIFEST])
def test_a_pickle_in_a_files_place_is_refused_and_never_run(kit, solo, tmp_path, make, name):
    folder = Path(kit.save(solo(), kit.full_state(1), 1).path)
    mark = tmp_path.parent / f"{tmp_path.name}-exploded"
    (folder / name).write_bytes(make(mark))
    with pytest.raises(CheckpointError, match=rf"no whole checkpoint: .*{name}"):
        solo().restore(kit.full_state(0))
    assert verify(LocalStore(tmp_path), folder.name)[0].file == name
    assert not mark.exists()


def test_a_pickle_whose_digests_fit_becomes_numbers_and_nothing_else(kit, solo, tmp_path):
    mark = tmp_path.parent / f"{tmp_path.name}-exploded"
    bomb = torch.frombuffer(bytearray(pickle.dumps(Bomb(mark))), dtype=torch.uint8)
    kit.save(solo(), {"w": bomb}, 1)
    state = {"w": torch.zeros_like(bomb)}
    assert solo().restore(state).step == 1
    assert torch.equal(state["w"], bomb)
    assert not mark.exists()


PATHS = [
    "../secret",
    "../step-000000002-0123abcd/rank-00000.safetensors",
    "/etc/passwd",
    "rank-00000.safetensors/../../secret",
    "rank-00000.safetensors\0",
    "rank-\u0660\u0660\u0660\u0660\u0660.safetensors",
    ".",
    "",
]


@pytest.mark.parametrize("name", PATHS)
def test_a_manifest_that_points_out_of_its_folder_is_refused(kit, solo, tmp_path, name):
    folder = Path(kit.save(solo(), kit.full_state(1), 1).path)
    (tmp_path / "secret").write_bytes((folder / "rank-00000.safetensors").read_bytes())
    resealed(folder, lambda head, tensors: head["files"][0].update(name=name))
    with pytest.raises(CheckpointError, match="a file is named"):
        solo().restore(kit.full_state(0))
    assert "a file is named" in verify(LocalStore(tmp_path), folder.name)[0].reason


@pytest.mark.parametrize("attempt", ["../../etc", "0123abcd/..", "", "0123abcd"])
def test_a_manifest_of_another_attempt_is_refused(kit, solo, tmp_path, attempt):
    folder = Path(kit.save(solo(), kit.full_state(1), 1).path)
    resealed(folder, lambda head, tensors: head.update(attempt=attempt))
    with pytest.raises(CheckpointError, match="was written for folder"):
        solo().restore(kit.full_state(0))


@pytest.mark.parametrize("count", [2**40, 2**62, 2**70])
def test_a_tensor_of_more_bytes_than_there_are_takes_no_memory(kit, solo, tmp_path, count):
    folder = Path(kit.save(solo(), {"w": torch.zeros(4)}, 1).path)

    def change(head, tensors):
        tensors["w"][1] = [count]
        tensors["w"][2][0][1] = [count]

    resealed(folder, change)
    with pytest.raises(CheckpointError, match="contradicts itself"):
        solo().restore({"w": torch.zeros(4)})


def test_nothing_in_the_room_unpickles():
    """`formats/pickled` reads an index of pickle's opcodes by itself, and runs none of them."""
    banned = {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
    for path in ROOM.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [one.name for one in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not banned & {name.partition(".")[0] for name in names}, path
            is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            assert not (is_call and node.func.id in {"eval", "exec", "compile"}), path
            is_load = isinstance(node, ast.Attribute) and node.attr == "load"
            assert not (is_load and ast.unparse(node.value) in {"torch", "np", "numpy"}), path
