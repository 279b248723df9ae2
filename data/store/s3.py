"""S3 through s3fs: its client, session and loop, but neither its retries nor its caches."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError
from threading import Lock, Thread
from typing import Any, NoReturn, TypeVar, final

from ..errors import ChangedError, DataError, StoreError
from .answers import check, check_range, denied, no_ranges, passing, refusal
from .config import StoreConfig
from .listing import listing, split
from .process import PerProcess
from .store import StoredObject

Result = TypeVar("Result")
Call = Callable[[Any], Awaitable[Result]]


@final
class S3Store:
    """Buckets of an S3 server. Every range carries If-Match, and what comes back is checked too.

    After a fork the child's first request makes a client of its own.
    """

    def __init__(self, config: StoreConfig) -> None:
        self._config = config
        self._client = PerProcess(lambda: _Client(config))

    def list(self, url: str) -> list[StoredObject]:
        _, bucket, _ = split(url)

        def below(prefix: str) -> dict[str, tuple[int, str]]:
            async def call(client: Any) -> dict[str, tuple[int, str]]:
                found: dict[str, tuple[int, str]] = {}
                more: dict[str, str] = {}
                while True:
                    async with asyncio.timeout(self._config.body_seconds(1 << 20)):
                        page = await client.list_objects_v2(Bucket=bucket, Prefix=prefix, **more)
                    for one in page.get("Contents", ()):
                        found[one["Key"]] = one["Size"], _plain(one["ETag"])
                    if not page.get("IsTruncated"):
                        return found
                    more = {"ContinuationToken": page["NextContinuationToken"]}

            return self._ask(url, call)

        return listing(url, below, self.stat)

    def stat(self, url: str) -> StoredObject:
        _, bucket, key = split(url)

        async def call(client: Any) -> dict[str, Any]:
            async with asyncio.timeout(self._answer_seconds):
                found: dict[str, Any] = await client.head_object(Bucket=bucket, Key=key)
                return found

        facts = self._ask(url, call)
        return StoredObject(url, facts["ContentLength"], _plain(facts["ETag"]))

    def read(self, obj: StoredObject, start: int, stop: int) -> bytes | memoryview:
        check_range(obj, start, stop)
        if start == stop:
            return b""
        _, bucket, key = split(obj.url)
        words = {"Bucket": bucket, "Key": key, "Range": f"bytes={start}-{stop - 1}"}
        if obj.tag:
            words["IfMatch"] = f'"{obj.tag}"'

        async def call(client: Any) -> bytes:
            async with asyncio.timeout(self._answer_seconds):
                answer = await client.get_object(**words)
            async with answer["Body"] as body:
                size, length = _sizes(obj, answer)
                check(obj, start, stop, size, _plain(answer["ETag"]), length)
                async with asyncio.timeout(self._config.body_seconds(length)):
                    content: bytes = await body.read()
            check(obj, start, stop, size, "", len(content))
            return content

        try:
            return self._ask(obj.url, call)
        except _OtherVersionError as error:
            now = self.stat(obj.url)
            raise ChangedError(
                obj.url, f"{now.tag} of {now.size} bytes", f"{obj.tag} of {obj.size} bytes"
            ) from error

    def content(self, url: str) -> bytes:
        _, bucket, key = split(url)

        async def call(client: Any) -> bytes:
            async with asyncio.timeout(self._answer_seconds):
                answer = await client.get_object(Bucket=bucket, Key=key)
            async with answer["Body"] as body:
                size = int(answer["ContentLength"])
                async with asyncio.timeout(self._config.body_seconds(size)):
                    found: bytes = await body.read()
            if len(found) != size:
                raise passing(url, "short", f"{len(found)} of {size} bytes")
            return found

        return self._ask(url, call)

    def close(self) -> None:
        client = self._client.take()
        if client is not None:
            client.close()

    @property
    def _answer_seconds(self) -> float:
        return self._config.connect_seconds + self._config.first_byte_seconds

    def _ask(self, url: str, call: Call[Result]) -> Result:
        try:
            return self._client.get().run(call)
        except (StoreError, ChangedError, DataError):
            raise
        except CancelledError as error:
            raise passing(url, "reset", "the store was closed") from error
        except Exception as error:
            _raise(url, error)


@final
class _Client:
    """s3fs's filesystem on a loop and a thread of its own, so that both end with the store."""

    def __init__(self, config: StoreConfig) -> None:
        self._loop = asyncio.new_event_loop()
        self._filesystem = _filesystem(config, self._loop)
        self._lock = Lock()
        self._is_closed = False
        self._thread = Thread(target=self._loop.run_forever, name="keepstep-s3", daemon=True)
        self._thread.start()

    def run(self, call: Call[Result]) -> Result:
        """Runs `call` with the botocore client and waits for it; any thread.

        The client itself, since s3fs sleeps after a failure even when it does not retry.
        """

        async def ask() -> Result:
            return await call(await self._filesystem.set_session())

        with self._lock:
            if self._is_closed:
                raise CancelledError
            future = asyncio.run_coroutine_threadsafe(ask(), self._loop)
        return future.result()

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self._filesystem._s3 is not None:
            await self._filesystem._s3.close()
        await self._loop.shutdown_default_executor()


