"""A lock is taken as signed where its signature is right, and never otherwise."""

import base64
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from keepstep.data import DataError
from keepstep.data.seal import make_keys, sign_lock, verify_lock

# RFC 8032, section 7.1, test 2.
SECRET = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
PUBLIC = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
SIGNATURE = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    make_keys(tmp_path / "key")
    return tmp_path / "key"


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "data.lock"
    path.write_bytes(b"a lock" * 99)
    return path


def public(key: Path) -> Path:
    return key.with_name(f"{key.name}.pub")


def test_a_signed_lock_verifies_and_a_new_signature_replaces_the_old(key: Path, lock: Path) -> None:
    for content in (lock.read_bytes(), b"locked again"):
        lock.write_bytes(content)
        signature = sign_lock(lock, key)
        assert signature == lock.with_name("data.lock.sig")
        verify_lock(content, signature.read_bytes(), public(key))
    assert sorted(path.name for path in lock.parent.iterdir()) == [
        "data.lock", "data.lock.sig", "key", "key.pub",
    ]  # fmt: skip


@pytest.mark.parametrize("bit", [0, 7, 8 * 593 + 3])
def test_a_lock_of_which_one_bit_changed_is_refused(key: Path, lock: Path, bit: int) -> None:
    signature = sign_lock(lock, key).read_bytes()
    changed = bytearray(lock.read_bytes())
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DataError, match=r"^s3://b/data.lock: found a lock that was changed after"):
        verify_lock(bytes(changed), signature, public(key), name="s3://b/data.lock")
    with pytest.raises(DataError, match="needed one signed by"):
        verify_lock(lock.read_bytes()[:-1], signature, public(key))


def test_another_key_or_signature_is_refused(key: Path, lock: Path, tmp_path: Path) -> None:
    content, signature = lock.read_bytes(), sign_lock(lock, key).read_bytes()
    other = make_keys(tmp_path / "other")
    with pytest.raises(DataError, match=r"or was signed by another key, needed one .*other.pub; g"):
        verify_lock(content, signature, other)
    with pytest.raises(
        DataError, match=r"^x.lock: found no signature .sig beside it, needed one b"
    ):
        verify_lock(content, None, public(key), name="x.lock")
    for wrong in (b"", signature[:-1], signature + b"\0"):
        with pytest.raises(DataError, match=rf"found {len(wrong)} bytes, needed the 64 of an Ed"):
            verify_lock(content, wrong, public(key))
    with pytest.raises(DataError, match="was changed"):
        verify_lock(content, bytes(64), public(key))


@pytest.mark.parametrize("encode", [bytes, lambda raw: base64.b64encode(raw) + b"\n"])
def test_raw_keys_and_base64_sign_as_the_standard_says(tmp_path: Path, encode: type[bytes]) -> None:
    (tmp_path / "lock").write_bytes(bytes([0x72]))
    (tmp_path / "secret").write_bytes(encode(SECRET))
    (tmp_path / "public").write_bytes(encode(PUBLIC))
    assert sign_lock(tmp_path / "lock", tmp_path / "secret").read_bytes() == SIGNATURE
    verify_lock(bytes([0x72]), SIGNATURE, tmp_path / "public")


def test_the_private_key_is_its_owners_and_keys_are_never_written_over(key: Path) -> None:
    assert key.stat().st_mode & 0o777 == 0o600
    with pytest.raises(DataError, match="found a file there, needed none, as a key"):
        make_keys(key)
    key.unlink()
    with pytest.raises(DataError, match=r"key.pub: found a file there"):
        make_keys(key)
    assert not key.exists()


def test_files_that_are_no_such_keys_are_refused(key: Path, lock: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none: found no readable file \(No such file or direct"):
        sign_lock(lock, tmp_path / "none")
    with pytest.raises(
        DataError, match=r"key.pub: found \d+ bytes that are no such key, needed an"
    ):
        sign_lock(lock, public(key))
    signature = sign_lock(lock, key).read_bytes()
    with pytest.raises(DataError, match=r"key: found \d+ bytes .*, needed an Ed25519 public key"):
        verify_lock(lock.read_bytes(), signature, key)
    with pytest.raises(DataError, match="needed a lock to sign; correct the path"):
        sign_lock(tmp_path / "no.lock", key)
    protected = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    foreign = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    for content, said in ((protected, "no such key"), (foreign, "RSAPrivateKey"), (b"", "0 byt")):
        (tmp_path / "wrong").write_bytes(content)
        with pytest.raises(DataError, match=rf"wrong: found .*{said}.*, needed an Ed25519 private"):
            sign_lock(lock, tmp_path / "wrong")


def test_without_the_package_the_error_says_how_to_install_it(
    key: Path, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric", None)
    for call in (
        lambda: sign_lock(lock, key),
        lambda: verify_lock(b"", None, public(key)),
        lambda: make_keys(key.with_name("new")),
    ):
        with pytest.raises(DataError, match=r"no cryptography, .*`pip install keepstep\[seal\]`"):
            call()
