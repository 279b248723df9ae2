"""What is signed or encrypted is taken with the right key, refused by name with any other, and
never passed over for an older one."""

import base64
import json
import shutil
from pathlib import Path

import pytest
import torch
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from support.world import run_world

from keepstep.checkpoint import (
    Checkpoints,
    LocalStore,
    Seal,
    SealConfig,
    SealError,
    SoloExchange,
    committed,
    read_manifest,
    verify,
)
from keepstep.checkpoint.commit import Cargo, commit
from keepstep.checkpoint.digest import digest_bytes
from keepstep.checkpoint.offline import copy, items_of
from keepstep.checkpoint.seal import PLAIN, FileCipher, make_key, new_salt
from keepstep.checkpoint.slots import Image, SlotFile, Snapshots, newest


@pytest.fixture
def keys(tmp_path):
    """Files of keys: two pairs that sign, and two that encrypt."""
    folder = tmp_path / "keys"
    for name in ("one", "two"):
        make_key(folder / f"{name}.secret")
        key = Ed25519PrivateKey.generate()
        pem = serialization.Encoding.PEM
        none = serialization.NoEncryption()
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, none)
        (folder / name).write_bytes(private)
        public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
        (folder / f"{name}.pub").write_bytes(public)
    return folder


def seal(keys, *, sign=None, encrypt=None, require=None):
    def path(name, end):
        return name and str(keys / f"{name}{end}")

    return Seal.of(
        SealConfig(
            sign_key=path(sign, ""),
            encrypt_key=path(encrypt, ".secret"),
            require_signed=path(require, ".pub"),
        )
    )


@pytest.fixture
def of(tmp_path):
    """The Checkpoints of one process under some seal."""
    place = LocalStore(tmp_path / "place")
    return lambda how: Checkpoints(place, SoloExchange(), keep=9, seal=how)


def newest_folder(tmp_path):
    return tmp_path / "place" / committed(LocalStore(tmp_path / "place"))[0].folder


def refused(kit, checkpoints, match):
    state = kit.full_state(0)
    with pytest.raises(SealError, match=match):
        checkpoints.restore(state)
    assert kit.is_equal(state, kit.full_state(0))


def test_what_was_signed_and_encrypted_comes_back(kit, keys, of, tmp_path):
    both = seal(keys, sign="one", encrypt="one", require="one")
    kit.save(of(both), kit.full_state(4), 4)
    state = kit.full_state(0)
    assert of(both).restore(state).step == 4
    assert kit.is_equal(state, kit.full_state(4))
    manifest = read_manifest(LocalStore(tmp_path / "place"), newest_folder(tmp_path).name)
    assert manifest.is_strong
    assert [file.name for file in manifest.files] == ["rank-00000.sealed"]


def test_an_unsigned_or_foreign_checkpoint_is_refused_though_an_older_one_would_do(kit, keys, of):
    mine = seal(keys, sign="one", require="one")
    kit.save(of(mine), kit.full_state(1), 1)
    assert of(mine).restore(kit.full_state(0)).step == 1
    kit.save(of(PLAIN), kit.full_state(2), 2)
    refused(kit, of(mine), r"found a checkpoint that nobody signed, needed .*one\.pub")
    kit.save(of(seal(keys, sign="two")), kit.full_state(3), 3)
    refused(kit, of(mine), r"or was signed by another key, needed one signed by .*one\.pub")
    assert of(PLAIN).restore(kit.full_state(0)).step == 3


def test_a_manifest_that_was_changed_and_proves_itself_again_is_refused(kit, keys, of, tmp_path):
    mine = seal(keys, sign="one", require="one")
    kit.save(of(mine), kit.full_state(1), 1)
    path = newest_folder(tmp_path) / "manifest.json"
    raw = path.read_bytes().replace(b'"loss":0.1', b'"loss":0.2')
    front, head = raw.split(b'"head":', 1)
    record = json.loads(raw)
    inner = head[: record["head_bytes"]]
    front = front.replace(record["head_digest"].encode(), digest_bytes(inner).encode())
    rest = (front + b'"head":' + head)[len('{"digest":"",') + 32 :]
    path.write_bytes(b'{"digest":"%b",%b' % (digest_bytes(rest).encode(), rest))
    assert of(PLAIN).restore(kit.full_state(0)).progress["loss"] == 0.2
    refused(kit, of(mine), "was changed after it was signed")


