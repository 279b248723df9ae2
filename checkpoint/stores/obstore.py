"""S3 through obstore: the same place in Rust. Where it is installed, the faster way."""

import contextlib
import functools
import importlib.util
import os
import re
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Lock
from typing import Any, final

from ..config import PlaceConfig
from .errors import denied, refusal, taken, unanswered
from .pace import Piece
from .s3 import S3Wire

_CREDENTIALS_MINUTES = 10
_SLOWEST_BYTES_PER_SECOND = 100_000
_RETRIES = 1000
_STATUS = re.compile(r"\bstatus: (\d{3})\b")
_CODE = re.compile(r"<Code>(\w+)</Code>")


@final
class ObstoreWire:
    """A bucket. obstore neither lists nor ends uploads that others began: botocore does that,
    where it is installed.

    Raises:
        OSError: at a request, in a fork of a process that has used obstore: its threads do not
            survive a fork, and it would hang.
    """

    def __init__(self, bucket: str, config: PlaceConfig) -> None:
        self._bucket = bucket
        self._config = config
        self._clients: dict[bool, Any] = {}
        self._lock = Lock()
        self._others = S3Wire(bucket, config) if importlib.util.find_spec("botocore") else None
        self.connections = config.connections

    def scan(self, prefix: str) -> dict[str, float]:
        with self._said(prefix):
            module, client = self._use()
            pages = module.list(client, prefix.rstrip("/") or None, chunk_size=1000)
            return {
                str(one["path"]): one["last_modified"].timestamp()
                for page in pages
                for one in page
                if str(one["path"]).startswith(prefix)
            }

    def size(self, key: str) -> int:
        with self._said(key):
            module, client = self._use()
            return int(module.head(client, key)["size"])

    def read(self, key: str, start: int, buffer: memoryview) -> int:
        try:
            with self._said(key):
                module, client = self._use()
                options = {"range": (start, start + len(buffer))}
                found = memoryview(module.get(client, key, options=options).bytes())
        except _PastEndError:
            return 0
        buffer[: len(found)] = found
        return len(found)

    def put(self, key: str, data: Piece) -> None:
        with self._said(key):
            module, client = self._use()
            module.put(client, key, data, mode="create", use_multipart=False)

    def upload(self, key: str, parts: Iterator[Piece]) -> None:
        with self._said(key):
            module, client = self._use(is_patient=True)
            module.put(
                client,
                key,
                parts,
                use_multipart=True,
                chunk_size=self._config.part_bytes,
                max_concurrency=self.connections,
            )

    def delete(self, keys: Sequence[str]) -> None:
        with self._said(keys[0]), contextlib.suppress(FileNotFoundError):
            module, client = self._use()
            module.delete(client, list(keys))

    def pending(self, prefix: str) -> dict[str, float]:
        return self._others.pending(prefix) if self._others else {}

    def abort(self, prefix: str) -> None:
        if self._others:
            self._others.abort(prefix)

    def _use(self, *, is_patient: bool = False) -> tuple[Any, Any]:
        """The module, and a client that asks again by itself or not."""
        if not is_able():
            raise OSError(
                f"s3://{self._bucket}: found obstore in a process, {os.getpid()}, that was forked "
                "from one that has used it, needed one that was not; set "
                "checkpoint.store.transport=fsspec"
            )
        import obstore

        with self._lock:
            _runtime_process()
            if is_patient not in self._clients:
                self._clients[is_patient] = _make(self._bucket, self._config, is_patient)
            return obstore, self._clients[is_patient]

    @contextlib.contextmanager
    def _said(self, key: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            found = _meaning(f"s3://{self._bucket}/{key}", error)
            if found is error:
                raise
            raise found from error


class _PastEndError(Exception):
    """The range begins at or behind the object's end."""


def is_able() -> bool:
    """Whether obstore is installed and may be used in this process.

    Where somebody else has imported it, the threads of its runtime tell whether that was here or
    in the process that this one was forked from; where they cannot be seen, it is not used.
    """
    if importlib.util.find_spec("obstore") is None:
        return False
    if _runtime_process.cache_info().currsize:
        return _runtime_process() == os.getpid()
    return "obstore" not in sys.modules or _has_runtime()


@functools.cache
def _runtime_process() -> int:
    """The process that first made a client here."""
    return os.getpid()


def _has_runtime() -> bool:
    for one in Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            if one.read_text().startswith("tokio"):
                return True
    return False


def _make(bucket: str, config: PlaceConfig, is_patient: bool) -> Any:
    from obstore.store import S3Store

    words: dict[str, Any] = {"skip_signature": True} if config.anonymous else {}
    session = _session()
    region = config.region or (session and session.get_config_variable("region"))
    if session is not None and not config.anonymous:
        words["credential_provider"] = lambda: _credentials(session)
    if config.endpoint_url is not None:
        words["endpoint"] = config.endpoint_url
    longest = config.stall_seconds + config.part_bytes / _SLOWEST_BYTES_PER_SECOND
    seconds = config.retry_seconds if is_patient else 0.0
    return S3Store(
        bucket,
        region=region or "us-east-1",
        client_options={
            "allow_http": True,
            "connect_timeout": timedelta(seconds=config.connect_seconds),
            "read_timeout": timedelta(seconds=config.stall_seconds),
            "timeout": timedelta(seconds=longest),
        },
        retry_config={
            "max_retries": _RETRIES if seconds else 0,
            "retry_timeout": timedelta(seconds=seconds),
            "backoff": {"max_backoff": timedelta(seconds=5)},
        },
        **words,
    )


def _session() -> Any:
    """botocore's session, by which both transports find the same credentials; None: obstore's own
    ways, which are the environment and the instance."""
    try:
        import botocore.session
    except ImportError:
        return None
    return botocore.session.Session()


def _credentials(session: Any) -> dict[str, Any]:
    found = session.get_credentials()
    if found is None:
        raise PermissionError("no credentials found")
    frozen = found.get_frozen_credentials()
    return {
        "access_key_id": frozen.access_key,
        "secret_access_key": frozen.secret_key,
        "token": frozen.token,
        # botocore renews them itself; it is only to be asked again now and then.
        "expires_at": datetime.now(UTC) + timedelta(minutes=_CREDENTIALS_MINUTES),
    }


def _meaning(address: str, error: Exception) -> Exception:
    """What an error of obstore is in the words of `errors`; others stay as they are."""
    from obstore import exceptions

    if not isinstance(error, exceptions.BaseError | FileNotFoundError):
        return error
    if isinstance(error, exceptions.AlreadyExistsError):
        return taken(address)
    said, _, source = str(error).partition("Debug source:")
    line = said.strip().splitlines()[0] if said.strip() else type(error).__name__
    if isinstance(error, exceptions.UnauthenticatedError) and "credential provider" in said:
        return denied(address, "no credentials found")
    # Every other failure of a request is a GenericError; only its source tells them apart.
    status = _STATUS.search(source)
    if status is not None:
        code = _CODE.search(said)
        if status[1] == "416":
            return _PastEndError()
        return refusal(address, int(status[1]), code[1] if code else "")
    if isinstance(error, FileNotFoundError):
        return refusal(address, 404)
    return unanswered(address, line)
