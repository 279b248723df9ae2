"""Servers that the stores are tested against, each started once."""

from collections.abc import Callable, Iterator

import botocore.session
import pytest
from support.s3.faults import Faults
from support.s3_server import S3Server, s3_server
from support.seaweed import CREDENTIALS, seaweed


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="session")
def real_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with seaweed(tmp_path_factory.mktemp("seaweed"), ["train", "other"]) as endpoint:
        yield endpoint


@pytest.fixture
def real_put(real_endpoint: str) -> Callable[[str, str, bytes], None]:
    """Writes an object of the real server: bucket, key, content."""
    client = botocore.session.Session().create_client(
        "s3", endpoint_url=real_endpoint, region_name="us-east-1"
    )

    def put(bucket: str, key: str, content: bytes) -> None:
        client.put_object(Bucket=bucket, Key=key, Body=content)

    return put


@pytest.fixture(scope="session")
def faulty_server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def faulty(faulty_server: S3Server) -> Iterator[S3Server]:
    """The server with faults, at first without any and with all counts 0."""
    faulty_server.counts(reset=True)
    yield faulty_server
    faulty_server.set(**{name: getattr(Faults(), name) for name in Faults.__slots__})
