"""Locks that are signed (Ed25519, RFC 8032): a changed or foreign one is refused.

A lock's signature covers the lock; the lock's digests of extents cover the bytes of its objects,
which are checked on arrival; of a lock that is required to be signed they are SHA-256, which nobody
can forge. The cryptography is that of the package `cryptography`.
"""

import base64
import binascii
import contextlib
import os
from pathlib import Path
from typing import Any

from .errors import DataError

SUFFIX = ".sig"
_KEY_BYTES = 32
_SIGNATURE_BYTES = 64


def make_keys(private_key_path: Path) -> Path:
    """Writes a new key pair as PEM: the private key, for its owner's eyes only, and beside it the
    public key, of which the path (its own with .pub) is returned.

    Raises:
        DataError: one of both is there already, or `cryptography` is not installed.
    """
    signing, serialization = _cryptography(private_key_path)
    key = signing.Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    public_key_path = private_key_path.with_name(f"{private_key_path.name}.pub")
    for path in (private_key_path, public_key_path):
        if path.exists():
            raise DataError(
                f"{path}: found a file there, needed none, as a key that is lost cannot be made "
                "again; give another path"
            )
    _write(private_key_path, private, mode=0o600)
    _write(public_key_path, public, mode=0o644)
    return public_key_path


def sign_lock(path: Path, private_key_path: Path) -> Path:
    """Signs the lock at `path` and writes the 64 bytes of the signature to `path` + ".sig", all of
    them or none; that path is returned.

    Args:
        private_key_path: an Ed25519 key: PEM without a password, 32 raw bytes, or their base64.

    Raises:
        DataError: there is no lock or no such key, or `cryptography` is not installed.
    """
    key = _private_key(private_key_path)
    signature = path.with_name(path.name + SUFFIX)
    draft = signature.with_name(f".{signature.name}.{os.getpid()}.draft")
    try:
        _write(draft, key.sign(_content(path, "a lock to sign")), mode=0o644)
        draft.replace(signature)
    finally:
        draft.unlink(missing_ok=True)
    return signature


def verify_lock(
    content: bytes | memoryview,
    signature: bytes | None,
    public_key_path: Path,
    *,
    name: str = "the lock",
) -> None:
    """Returns where `signature` is that of `content` by the owner of the key, and only then.

    Args:
        content: all bytes of the lock, as they are parsed afterwards: verify, then read from the
            same memory, or what is read may be other than what was verified.
        signature: of the file beside it; None where there is none.
        public_key_path: an Ed25519 key: PEM, 32 raw bytes, or their base64.
        name: the lock's path or URL, for errors.

    Raises:
        DataError: it is not, there is no signature, or no usable key.
    """
    key = _public_key(public_key_path)
    if signature is None:
        raise DataError(
            f"{name}: found no signature {SUFFIX} beside it, needed one by the key "
            f"{public_key_path}; sign the lock, or get it from who did"
        )
    if len(signature) != _SIGNATURE_BYTES:
        raise DataError(
            f"{name}{SUFFIX}: found {len(signature)} bytes, needed the {_SIGNATURE_BYTES} of an "
            "Ed25519 signature; sign the lock again"
        )
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(bytes(signature), bytes(content))
    except InvalidSignature as error:
        raise DataError(
            f"{name}: found a lock that was changed after it was signed, or was signed by another "
            f"key, needed one signed by {public_key_path}; get the lock and its signature from "
            "their owner, and do not train on this data until then"
        ) from error


def _private_key(path: Path) -> Any:
    signing, serialization = _cryptography(path)
    content = _content(path, "an Ed25519 private key")
    raw = _raw(content)
    if raw is not None:
        return signing.Ed25519PrivateKey.from_private_bytes(raw)
    key: object = None
    with contextlib.suppress(ValueError, TypeError, _unsupported()):
        key = serialization.load_pem_private_key(content, password=None)
    if not isinstance(key, signing.Ed25519PrivateKey):
        raise _no_key(path, content, "private", key)
    return key


def _public_key(path: Path) -> Any:
    signing, serialization = _cryptography(path)
    content = _content(path, "an Ed25519 public key")
    raw = _raw(content)
    if raw is not None:
        return signing.Ed25519PublicKey.from_public_bytes(raw)
    key: object = None
    with contextlib.suppress(ValueError, TypeError, _unsupported()):
        key = serialization.load_pem_public_key(content)
    if not isinstance(key, signing.Ed25519PublicKey):
        raise _no_key(path, content, "public", key)
    return key


def _raw(content: bytes) -> bytes | None:
    """The 32 bytes of a raw key, or of one in base64; None for anything else."""
    if len(content) == _KEY_BYTES:
        return content
    with contextlib.suppress(binascii.Error, ValueError):
        decoded = base64.b64decode(content.strip(), validate=True)
        return decoded if len(decoded) == _KEY_BYTES else None
    return None


def _no_key(path: Path, content: bytes, kind: str, key: object) -> DataError:
    found = type(key).__name__ if key is not None else f"{len(content)} bytes that are no such key"
    return DataError(
        f"{path}: found {found}, needed an Ed25519 {kind} key (PEM without a password, "
        f"{_KEY_BYTES} raw bytes, or their base64); give the right file, or make a pair with "
        "make_keys"
    )


def _content(path: Path, needed: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: found no readable file ({error.strerror}), needed {needed}; correct the path"
        ) from error


def _write(path: Path, content: bytes, *, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # With its mode from the first moment on, not readable first and closed to others later.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _cryptography(path: Path) -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise DataError(
            f"{path}: found a key but no cryptography, needed it to sign and to verify; run "
            "`pip install keepstep[seal]`"
        ) from error
    return ed25519, serialization


def _unsupported() -> type[Exception]:
    from cryptography.exceptions import UnsupportedAlgorithm

    return UnsupportedAlgorithm
