"""Places of every kind, each new and empty, and the real server behind some of them."""

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import obstore
import pytest
from obstore.store import MemoryStore
from support.seaweed import CREDENTIALS, seaweed

from keepstep.checkpoint.config import PlaceConfig, Transport
from keepstep.checkpoint.stores import Store, open_place
from keepstep.checkpoint.stores.obstore import is_able

KINDS = ["local", "botocore", "obstore", "memory"]
REMOTE = ["botocore", "obstore"]
PART = 5 * 2**20
_count = itertools.count()


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(autouse=True, scope="session")
def obstore_runs_here() -> None:
    """Starts its threads: imported without them, as the trainer's tests do before their forks, it
    could have been used by a process of which this one is a fork."""
    deadline = time.monotonic() + 20
    obstore.put(MemoryStore(), "a", b"x")
    while not is_able() and time.monotonic() < deadline:
        time.sleep(0.01)  # they name themselves once they run


@pytest.fixture(scope="session")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with seaweed(tmp_path_factory.mktemp("seaweed"), ["ckpt"]) as endpoint:
        yield endpoint


def config_of(kind: str, endpoint: str | None, **changes: object) -> PlaceConfig:
    transport = Transport.obstore if kind == "obstore" else Transport.fsspec
    settings = {
        "transport": transport,
        "endpoint_url": endpoint,
        "part_bytes": PART,
        "retry_seconds": 8.0,
        "stall_seconds": 4.0,
        **changes,
    }
    return PlaceConfig(**settings)  # type: ignore[arg-type]


@pytest.fixture
def make_place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Store]:
    """Opens a place of a kind: `make_place("obstore", retry_seconds=0)`. Of one name, one place."""
    own = f"{next(_count)}"

    def make(
        kind: str, *, name: str = "run", endpoint: str | None = None, **changes: object
    ) -> Store:
        if kind == "local":
            return open_place(f"file://{tmp_path}/{name}", config_of(kind, None, **changes))
        if kind == "memory":
            return open_place(f"memory://{own}/{name}", config_of(kind, None, **changes))
        endpoint = endpoint or request.getfixturevalue("endpoint")
        return open_place(f"s3://ckpt/{own}/{name}", config_of(kind, endpoint, **changes))

    return make


@pytest.fixture(scope="session")
def make_config() -> Callable[..., PlaceConfig]:
    return config_of


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, make_place: Callable[..., Store]) -> Store:
    """A place of each kind in turn."""
    return make_place(request.param)
