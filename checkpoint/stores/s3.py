"""S3 by the client that s3fs brings, botocore: blocking calls, no thread or loop that lives on."""

import contextlib
import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event, Lock
from typing import Any, final

from ..config import PlaceConfig
from .errors import Patience, TransientError, denied, refusal, unanswered
from .pace import Piece

_BATCH = 1000
_MOST_PARTS = 10_000
_logger = logging.getLogger(__name__)


@final
class S3Wire:
    """A bucket. Each process that asks has a client of its own: sockets do not survive a fork."""

    def __init__(self, bucket: str, config: PlaceConfig) -> None:
        self._bucket = bucket
        self._config = config
        self._clients: dict[int, Any] = {}
        self._locks: dict[int, Lock] = {}
        self._patience = Patience(config.retry_seconds)
        self.connections = config.connections

    def scan(self, prefix: str) -> dict[str, float]:
        with self._said(prefix):
            pages = (
                self._client()
                .get_paginator("list_objects_v2")
                .paginate(Bucket=self._bucket, Prefix=prefix)
            )
            return {
                one["Key"]: one["LastModified"].timestamp()
                for page in pages
                for one in page.get("Contents", ())
            }

    def size(self, key: str) -> int:
        with self._said(key):
            return int(self._client().head_object(Bucket=self._bucket, Key=key)["ContentLength"])

    def read(self, key: str, start: int, buffer: memoryview) -> int:
        words = f"bytes={start}-{start + len(buffer) - 1}"
        try:
            with self._said(key):
                answer = self._client().get_object(Bucket=self._bucket, Key=key, Range=words)
                with contextlib.closing(answer["Body"]) as body:
                    return self._fill(key, answer, body, buffer)
        except _PastEndError:
            return 0

    def put(self, key: str, data: Piece) -> None:
        with self._said(key):
            self._client().put_object(
                Bucket=self._bucket, Key=key, Body=bytes(data), IfNoneMatch="*"
            )

    def upload(self, key: str, parts: Iterator[Piece]) -> None:
        upload = self._patience.ask(lambda: self._begin(key))
        try:
            sent, size = self._send_all(key, upload, parts)
            self._complete(key, upload, sent, size)
        except BaseException:
            with contextlib.suppress(OSError):
                self._abort(key, upload)
            raise

    def delete(self, keys: Sequence[str]) -> None:
        for start in range(0, len(keys), _BATCH):
            batch = keys[start : start + _BATCH]
            names = {"Objects": [{"Key": key} for key in batch], "Quiet": True}
            with self._said(batch[0]):
                answer = self._client().delete_objects(Bucket=self._bucket, Delete=names)
            for one in answer.get("Errors", ()):
                if one.get("Code") != "NoSuchKey":
                    status = 403 if one.get("Code") == "AccessDenied" else 500
                    raise refusal(self._address(one.get("Key", "")), status, one.get("Code", ""))

    def pending(self, prefix: str) -> dict[str, float]:
        return {one["Key"]: one["Initiated"].timestamp() for one in self._uploads(prefix)}

    def abort(self, prefix: str) -> None:
        for one in self._uploads(prefix):
            with contextlib.suppress(FileNotFoundError):
                self._abort(one["Key"], one["UploadId"])

    def _uploads(self, prefix: str) -> list[dict[str, Any]]:
        try:
            with self._said(prefix):
                pages = (
                    self._client()
                    .get_paginator("list_multipart_uploads")
                    .paginate(Bucket=self._bucket, Prefix=prefix)
                )
                return [one for page in pages for one in page.get("Uploads", ())]
        except ConnectionError:
            raise
        except OSError as error:  # not every server has it, and not every user may
            _logger.debug("Uploads that were not ended cannot be listed: %s", error)
            return []

    def _begin(self, key: str) -> str:
        with self._said(key):
            answer = self._client().create_multipart_upload(Bucket=self._bucket, Key=key)
            return str(answer["UploadId"])

    def _send_all(
        self, key: str, upload: str, parts: Iterator[Piece]
    ) -> tuple[list[dict[str, Any]], int]:
        """What each part was answered, in order, and the bytes of all."""
        size, sent = 0, []
        waiting: deque[Future[dict[str, Any]]] = deque()
        over = Event()

        def send(number: int, part: Piece) -> dict[str, Any]:
            return self._patience.ask(lambda: self._send(key, upload, number, part), over=over)

        with ThreadPoolExecutor(self.connections, "keepstep-write") as pool:
            try:
                for number, part in enumerate(parts, 1):
                    self._check_count(key, number)
                    size += len(part)
                    if len(waiting) == self.connections:
                        sent.append(waiting.popleft().result())
                    waiting.append(pool.submit(send, number, part))
                return sent + [future.result() for future in waiting], size
            except BaseException:
                over.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _send(self, key: str, upload: str, number: int, part: Piece) -> dict[str, Any]:
        with self._said(key):
            answer = self._client().upload_part(
                Bucket=self._bucket, Key=key, UploadId=upload, PartNumber=number, Body=bytes(part)
            )
        sums = {name: answer[name] for name in answer if name.startswith("Checksum")}
        sums.pop("ChecksumType", None)
        return {"ETag": answer["ETag"], "PartNumber": number, **sums}

    def _complete(self, key: str, upload: str, sent: list[dict[str, Any]], size: int) -> None:
        is_repeated = False

        def complete() -> None:
            nonlocal is_repeated
            try:
                with self._said(key):
                    self._client().complete_multipart_upload(
                        Bucket=self._bucket,
                        Key=key,
                        UploadId=upload,
                        MultipartUpload={"Parts": sent},
                        IfNoneMatch="*",
                    )
            except TransientError:
                is_repeated = True
                raise
            except (FileNotFoundError, FileExistsError):
                # The answer to our own completion may have been lost on its way: then the upload
                # is gone and the object there.
                if not (is_repeated and self.size(key) == size):
                    raise

        self._patience.ask(complete)

    def _abort(self, key: str, upload: str) -> None:
        with self._said(key):
            self._client().abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload)

    def _fill(self, key: str, answer: dict[str, Any], body: Any, buffer: memoryview) -> int:
        length, status = int(answer["ContentLength"]), answer["ResponseMetadata"]["HTTPStatusCode"]
        if status != 206 or length > len(buffer):
            raise OSError(
                f"{self._address(key)}: found {status} and {length} bytes for a range of "
                f"{len(buffer)}, needed a store that serves ranges; use another"
            )
        count = 0
        while count < length and (part := body.readinto(buffer[count:length])):
            count += part
        if count < length:
            raise unanswered(self._address(key), f"{count} of {length} bytes came")
        return count

    def _check_count(self, key: str, number: int) -> None:
        if number > _MOST_PARTS:
            raise ValueError(
                f"checkpoint.store.part_bytes: found {self._config.part_bytes} where "
                f"{self._address(key)} has more than {_MOST_PARTS} parts, needed fewer; set more "
                "bytes a part"
            )

    def _address(self, key: str) -> str:
        return f"s3://{self._bucket}/{key}"

    def _client(self) -> Any:
        process = os.getpid()
        with self._locks.setdefault(process, Lock()):
            if process not in self._clients:
                self._clients[process] = make_client(self._config)
            return self._clients[process]

    @contextlib.contextmanager
    def _said(self, key: str) -> Iterator[None]:
        from botocore import exceptions as boto
        from urllib3.exceptions import HTTPError

        address = self._address(key)
        try:
            yield
        except boto.ClientError as error:
            status = int(error.response["ResponseMetadata"]["HTTPStatusCode"])
            if status == 416:
                raise _PastEndError from error
            raise refusal(address, status, str(error.response["Error"].get("Code", ""))) from error
        except (
            boto.NoCredentialsError,
            boto.PartialCredentialsError,
            boto.CredentialRetrievalError,
        ) as error:
            raise denied(address, type(error).__name__) from error
        except (boto.HTTPClientError, boto.IncompleteReadError, HTTPError) as error:
            raise unanswered(address, error) from error


class _PastEndError(Exception):
    """The range begins at or behind the object's end."""


def make_client(config: PlaceConfig) -> Any:
    """A botocore client, which any number of threads may use; nothing is asked twice by it."""
    try:
        import botocore.session
        from botocore import UNSIGNED
        from botocore.config import Config
    except ImportError as error:
        raise ValueError(
            "checkpoint.path: found an s3:// URL but no s3fs, needed it; run `pip install "
            "keepstep[s3]`"
        ) from error
    session = botocore.session.Session()
    words = {"signature_version": UNSIGNED} if config.anonymous else {}
    return session.create_client(
        "s3",
        endpoint_url=config.endpoint_url,
        region_name=config.region or session.get_config_variable("region") or "us-east-1",
        config=Config(
            retries={"total_max_attempts": 1, "mode": "standard"},
            connect_timeout=config.connect_seconds,
            read_timeout=config.stall_seconds,
            max_pool_connections=2 * config.connections,
            # Ranges carry no checksum that could be checked, and some gateways send stale ones.
            response_checksum_validation="when_required",
            **words,
        ),
    )
