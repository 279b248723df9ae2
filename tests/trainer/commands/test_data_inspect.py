"""`keepstep data inspect`: datasets of any kind, as a person sees them first."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.s3.faults import Faults
from support.s3_server import s3_server
from typer.testing import CliRunner, Result

from keepstep.data import DataError, histogram
from keepstep.trainer.commands.app import app

FIXTURES = Path(__file__).parents[2] / "data" / "fixtures"


def inspect(where: object, tmp_path: Path, *arguments: str) -> Result:
    words = ["data", "inspect", str(where), "--cache", str(tmp_path / "cache"), *arguments]
    return CliRunner().invoke(app, words)


@pytest.mark.parametrize("kind", ["mds/all", "webdataset/kinds", "litdata/samples", "mds/json"])
def test_records_are_counted_shown_and_measured(kind: str, tmp_path: Path) -> None:
    done = inspect(FIXTURES / kind, tmp_path)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["format", kind.partition("/")[0]]
    samples = int(next(x for x in lines if x.startswith("samples")).split()[1])
    assert any(line.startswith("column ") for line in lines)
    assert sum(line.startswith("sample ") for line in lines) == min(3, samples)
    at = next(place for place, line in enumerate(lines) if line.startswith("lengths: "))
    assert sum(int(line.split()[1]) for line in lines[at + 1 :]) == min(samples, 256)
    assert max(map(len, lines)) < 3000


def test_columns_have_the_types_of_their_values(tmp_path: Path) -> None:
    rows = [{"text": "word " * n, "score": n / 2, "tags": ["a"]} for n in range(1, 6)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = inspect(tmp_path / "a.jsonl", tmp_path)
    assert done.exit_code == 0, done.output
    for words in ("text: str", "score: float", "tags: list of str"):
        assert f"column                 {words}\n" in done.stdout
    assert 'text: "word ", score: 0.5, tags: ["a"]' in done.stdout


def test_documents_of_tokens_are_measured_without_reading_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    local = inspect(FIXTURES / "megatron" / "many", tmp_path)
    assert local.exit_code == 0, local.output
    assert "column                 tokens: " in local.stdout
    with s3_server(Faults()) as server:
        for path in (FIXTURES / "megatron" / "many").iterdir():
            server.put(f"mega/{path.name}", path.read_bytes())
        remote = inspect("s3://mega", tmp_path, "--endpoint", server.endpoint)
    assert remote.exit_code == 0, remote.output
    different = set(remote.stdout.splitlines()) ^ set(local.stdout.splitlines())
    assert {line.split()[0] for line in different} == {"url"}


def test_a_lock_is_looked_at_as_its_dataset(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "mds" / "all", tmp_path / "mds")
    before = inspect(tmp_path / "mds", tmp_path)
    lock = tmp_path / "x.lock"
    done = CliRunner().invoke(app, ["data", "lock", str(tmp_path / "mds"), "--out", str(lock)])
    assert done.exit_code == 0
    after = inspect(lock, tmp_path)
    changed = set(before.stdout.splitlines()) ^ set(after.stdout.splitlines())
    # Digests of whole objects are part of what a lock says.
    assert {line.split()[0] for line in changed} <= {"digest"}


def test_nothing_of_a_known_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "notes.xyz").write_text("nothing")
    done = inspect(tmp_path / "x", tmp_path)
    assert isinstance(done.exception, DataError)
    assert "no data of a known format" in str(done.exception)


def test_a_histogram_has_a_bar_for_each_doubling() -> None:
    lines = histogram(np.array([1, 2, 3, 9, 9, 9, 9]), width=4)
    assert [line.split() for line in lines] == [
        ["1", "1", "#"],
        ["2-3", "2", "##"],
        ["4-7", "0"],
        ["8-15", "4", "####"],
    ]
    assert histogram(np.array([], dtype=np.int64)) == []
