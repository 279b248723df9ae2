"""The bench of recoveries: a kill is measured, nothing is left of a job, sides train one model."""

import json
import sys
import time
from pathlib import Path

import pytest
from support.scripts import load_script

from keepstep.trainer.config import LlamaConfig
from keepstep.trainer.models.llama import Llama

bench = load_script("bench_recovery")

from recovery.job import Job, JobError  # noqa: E402 - the bench says where it is
from recovery.measure import Deadline  # noqa: E402
from recovery.report import Results  # noqa: E402
from recovery.sides import Running, llama  # noqa: E402
from recovery.steps import KeepstepSteps, PeerSteps, Step  # noqa: E402


@pytest.mark.slow
def test_a_kill_of_two_ranks_is_measured_and_costs_no_step(tmp_path: Path) -> None:
    words = ["--sides", "inplace", "--ranks", "2", "--turns", "1", "--storm-seconds", "0"]
    found = bench.main([*words, "--out", str(tmp_path / "out.json")])
    (run,) = json.loads((tmp_path / "out.json").read_text())["runs"]
    assert "failed" not in run, run["failed"]
    assert 0 < run["seconds"] <= run["whole_seconds"]
    assert (run["repeated"], run["world_after"]) == (0, 2)
    assert found.table()["inplace"]["2"]["seconds"]["all"] == [run["seconds"]]


def test_a_job_ends_with_what_left_its_parent(tmp_path: Path) -> None:
    with Job(tmp_path) as job:
        shell = job.start(["sh", "-c", "setsid sleep 60 & exit 0"], {})
        shell.wait(10)
        deadline = time.monotonic() + 10
        while not job.marked("sleep") and time.monotonic() < deadline:
            time.sleep(0.01)
        assert job.marked("sleep")
    assert not job.marked()


def test_a_job_takes_what_it_shared_in_memory_with_it(tmp_path: Path) -> None:
    path = Path("/dev/shm") / f"bench-{tmp_path.name}-{id(tmp_path)}"
    code = f"import time; f = open({str(path)!r}, 'w'); time.sleep(60)"
    with Job(tmp_path) as job:
        job.start([sys.executable, "-c", code], {})
        deadline = time.monotonic() + 10
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.exists()
    assert not path.exists()


def test_a_job_that_ends_is_an_error_with_its_words(tmp_path: Path) -> None:
    with Job(tmp_path) as job:
        process = job.start(["sh", "-c", "echo out of luck; exit 3"], {})
        process.wait(10)
        running = Running(job=job, steps=PeerSteps(tmp_path), ranks=1, vital=process)
        with pytest.raises(JobError, match=r"ended while steps were awaited.*out of luck"):
            Deadline(running, "steps", 60.0).check()


def test_half_a_line_is_read_once_it_is_whole(tmp_path: Path) -> None:
    reader, path = PeerSteps(tmp_path), tmp_path / "steps.jsonl"
    assert reader.read() == []
    path.write_text('{"step": 1, "generation": 0, "world": 2}\n{"step": 2, "gen')
    assert reader.read() == [Step(1, 0, 2)]
    with open(path, "a") as file:
        file.write('eration": 1, "world": 1}\n')
    assert reader.read() == [Step(2, 1, 1)]


def test_a_step_counts_for_the_generation_that_began_before_it(tmp_path: Path) -> None:
    reader = KeepstepSteps(tmp_path, ranks=2)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    (tmp_path / "events.jsonl").write_text('{"kind": "failure", "generation": 1}\n')
    assert reader.read() == [Step(1, 0, 2)]
    with open(tmp_path / "events.jsonl", "a") as file:
        file.write('{"kind": "start", "generation": 1}\n')
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 2}\n')
    assert reader.read() == [Step(2, 1, 2)]


def test_ratios_are_of_the_same_turn_and_a_failure_leaves_its_cell_empty(tmp_path: Path) -> None:
    results = Results(tmp_path / "out.json", more=False)
    for turn, side, seconds in ((0, "torchrun", 8), (0, "inplace", 2), (1, "torchrun", 9)):
        where = {"turn": turn, "kind": "kill", "side": side, "ranks": 2}
        results.add({**where, "seconds": seconds, "repeated": 0})
    results.add({"turn": 1, "kind": "kill", "side": "inplace", "ranks": 2, "failed": "no luck"})
    results.add({"turn": 1, "kind": "kill", "side": "nvrx", "ranks": 8, "failed": "hung"})
    more = Results(tmp_path / "out.json", more=True)
    assert more.first_turn == 2
    assert more.table()["inplace"]["2"]["torchrun / this"]["median"] == 4
    assert more.table()["inplace"]["2"]["failed"] == {"times": 1, "first": "no luck"}
    assert "seconds" not in more.table()["nvrx"]["8"]
    assert "nvrx failed 1 time(s): ... hung" in more.show()


def test_the_peers_train_a_model_of_the_same_tensors() -> None:
    config = LlamaConfig(
        name="x",
        hidden_size=llama.HIDDEN,
        intermediate_size=llama.INTERMEDIATE,
        num_layers=llama.LAYERS,
        num_heads=llama.HEADS,
        num_kv_heads=llama.KV_HEADS,
    )
    ours = Llama(config, vocabulary_size=llama.VOCABULARY, max_length=llama.LENGTH)
    shapes = {name: tensor.shape for name, tensor in ours.named_parameters()}
    assert shapes == {name: p.shape for name, p in llama.Llama().named_parameters()}


def test_a_side_whose_interpreter_is_missing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["--sides", "nvrx", "--turns", "1"])
    assert "['nvrx']: found no interpreter; give --torchft and --nvrx" in capsys.readouterr().err