def test_another_key_or_none_opens_nothing(kit, keys, of):
    kit.save(of(PLAIN), kit.full_state(1), 1)
    kit.save(of(seal(keys, encrypt="one")), kit.full_state(2), 2)
    refused(kit, of(PLAIN), "found an encrypted checkpoint, needed its key")
    refused(kit, of(seal(keys, encrypt="two")), r"does not open tensor model\.deep, needed the key")
    assert of(seal(keys, encrypt="one")).restore(kit.full_state(0)).step == 2


def test_damage_of_a_sealed_checkpoint_is_damage_and_the_older_one_is_used(kit, keys, of, tmp_path):
    both = seal(keys, sign="one", encrypt="one", require="one")
    for step in (1, 2):
        kit.save(of(both), kit.full_state(step), step)
    path = newest_folder(tmp_path) / "rank-00000.sealed"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    restored = of(both).restore(kit.full_state(0))
    assert (restored.step, len(restored.damaged)) == (1, 1)


def test_nothing_of_the_state_or_of_a_key_is_to_be_seen(kit, keys, of, tmp_path):
    text = b"the secret weights of this model"
    state = {"w": torch.frombuffer(bytearray(text * 40), dtype=torch.uint8)}
    both = seal(keys, sign="one", encrypt="one", require="one")
    kit.save(of(both), state, 1)
    kit.save(of(PLAIN), state, 2)
    files = {path: path.read_bytes() for path in (tmp_path / "place").rglob("*") if path.is_file()}
    assert {path.name for path, data in files.items() if text in data} == {"rank-00000.safetensors"}
    secret = (keys / "one.secret").read_bytes().strip()
    raw = base64.b64decode(secret)
    assert not any(secret in data or raw in data for data in files.values())
    said = repr(both) + str(both)
    assert secret.decode() not in said
    assert repr(raw)[2:-1] not in said


def test_equal_states_are_encrypted_to_other_bytes_each_time(kit, keys, of, tmp_path):
    for step in (1, 2):
        kit.save(of(seal(keys, encrypt="one")), {"w": torch.zeros(1000)}, step)
    one, two = (path.read_bytes() for path in (tmp_path / "place").rglob("*.sealed"))
    assert one[-4000:] != two[-4000:]
    assert len(set(one[-4000:])) > 100


def test_a_piece_that_was_moved_does_not_open(keys):
    key = base64.b64decode((keys / "one.secret").read_bytes())
    cipher = FileCipher(key, "step-000000001-00000000", "rank-00000.sealed", new_salt())
    box = ("w", "float32", (4,), (0,), (4,))
    sealed, _ = cipher.encrypt((box, 100), 0, memoryview(bytes(16)))
    moved, _ = cipher.encrypt((box, 116), 0, memoryview(bytes(16)))
    assert bytes(sealed) != bytes(moved)


def test_ranks_sign_and_encrypt_together_and_a_key_that_one_lacks_is_said_on_all(
    kit, keys, tmp_path
):
    def body(rank):
        place, exchange = LocalStore(tmp_path / "place"), kit.GlooExchange()
        both = seal(keys, sign="one", encrypt="one", require="one")
        full = kit.full_state(3)
        checkpoints = Checkpoints(place, exchange, keep=9, seal=both)
        kit.save(checkpoints, kit.spread(full, "shard2"), 3)
        state = kit.spread(kit.zeroed(full), "shard2_dim1")
        assert checkpoints.restore(state, in_place=True).step == 3
        assert kit.is_equal(kit.gathered(state), full)
        other = seal(keys, encrypt=("one", "two")[rank], require="one")
        with pytest.raises(SealError, match="does not open"):
            Checkpoints(place, exchange, keep=9, seal=other).restore(state)
        return True

    assert run_world(2, body) == [True, True]


