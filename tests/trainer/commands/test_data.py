"""`keepstep data`: text becomes shards, is looked at, and every byte is checked."""

import json
from pathlib import Path

import pytest
from support.training import Corpus
from typer.testing import CliRunner, Result

from keepstep.trainer.commands import app as module
from keepstep.trainer.commands.app import app
from keepstep.trainer.recovery.chaos import flip_byte


def keepstep(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def shards(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "out"
    options = ("--vocabulary-size", 300, "--eval-fraction", 0.1)
    done = keepstep("data", "prepare", corpus.texts, "--out", out, *options)
    assert done.exit_code == 0, done.output
    assert done.stdout.strip().splitlines()[-1] == str(out)
    return out


def test_prepare_writes_shards_a_manifest_and_a_tokenizer(shards: Path) -> None:
    manifest = json.loads((shards / "manifest.json").read_text())
    assert manifest["vocabulary_size"] == 300
    assert len(list(shards.glob("*.npy"))) >= 2
    assert any("tokenizer" in path.name for path in shards.iterdir())


def test_inspect_prints_what_a_folder_holds(shards: Path) -> None:
    done = keepstep("data", "inspect", shards, "--sequence-length", 16)
    assert done.exit_code == 0
    assert "300" in done.stdout
    longer = keepstep("data", "inspect", shards, "--sequence-length", 64)
    assert longer.stdout != done.stdout


def test_verify_finds_prepared_data_whole(shards: Path) -> None:
    done = keepstep("data", "verify", shards)
    assert (done.exit_code, done.stdout) == (0, f"{shards}: whole\n")


def test_verify_names_the_file_of_a_flipped_byte(shards: Path) -> None:
    files = sorted(shards.iterdir())
    assert len(files) >= 4
    for path in files:
        flip_byte(path)
        done = keepstep("data", "verify", shards)
        flip_byte(path)
        assert done.exit_code == 1, path.name
        assert done.stderr.startswith(f"{path}: found ")
    assert keepstep("data", "verify", shards).exit_code == 0


def test_a_folder_that_is_not_empty_is_refused_and_kept(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    done = keepstep("data", "prepare", corpus.texts, "--out", tmp_path)
    assert done.exit_code != 0
    assert str(tmp_path) in str(done.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_settings_of_prepare_are_options(corpus: Corpus, tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out"
    lines = [json.dumps({"text": path.read_text()}) for path in sorted(corpus.texts.iterdir())]
    source.write_text("\n".join([*lines, lines[0], '{"text": "short"}', "{broken"]))
    options = ("--filter", "min_words=2", "--filter", "max_words", "--on-bad", "skip")
    done = keepstep("data", "prepare", source, "--out", out, *options, "--workers", 1)
    assert done.exit_code == 0, done.output
    counts = json.loads((out / "manifest.json").read_text())["counts"]["documents"]
    assert (counts["read"], counts["kept"]) == (43, 40)
    assert (counts["exact_duplicates"], counts["min_words"], counts["bad"]) == (1, 1, 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("data", "inspect", "{}/nowhere"), "nowhere"),
        (("data", "prepare", "{}/nowhere", "--out", "{}/out"), "nowhere"),
        (("data", "prepare", "{}", "--vocabulary-size", "5"), "data.vocabulary_size: found 5"),
        (("checkpoint", "list", "{}/nowhere"), "nowhere: found no such folder"),
        (("checkpoint", "verify", "{}"), "found no checkpoint, needed one"),
    ],
)
def test_a_mistake_ends_with_code_2_and_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    words: str,
) -> None:
    filled = [argument.format(tmp_path) for argument in arguments]
    monkeypatch.setattr("sys.argv", ["keepstep", *filled])
    with pytest.raises(SystemExit) as caught:
        module.main()
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("keepstep: ")
    assert words in said
    assert said.count("\n") == 1