class _OtherVersionError(Exception):
    """The store has another version of the object than was asked for."""


def _filesystem(config: StoreConfig, loop: asyncio.AbstractEventLoop) -> Any:
    try:
        import s3fs
    except ImportError as error:
        raise DataError(
            "store: found an s3:// URL but no s3fs, needed it; run `pip install keepstep[s3]`"
        ) from error
    found = s3fs.S3FileSystem(
        asynchronous=True,
        loop=loop,
        anon=config.anonymous,
        endpoint_url=config.endpoint_url,
        client_kwargs={"region_name": config.region} if config.region else {},
        config_kwargs={
            "retries": {"total_max_attempts": 1, "mode": "standard"},
            "connect_timeout": config.connect_seconds,
            "read_timeout": max(config.first_byte_seconds, config.stall_seconds),
            "max_pool_connections": config.connections,
            # Ranges carry no checksum that could be checked, and some gateways send stale ones.
            "response_checksum_validation": "when_required",
        },
        skip_instance_cache=True,
        use_listings_cache=False,
    )
    return found


def _plain(tag: str) -> str:
    return tag.strip('"')


def _sizes(obj: StoredObject, answer: dict[str, Any]) -> tuple[int, int]:
    """The size of the whole object and of the body to come, as the answer's headers say."""
    place, _, total = answer.get("ContentRange", "").rpartition("/")
    if not place or not total.isdigit():
        raise no_ranges(obj.url)
    return int(total), int(answer["ContentLength"])


def _raise(url: str, error: Exception) -> NoReturn:
    import aiohttp
    from botocore import exceptions as boto

    if isinstance(error, boto.ClientError):
        status = int(error.response["ResponseMetadata"]["HTTPStatusCode"])
        if status in (412, 416):
            raise _OtherVersionError(str(error)) from error
        raise refusal(url, status, str(error.response["Error"].get("Code", ""))) from error
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError):
        raise denied(url, str(error)) from error
    chain = list(_chain(error))
    if any(isinstance(one, TimeoutError | socket.timeout) for one in chain) or isinstance(
        error, boto.ReadTimeoutError | boto.ConnectTimeoutError
    ):
        raise passing(url, "timeout") from error
    if any(isinstance(one, ConnectionRefusedError | aiohttp.ClientConnectorError) for one in chain):
        raise passing(url, "refused", error) from error
    if any(isinstance(one, aiohttp.ClientPayloadError) for one in chain):
        # aiohttp tells the end of the connection that it saw only as text.
        is_reset = any("ConnectionResetError" in str(one) for one in chain)
        raise passing(url, "reset" if is_reset else "short", error) from error
    if any(isinstance(one, ConnectionError | aiohttp.ClientConnectionError) for one in chain):
        raise passing(url, "reset", error) from error
    raise passing(url, "other", repr(error)) from error


def _chain(error: BaseException | None) -> Any:
    """An error and those it came of."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
