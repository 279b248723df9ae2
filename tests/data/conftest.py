"""A small text corpus and its prepared shards, made once for the room's tests."""

from collections.abc import Callable
from pathlib import Path

import pytest

from keepstep.data import DataConfig, prepare
from keepstep.data.cache import CacheConfig

Configure = Callable[..., DataConfig]


def silent(line: str) -> None:
    """Takes a progress line and says nothing."""


def write_corpus(folder: Path, documents: int = 40) -> Path:
    """Writes numbered text files, no two alike, and returns their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(documents):
        lines = (f"{number} times {step} makes {number * step}.\n" for step in range(30))
        (folder / f"table-{number:02d}.txt").write_text("".join(lines))
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def configure(corpus: Path, tmp_path: Path) -> Configure:
    """Makes a DataConfig over the small corpus, with a cache of the test's own."""

    def make(**changes: object) -> DataConfig:
        settings: dict[str, object] = {
            "name": "tables",
            "path": str(corpus),
            "vocabulary_size": 300,
            "sequence_length": 16,
            "cache": CacheConfig(folder=str(tmp_path / "cache")),
        }
        return DataConfig(**{**settings, **changes})  # type: ignore[arg-type]

    return make


@pytest.fixture
def prepared(configure: Configure) -> Path:
    return prepare(configure(), report=silent)
