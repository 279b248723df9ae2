"""S3 through obstore: the same store as by s3fs, in Rust. Where it is installed, the faster way."""

import functools
import importlib.util
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Any, NoReturn, TypeVar, final

from ..errors import ChangedError, DataError, MissingError, StoreError
from .answers import check, check_range, denied, no_ranges, passing, refusal
from .config import StoreConfig
from .listing import listing, split
from .store import StoredObject

Result = TypeVar("Result")

SCHEMES = ("s3", "s3a")
_CREDENTIALS_MINUTES = 10
_SIZE_CLASS = 1 << 24
# What `content` is for: locks and manifests.
_SMALL_OBJECT = 64 * 2**20
_STATUS = re.compile(r"\bstatus: (\d{3})\b")
_CODE = re.compile(r"<Code>(\w+)</Code>")


@final
class ObstoreStore:
    """Buckets of an S3 server. Every range carries If-Match, and what comes back is checked too.

    Raises:
        DataError: at a request, obstore is not installed, or this is a fork of a process that has
            used it: its threads do not survive a fork, and it would hang.
    """

    def __init__(self, config: StoreConfig) -> None:
        self._config = config
        self._clients: dict[tuple[str, int], Any] = {}
        self._lock = Lock()
        self._session: Any = None

    def list(self, url: str) -> list[StoredObject]:
        _, bucket, _ = split(url)
        module, client = self._client(url, bucket, 0)

        def below(prefix: str) -> dict[str, tuple[int, str]]:
            rows = self._ask(url, lambda: module.list(client, prefix or None).collect())
            found = {str(one["path"]): (int(one["size"]), _plain(one["e_tag"])) for one in rows}
            # A folder's marker "p/" comes as an empty "p" here; an empty object "p" exists.
            return {
                name: facts
                for name, facts in found.items()
                if name.startswith(prefix) and (facts[0] or self._exists(url, bucket, name))
            }

        return listing(url, below, self.stat)

    def stat(self, url: str) -> StoredObject:
        _, bucket, key = split(url)
        module, client = self._client(url, bucket, 0)
        facts = self._ask(url, lambda: module.head(client, key))
        return StoredObject(url, int(facts["size"]), _plain(facts["e_tag"]))

    def read(self, obj: StoredObject, start: int, stop: int) -> bytes | memoryview:
        check_range(obj, start, stop)
        if start == stop:
            return b""
        _, bucket, key = split(obj.url)
        module, client = self._client(obj.url, bucket, stop - start)
        options: dict[str, Any] = {"range": (start, stop)}
        if obj.tag:
            options["if_match"] = f'"{obj.tag}"'

        def call() -> memoryview:
            answer = module.get(client, key, options=options)
            facts, (first, last) = answer.meta, answer.range
            check(obj, start, stop, facts["size"], _plain(facts["e_tag"]), last - first)
            return memoryview(answer.bytes())

        try:
            content = self._ask(obj.url, call)
        except _OtherVersionError as error:
            now = self.stat(obj.url)
            raise ChangedError(
                obj.url, f"{now.tag} of {now.size} bytes", f"{obj.tag} of {obj.size} bytes"
            ) from error
        check(obj, start, stop, obj.size, "", len(content))
        return content

    def content(self, url: str) -> bytes:
        _, bucket, key = split(url)
        module, client = self._client(url, bucket, _SMALL_OBJECT)
        return self._ask(url, lambda: bytes(module.get(client, key).bytes()))

    def close(self) -> None:
        """Lets go of the clients; each gives its connections back after its last request."""
        self._clients.clear()

    def _exists(self, url: str, bucket: str, key: str) -> bool:
        try:
            self.stat(f"{url.partition('://')[0]}://{bucket}/{key}")
        except MissingError:
            return False
        return True

    def _ask(self, url: str, call: Callable[[], Result]) -> Result:
        try:
            return call()
        except (StoreError, ChangedError):
            raise
        except Exception as error:
            _raise(url, error)

    def _client(self, url: str, bucket: str, size: int) -> tuple[Any, Any]:
        """The module, and a client whose time-out fits answers of `size` bytes."""
        module = _module()
        if _runtime_process() != os.getpid():
            raise DataError(
                f"{url}: found obstore in use by process {_runtime_process()}, of which this one, "
                f"{os.getpid()}, is a fork, needed a process that was not forked after; start "
                "workers by forkserver or spawn, or set data.store.transport=fsspec"
            )
        bound = _SIZE_CLASS
        while bound < size:
            bound *= 4
        with self._lock:
            if (bucket, bound) not in self._clients:
                # It takes longer to make than a range to fetch: one serves all clients.
                self._session = self._session or _session()
                self._clients[bucket, bound] = _make(bucket, bound, self._config, self._session)
            return module, self._clients[bucket, bound]


