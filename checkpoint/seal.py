"""Manifests that are signed (Ed25519, RFC 8032) and shards that are encrypted (AES-256-GCM, NIST SP
800-38D). A signed manifest has SHA-256 digests of all bytes; an encrypted file a key of its own.

Keys are files of the formats that signed data sets have; nothing of them is shown or kept.
"""

import base64
import binascii
import contextlib
import json
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from .config import SealConfig
from .digest import digest_bytes, strong_digest
from .errors import SealError
from .manifest import Check, ChunkEntry, Manifest, accept
from .pieces import PIECE_BYTES

Opener = Callable[[ChunkEntry, int, memoryview], None]
"""Decrypts a piece of a chunk in its place: told which, and its bytes as they lie in the file."""
Box = tuple[str, str, Sequence[int], Sequence[int], Sequence[int]]
"""Name, dtype, whole shape, offsets and shape."""
Place = tuple[Box, int]
"""A box, and where in its file it begins."""
_KEY_BYTES = 32
_TAG_DIGITS = 32
_CONTEXT = b"keepstep-checkpoint/3/manifest\0"


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Seal:
    """What one job signs and encrypts with, and whose signatures it takes; PLAIN does neither."""

    signer: Any = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)
    trusted: Any = field(default=None, repr=False)
    trusted_path: str = ""

    @classmethod
    def of(cls, config: SealConfig) -> "Seal":
        """Reads the key files that the configuration names.

        Raises:
            ValueError: one is no such key, or `cryptography` is not installed.
        """
        if not (config.sign_key or config.encrypt_key or config.require_signed):
            return PLAIN
        return cls(
            signer=config.sign_key and _private_key(config.sign_key),
            key=_raw_key(config.encrypt_key) if config.encrypt_key else None,
            trusted=config.require_signed and _public_key(config.require_signed),
            trusted_path=config.require_signed or "",
        )

    @property
    def is_plain(self) -> bool:
        """Whether what is written is neither signed nor encrypted."""
        return not self.signer and self.key is None

    @property
    def digest(self) -> Callable[[memoryview | bytes], str]:
        """Makes the digests of what is written: those that cannot be forged where it is signed."""
        return strong_digest if self.signer else digest_bytes

    def sign(self, signed: bytes) -> str:
        """The signature as hex digits; empty where nothing is signed."""
        return str(self.signer.sign(_CONTEXT + signed).hex()) if self.signer else ""

    def check(self, path: str) -> Check:
        """What `decode` is to ask of the manifest of the checkpoint `path`; raises SealError."""
        return (lambda signed, found: self._check(path, signed, found)) if self.trusted else accept

    def check_digests(self, path: str, manifest: Manifest) -> None:
        """Raises SealError where a trusted signature is to cover bytes that could be forged."""
        if self.trusted and not manifest.is_strong:
            raise SealError(
                f"{path}: found a signed manifest whose digests are xxh3-128, needed SHA-256, as "
                "others can be built to fit; save it again with checkpoint.seal.sign_key",
                path=path,
            )

    def cipher(self, folder: str, file: str, salt: str) -> "FileCipher | None":
        """What encrypts a file; None where nothing is encrypted."""
        return FileCipher(self.key, folder, file, salt) if self.key is not None else None

    def opener(self, path: str, folder: str, manifest: Manifest) -> Opener | None:
        """What decrypts the pieces of a checkpoint, from any thread; None if it is not encrypted.

        Raises:
            SealError: it is encrypted and there is no key; the opener also, for another key.
        """
        salts = {file.name: file.salt for file in manifest.files if file.salt}
        if not salts:
            return None
        if self.key is None:
            raise SealError(
                f"{path}: found an encrypted checkpoint, needed its key; set "
                "checkpoint.seal.encrypt_key to the file that holds it",
                path=path,
            )
        ciphers = {name: FileCipher(self.key, folder, name, salt) for name, salt in salts.items()}

        def open_piece(entry: ChunkEntry, index: int, data: memoryview) -> None:
            ciphers[entry.file].decrypt(path, entry, index, data)

        return open_piece

    def _check(self, path: str, signed: bytes, found: str) -> None:
        from cryptography.exceptions import InvalidSignature

        if not found:
            raise SealError(
                f"{path}: found a checkpoint that nobody signed, needed one signed by "
                f"{self.trusted_path}, as checkpoint.seal.require_signed says; take a signed one, "
                "or set that to null",
                path=path,
            )
        try:
            self.trusted.verify(bytes.fromhex(found), _CONTEXT + signed)
        except (InvalidSignature, ValueError) as error:
            raise SealError(
                f"{path}: found a manifest that was changed after it was signed, or was signed by "
                f"another key, needed one signed by {self.trusted_path}; find out who wrote it, "
                "and do not load it until then",
                path=path,
            ) from error


PLAIN = Seal()


