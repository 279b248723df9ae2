"""`keepstep report` and `compare`: a real run that a kill went through, in a real browser."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from support.browse import BROWSER, look
from support.job import Ran
from typer.testing import CliRunner

from keepstep.trainer.commands.app import app
from keepstep.trainer.errors import ConfigError
from keepstep.trainer.telemetry.reading.run import read_run
from keepstep.trainer.telemetry.report.compare import labels

needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no chromium here: apt-get install chromium"
)
CURVES = {"loss", "timeline", "throughput", "step-time", "gradient-norm", "memory", "stall"}
COMPARED = {"loss", "throughput", "step-time", "gradient-norm", "accounts"}


def report(run: Path, *more: str) -> Path:
    done = CliRunner().invoke(app, ["report", str(run), *more], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return Path(done.output.strip())


@pytest.fixture(scope="module")
def other(recovered: Ran, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with one more setting and a tenth less loss, without its checkpoints."""
    copy = tmp_path_factory.mktemp("other") / "other"
    shutil.copytree(recovered.folder, copy, ignore=shutil.ignore_patterns("checkpoints"))
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(config.replace("train:\n", "train:\n  patience: 7\n"))
    lines = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    less = [{**line, "loss": line["loss"] and line["loss"] * 0.9} for line in lines]
    (copy / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in less))
    return copy


@pytest.fixture(scope="module")
def seen(
    recovered: Ran, other: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """What a browser found in a report and in a comparison."""
    folder = tmp_path_factory.mktemp("pages")
    single = report(recovered.folder, "--out", str(folder / "single.html"))
    words = ["compare", str(recovered.folder), str(other), "--out", str(folder / "both.html")]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return look(single, folder / "both.html")


@needs_browser
def test_a_browser_draws_every_figure_without_a_complaint_or_a_request(
    seen: list[dict[str, Any]],
) -> None:
    for found, wanted in zip(seen, (CURVES, COMPARED), strict=True):
        assert found["complaints"] == []
        assert (found["fetched"], found["requests"]) == ([], 1)
        assert found["overflow"] <= 0
        assert found["plots"].keys() == wanted
        for name, plot in found["plots"].items():
            assert plot["traces"], name
            assert plot["drawn"] > 0, name
            assert all(count > 0 for _, count in plot["traces"]), name
            assert plot["width"] > 400, name


@needs_browser
def test_the_figures_of_a_report_hold_the_run(recovered: Ran, seen: list[dict[str, Any]]) -> None:
    found = seen[0]
    traces = {name: dict(plot["traces"]) for name, plot in found["plots"].items()}
    assert traces["loss"]["training"] == 59  # one had no finite loss
    assert traces["loss"]["held out"] == 3
    assert traces["loss"]["failure"] == 1
    assert traces["gradient-norm"]["not applied"] == 1
    assert {"up", "down"} <= {name.split(".")[0] for name in traces["gradient-norm"]}
    happened = {name: traces["timeline"][name] for name in ("failure", "recovery", "end")}
    assert happened == {"failure": 1, "recovery": 1, "end": 1}
    assert traces["timeline"]["checkpoint"] == len(recovered.events("checkpoint"))
    assert {"init", "step", "restore", "redo", "save", "eval"} <= traces["timeline"].keys()
    assert "Not measured" in found["text"] or "kWh" in found["text"]
    assert str(recovered.digest) in found["text"]


def test_the_report_lies_in_the_runs_folder_by_default(recovered: Ran, tmp_path: Path) -> None:
    copy = tmp_path / "<b>run</b>"
    shutil.copytree(recovered.folder, copy, ignore=shutil.ignore_patterns("checkpoints"))
    page = report(copy)
    assert page == copy / "report.html"
    text = page.read_text()
    assert "<b>run" not in text
    assert "&lt;b&gt;run" in text
    assert "No checkpoint can be read." in text


def test_a_run_that_has_just_begun_has_a_report_too(recovered: Ran, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("train: {steps: 9}\ndata: {path: 's3://me:secret@b/k'}\n")
    text = report(tmp_path).read_text()
    assert "No step is finished yet." in text
    assert "secret" not in text
    assert "s3://b/k" in text


def test_what_cannot_be_reported_is_said_in_a_sentence(
    recovered: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"found no config\.yaml, needed a run's folder"):
        report(tmp_path)
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    out = tmp_path / "page.html"
    with pytest.raises(ConfigError, match=r'pip install "keepstep\[report\]"'):
        report(recovered.folder, "--out", str(out))
    assert not out.exists()


def test_the_ledger_of_a_report_is_the_runs(recovered: Ran, tmp_path: Path) -> None:
    page = report(recovered.folder, "--out", str(tmp_path / "page.html")).read_text()
    kept = json.loads((recovered.folder / "ledger.json").read_text())["seconds"]
    assert f"{kept['step']:,.2f} s" in page
    assert f"{sum(kept.values()):,.2f} s" in page


@needs_browser
def test_a_comparison_has_a_curve_of_each_run(seen: list[dict[str, Any]]) -> None:
    plots = seen[1]["plots"]
    names = [name for name, _ in plots["loss"]["traces"]]
    assert names == ["recovered", "recovered, held out", "other", "other, held out"]
    assert [name for name, _ in plots["throughput"]["traces"]] == ["recovered", "other"]
    assert "train.patience" in seen[1]["text"]


def test_a_comparison_prints_what_differs(recovered: Ran, other: Path) -> None:
    words = ["compare", str(recovered.folder), str(other)]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    rows = [re.split(" {2,}", line.strip()) for line in done.output.splitlines() if line.strip()]
    heads = [place for place, row in enumerate(rows) if row[-2:] == ["recovered", "other"]]
    assert rows[heads[0] + 1 : heads[1]] == [["train.patience", "-", "7"]]
    found = {row[0]: row[1:] for row in rows[heads[-1] + 1 :]}
    loss = recovered.losses[60]
    assert found["loss"] == [f"{loss:.5f}", f"{loss * 0.9:.5f}"]
    assert found["state"] == ["finished", "finished"]
    assert found["recoveries"] == ["1", "1"]


def test_runs_of_one_name_are_told_apart_and_one_is_no_comparison(recovered: Ran) -> None:
    run = read_run(recovered.folder)
    assert labels([run, run]) == [f"1: {recovered.folder}", f"2: {recovered.folder}"]
    with pytest.raises(ConfigError, match="found 1, needed two or more"):
        CliRunner().invoke(app, ["compare", str(recovered.folder)], catch_exceptions=False)