def is_able() -> bool:
    """Whether obstore is installed and may be used in this process."""
    if importlib.util.find_spec("obstore") is None:
        return False
    return not _runtime_process.cache_info().currsize or _runtime_process() == os.getpid()


class _OtherVersionError(Exception):
    """The store has another version of the object than was asked for."""


@functools.cache
def _runtime_process() -> int:
    """The process that first made a client: obstore's threads run there, and in no fork of it."""
    return os.getpid()


def _module() -> Any:
    try:
        import obstore
    except ImportError as error:
        raise DataError(
            "data.store.transport: found obstore but no such package, needed it; run "
            "`pip install keepstep[s3]` or set data.store.transport=auto"
        ) from error
    return obstore


def _make(bucket: str, size: int, config: StoreConfig, session: Any) -> Any:
    from obstore.store import S3Store

    words: dict[str, Any] = {"skip_signature": True} if config.anonymous else {}
    region = config.region or (session and session.get_config_variable("region"))
    if region:
        words["region"] = region
    if session is not None and not config.anonymous:
        words["credential_provider"] = lambda: _credentials(session)
    if config.endpoint_url is not None:
        words["endpoint"] = config.endpoint_url
    answer = config.connect_seconds + config.first_byte_seconds
    return S3Store(
        bucket,
        client_options={
            "allow_http": True,
            "connect_timeout": timedelta(seconds=config.connect_seconds),
            "read_timeout": timedelta(seconds=max(config.first_byte_seconds, config.stall_seconds)),
            "timeout": timedelta(seconds=answer + config.body_seconds(size)),
        },
        retry_config={"max_retries": 0, "retry_timeout": timedelta(0)},
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


def _plain(tag: str | None) -> str:
    return (tag or "").strip('"')


def _raise(url: str, error: Exception) -> NoReturn:
    from obstore import exceptions

    said, _, source = str(error).partition("Debug source:")
    line = said.strip().splitlines()[0] if said.strip() else repr(error)
    if isinstance(error, exceptions.UnauthenticatedError) and "credential provider" in said:
        raise denied(url, line) from error
    # Every failure of a request is a GenericError; only its source, as text, tells them apart.
    status = _STATUS.search(source)
    if status is not None:
        if int(status[1]) in (412, 416):
            raise _OtherVersionError(line) from error
        code = _CODE.search(said)
        raise refusal(url, int(status[1]), code[1] if code else "") from error
    if isinstance(error, FileNotFoundError):
        raise refusal(url, 404) from error
    if "NotPartial" in source:
        raise no_ranges(url) from error
    for words, cause in _CAUSES:
        if any(word in source for word in words):
            raise passing(url, cause, line) from error
    raise passing(url, "other", line) from error


_CAUSES = (
    (("UnexpectedRange",), "short"),
    (("kind: Timeout", "TimedOut"), "timeout"),
    (("kind: Connect,",), "refused"),
    (("ConnectionReset", "BrokenPipe", "ConnectionAborted"), "reset"),
    (("IncompleteBody", "IncompleteMessage", "UnexpectedEof"), "short"),
)