@final
class FileCipher:
    """AES-256-GCM for the pieces of one file, with a key that is derived (HKDF-SHA256, RFC 5869)
    from the job's and the file's own random salt: so a piece's position is nonce enough, and no
    number of files wears the job's key out. Its place is authenticated with each piece.
    """

    def __init__(self, key: bytes, folder: str, file: str, salt: str) -> None:
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        derived = HKDF(SHA256(), _KEY_BYTES, bytes.fromhex(salt), b"keepstep shard file")
        self._key = derived.derive(key)
        self._place = [folder, file]

    def encrypt(self, place: Place, index: int, data: memoryview) -> tuple[memoryview, str]:
        """The piece's bytes in the file, and its tag as hex digits."""
        into = memoryview(bytearray(len(data)))
        cipher = self._cipher(place, index, None)
        cipher.update_into(data, into)
        cipher.finalize()
        return into, cipher.tag.hex()

    def decrypt(self, path: str, entry: ChunkEntry, index: int, data: memoryview) -> None:
        """Decrypts a piece in its place, whose digest was checked before.

        Raises:
            SealError: for another key, or a piece that its owner did not write there.
        """
        from cryptography.exceptions import InvalidTag

        tag = bytes.fromhex(entry.tags[index * _TAG_DIGITS : (index + 1) * _TAG_DIGITS])
        box = (entry.name, entry.dtype, entry.global_shape, entry.offsets, entry.shape)
        cipher = self._cipher((box, entry.start), index, tag)
        cipher.update_into(data, data)
        try:
            cipher.finalize()
        except InvalidTag as error:
            raise SealError(
                f"{path}/{entry.file}: found that checkpoint.seal.encrypt_key does not open tensor "
                f"{entry.name}, needed the key that it was written with; set that key's file, and "
                "if it is that, do not load it: somebody else wrote there",
                path=path,
            ) from error

    def _cipher(self, place: Place, index: int, tag: bytes | None) -> Any:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        box, start = place
        nonce = (start + index * PIECE_BYTES).to_bytes(12, "big")
        made = Cipher(algorithms.AES(self._key), modes.GCM(nonce, tag))
        cipher: Any = made.encryptor() if tag is None else made.decryptor()
        where = json.dumps([*self._place, *box, start, index], separators=(",", ":"))
        cipher.authenticate_additional_data(where.encode())
        return cipher


def new_salt() -> str:
    """A file's salt, as hex digits; no two files have the same."""
    return secrets.token_hex(16)


def make_key(path: Path) -> None:
    """Writes a new key for encryption, base64 of 32 random bytes, for its owner's eyes only.

    Raises:
        FileExistsError: a file is there; a key that is lost cannot be made again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(base64.b64encode(secrets.token_bytes(_KEY_BYTES)) + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def _raw_key(path: str) -> bytes:
    raw = _raw(_content("encrypt_key", path))
    if raw is None:
        raise _no_key("encrypt_key", path, "32 raw bytes, or their base64")
    _cryptography("encrypt_key", path)
    return raw


def _private_key(path: str) -> Any:
    signing, serialization = _cryptography("sign_key", path)
    content = _content("sign_key", path)
    if (raw := _raw(content)) is not None:
        return signing.Ed25519PrivateKey.from_private_bytes(raw)
    key: object = None
    with contextlib.suppress(Exception):  # whatever the parser says of other files
        key = serialization.load_pem_private_key(content, password=None)
    if not isinstance(key, signing.Ed25519PrivateKey):
        raise _no_key("sign_key", path, "an Ed25519 private key: PEM, 32 raw bytes or base64")
    return key


def _public_key(path: str) -> Any:
    signing, serialization = _cryptography("require_signed", path)
    content = _content("require_signed", path)
    if (raw := _raw(content)) is not None:
        return signing.Ed25519PublicKey.from_public_bytes(raw)
    key: object = None
    with contextlib.suppress(Exception):
        key = serialization.load_pem_public_key(content)
    if not isinstance(key, signing.Ed25519PublicKey):
        raise _no_key("require_signed", path, "an Ed25519 public key: PEM, 32 raw bytes or base64")
    return key


def _raw(content: bytes) -> bytes | None:
    """The 32 bytes of a raw key, or of one in base64; None for anything else."""
    if len(content) == _KEY_BYTES:
        return content
    with contextlib.suppress(binascii.Error, ValueError):
        decoded = base64.b64decode(content.strip(), validate=True)
        return decoded if len(decoded) == _KEY_BYTES else None
    return None


def _content(key: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(
            f"checkpoint.seal.{key}: found no readable file {path} ({error.strerror}), needed a "
            "key; correct the path"
        ) from error


def _no_key(key: str, path: str, needed: str) -> ValueError:
    return ValueError(
        f"checkpoint.seal.{key}: found something else in {path}, needed {needed}; name the file "
        "that holds it"
    )


def _cryptography(key: str, path: str) -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise ValueError(
            f"checkpoint.seal.{key}: found {path} but no cryptography, needed it for keys; run "
            "`pip install keepstep[seal]`"
        ) from error
    return ed25519, serialization