@pytest.mark.parametrize("what", ["sign", "encrypt", "both"])
def test_a_guardian_seals_what_lies_in_a_slot(kit, keys, tmp_path, what):
    state = {"w": torch.randn(1200, 1024), "b": torch.arange(7)}
    image = Image.of(state, state, rank=0, holders=[0], label={})
    slot = SlotFile.unnamed()
    snapshots = Snapshots([slot], [], image, volatile=(), say=print)
    snapshots.open()
    snapshots.begin(state, Cargo(step=5, topology={}, progress={}, lineage={}))
    snapshots.settle()
    (held,) = newest([slot])
    place = LocalStore(tmp_path / "place")
    how = seal(
        keys,
        sign="one" if what != "encrypt" else None,
        encrypt="one" if what != "sign" else None,
        require="one" if what != "encrypt" else None,
    )
    commit(place, SoloExchange(), held, held.cargo, seal=how)
    loaded = kit.zeroed(state)
    assert Checkpoints(place, SoloExchange(), keep=1, seal=how).restore(loaded).step == 5
    assert kit.is_equal(loaded, state)
    snapshots.close()
    slot.close()


def test_checks_and_copies_need_no_key_and_readers_of_single_tensors_do(kit, keys, of, tmp_path):
    both = seal(keys, sign="one", encrypt="one")
    kit.save(of(both), kit.full_state(1), 1)
    source, target = LocalStore(tmp_path / "place"), LocalStore(tmp_path / "copy")
    folder = newest_folder(tmp_path).name
    assert verify(source, folder) == []
    copy(source, folder, target)
    strict = seal(keys, encrypt="one", require="one")
    assert Checkpoints(target, SoloExchange(), keep=1, seal=strict).restore(kit.full_state(0))
    manifest = read_manifest(target, folder)
    read = {item.name: item.read() for item in items_of(target, folder, manifest, both)}
    assert kit.is_equal(read, kit.full_state(1))
    with pytest.raises(SealError, match="needed its key"):
        items_of(target, folder, manifest)


def test_a_sealed_checkpoint_under_another_name_is_none(kit, keys, of, tmp_path):
    how = seal(keys, sign="one", encrypt="one", require="one")
    kit.save(of(how), kit.full_state(1), 1)
    shutil.move(newest_folder(tmp_path), tmp_path / "place" / "step-000000009-0123abcd")
    with pytest.raises(Exception, match="was written for folder step-000000001"):
        of(how).restore(kit.full_state(0))


@pytest.mark.parametrize("field", ["sign_key", "encrypt_key", "require_signed"])
@pytest.mark.parametrize("content", [None, b"", b"no key", bytes(31)])
def test_a_file_that_is_no_key_is_refused_by_name(tmp_path: Path, field, content):
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"checkpoint\.seal\.{field}: found .*{path}"):
        Seal.of(SealConfig(**{field: str(path)}))


@pytest.mark.parametrize("shape", [bytes, base64.b64encode])
def test_keys_may_be_raw_or_base64(tmp_path, kit, of, shape):
    secret = Ed25519PrivateKey.generate()
    (tmp_path / "private").write_bytes(shape(secret.private_bytes_raw()))
    (tmp_path / "public").write_bytes(shape(secret.public_key().public_bytes_raw()))
    (tmp_path / "secret").write_bytes(shape(bytes(range(32))))
    how = Seal.of(
        SealConfig(
            sign_key=str(tmp_path / "private"),
            encrypt_key=str(tmp_path / "secret"),
            require_signed=str(tmp_path / "public"),
        )
    )
    kit.save(of(how), kit.full_state(1), 1)
    assert of(how).restore(kit.full_state(0)).step == 1


def test_a_new_key_is_its_owners_alone_and_never_written_over(tmp_path):
    make_key(tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        make_key(tmp_path / "key")
