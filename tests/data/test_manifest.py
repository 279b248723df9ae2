"""The manifest is read back as it was written, or refused."""

import json
from pathlib import Path

import pytest

from keepstep.data import CorruptDataError, DataError
from keepstep.data.manifest import MANIFEST, is_prepared, read_manifest


def test_a_manifest_is_read_back_as_written(prepared: Path) -> None:
    manifest = read_manifest(prepared)
    assert manifest.to_json() == (prepared / MANIFEST).read_text()
    locks = {"keepstep-train.lock", "keepstep-eval.lock"}
    assert {file.name for file in manifest.files} | {MANIFEST} | locks == {
        path.name for path in prepared.iterdir()
    }


def test_the_digest_of_a_split_ignores_the_folders_name(prepared: Path) -> None:
    before = read_manifest(prepared).digest("train")
    moved = prepared.rename(prepared.with_name("moved"))
    assert read_manifest(moved).digest("train") == before
    assert read_manifest(moved).digest("eval") != before


def test_a_changed_number_is_caught_by_the_manifests_own_digest(prepared: Path) -> None:
    path = prepared / MANIFEST
    path.write_text(path.read_text().replace('"end_token": 0', '"end_token": 1'))
    with pytest.raises(CorruptDataError, match=r"manifest.json: found content of digest"):
        read_manifest(prepared)


def test_another_version_is_refused_with_both_values(prepared: Path) -> None:
    body = {**json.loads((prepared / MANIFEST).read_text()), "version": 2}
    (prepared / MANIFEST).write_text(json.dumps(body))
    with pytest.raises(DataError, match=r"found format and version \('keepstep-tokens', 2\)"):
        read_manifest(prepared)


@pytest.mark.parametrize("content", ["[]", "3", '{"format": "other"}'])
def test_other_json_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(DataError, match="found format and version"):
        read_manifest(tmp_path)
    assert not is_prepared(tmp_path)


def test_no_manifest_and_no_json_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"found no manifest.json in"):
        read_manifest(tmp_path)
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(CorruptDataError, match="found no JSON"):
        read_manifest(tmp_path)
