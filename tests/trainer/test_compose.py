"""A command line becomes one configuration or one sentence; sweeps call the job once each."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepstep.trainer import ConfigError, RunConfig
from keepstep.trainer.compose import compose, run_hydra
from keepstep.trainer.config import HuggingFaceConfig, WSDConfig
from keepstep.trainer.recovery.config import FaultKind


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        compose(overrides)
    words = str(caught.value)
    assert "\n" not in words
    assert words
    return words


def test_overrides_reach_their_keys() -> None:
    config = compose(["train.steps=7", "schedule=wsd", "schedule.decay_fraction=0.5"])
    assert config.train.steps == 7
    assert isinstance(config.schedule, WSDConfig)
    assert config.schedule.decay_fraction == 0.5


def test_a_plan_of_faults_is_read_from_the_command_line() -> None:
    (fault,) = compose(["chaos.plan=[{do:kill,rank:1,step:12}]"]).chaos.plan
    assert (fault.do, fault.rank, fault.step) == (FaultKind.kill, 1, 12)


def test_composing_twice_gives_equal_and_separate_configurations() -> None:
    first, second = compose(["train.steps=3"]), compose(["train.steps=3"])
    assert first == second
    first.train.steps = 4
    assert second.train.steps == 3


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(st.integers(1, 10**12), st.floats(1e-9, 1e3))
def test_numbers_come_through_exactly(steps: int, lr: float) -> None:
    config = compose([f"train.steps={steps}", f"optim.lr={lr!r}"])
    assert (config.train.steps, config.optim.lr) == (steps, lr)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("train.stps=5", ("train.stps", "no such key", "did you mean train.steps?")),
        ("modl=llama_tiny", ("modl", "no such key", "did you mean model?")),
        ("+train.foo=5", ("foo", "no such key", "keepstep train --cfg job")),
        ("+foo=5", ("foo", "no such key", "keepstep train --cfg job")),
        ("train.steps=abc", ("train.steps", "'abc'", "Integer")),
        ("train.steps=null", ("train.steps", "not Optional")),
        ("train.steps=1.5", ("train.steps", "'1.5'", "Integer")),
        ("data.format=jsn", ("data.format", "'jsn'", "[auto, text, jsonl, parquet, arrow,")),
        ("run.on_change=ok", ("run.on_change", "'ok'", "[refuse, accept]")),
        ("model=llama_tiy", ("model", "'llama_tiy'", "llama_8b", "did you mean llama_tiny?")),
        ("optim=lyon", ("optim", "'lyon'", "needed one of adamw, lion", "did you mean lion?")),
        ("optim.nesterov=true", ("optim.nesterov", "a key that the chosen optim has not")),
        ("schedule=step", ("schedule", "'step'", "constant, cosine", "set schedule=constant")),
        ("chaos.plan=[{do:kill,rank:1}]", ("chaos.plan", "either a step or a rate")),
        ("chaos.plan=[{do:kil,rank:1,step:2}]", ("do", "'kil'", "[fail, hang, kill, corrupt")),
        ("train=5", ("train", "int", "TrainConfig")),
        ("~train.steps", ("train.steps", "deletion")),
        ("train.steps", ("train.steps", "missing EQUAL")),
    ],
)
def test_what_hydra_refuses_is_said_in_one_sentence(override: str, parts: tuple[str, ...]) -> None:
    words = refusal(override)
    assert all(part in words for part in parts), words


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "optim.lr=-1",
            "optim.lr: found -1.0, needed a finite number above 0; set for example 3e-4",
        ),
        ("train.steps=0", "train.steps: found 0, needed 1 or more; set a positive number"),
        (
            "model.num_heads=3",
            "model.hidden_size: found 128, needed a multiple of 2 x model.num_heads (6); "
            "change one of the two",
        ),
        (
            "data.name=foo",
            "data.name: found 'foo', needed one of shakespeare, stdlib or a data.path of your "
            "own; set data.name=shakespeare or data.path=FOLDER",
        ),
        (
            "parallel.tensor=0",
            "parallel.tensor: found 0, needed 1 or more; set parallel.tensor=1",
        ),
    ],
)
def test_a_field_that_refuses_its_value_speaks_for_itself(override: str, sentence: str) -> None:
    assert refusal(override) == sentence


def test_a_key_of_another_schedule_is_not_advised_again() -> None:
    words = refusal("schedule.decay_fraction=0.3")
    assert words.startswith("schedule.decay_fraction: found a key that the chosen schedule has not")
    assert "choose the schedule that has it" in words


# Hydra's own entry


class Jobs:
    """Takes what it is called with and answers the codes it was given, then 0."""

    def __init__(self, *codes: int) -> None:
        self.codes = list(codes)
        self.calls: list[tuple[int | None, float, int]] = []

    def __call__(self, config: RunConfig, number: int | None) -> int:
        self.calls.append((number, config.optim.lr, config.train.seed))
        return self.codes.pop(0) if self.codes else 0


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.chdir(str(tmp_path))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # run_hydra sets it; this puts it back


def test_a_single_run_calls_the_job_once_without_a_number() -> None:
    jobs = Jobs(75)
    assert run_hydra(["optim.lr=0.5", "train.seed=3"], jobs) == 75
    assert jobs.calls == [(None, 0.5, 3)]


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["-m", "--multirun"])
def test_a_sweep_calls_the_job_once_a_combination(
    flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = Jobs(0, 1)
    assert run_hydra([flag, "optim.lr=1e-3,3e-4", "train.seed=0,1"], jobs) == 1
    wanted = [(0, 1e-3, 0), (1, 1e-3, 1), (2, 3e-4, 0), (3, 3e-4, 1)]
    assert jobs.calls == wanted
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "job 0: optim.lr=0.001 train.seed=0"
    assert len(said) == 4


def test_the_flag_of_a_sweep_may_stand_last() -> None:
    jobs = Jobs()
    assert run_hydra(["train.seed=0,1", "-m"], jobs) == 0
    assert [seed for _, _, seed in jobs.calls] == [0, 1]


def test_cfg_job_prints_the_configuration_and_runs_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    jobs = Jobs()
    assert run_hydra(["train.steps=77", "--cfg", "job"], jobs) == 0
    out = capsys.readouterr().out
    assert "steps: 77" in out
    assert "hidden_size: 128" in out
    assert jobs.calls == []


def test_only_the_speaker_prints_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_hydra(["--cfg", "job"], Jobs(), is_speaker=False) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("argv", [["train.stps=1"], ["-m", "train.stps=1,2"], ["optim.lr=-1"]])
def test_a_wrong_key_or_value_runs_no_job(argv: list[str]) -> None:
    jobs = Jobs()
    with pytest.raises(ConfigError) as caught:
        run_hydra(argv, jobs)
    assert jobs.calls == []
    assert "\n" not in str(caught.value)


def test_a_bad_value_in_a_sweep_is_refused_and_the_others_run() -> None:
    jobs = Jobs()
    with pytest.raises(ConfigError, match=r"^optim.lr: found -1.0"):
        run_hydra(["-m", "optim.lr=-1,0.5"], jobs)
    assert jobs.calls == [(1, 0.5, 0)]


def test_what_the_job_refuses_is_raised_as_it_is() -> None:
    def job(config: RunConfig, number: int | None) -> int:
        raise ConfigError("run.dir: found it taken")

    with pytest.raises(ConfigError, match=r"^run.dir: found it taken$"):
        run_hydra([], job)


def test_a_run_and_a_look_at_it_write_no_file(tmp_path: object) -> None:
    run_hydra(["train.steps=5"], Jobs())
    assert os.listdir(str(tmp_path)) == []


def test_a_key_of_experts_beside_a_model_without_them_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        compose(["model.num_experts=4"])
    assert str(caught.value).startswith("model.num_experts: found a key that the chosen model has")


def test_keys_of_another_package_are_taken_with_a_plus_and_told_so_without() -> None:
    chosen = compose(["model=huggingface", "+model.config.hidden_size=8"]).model
    assert isinstance(chosen, HuggingFaceConfig)
    assert chosen.config == {"hidden_size": 8}
    words = refusal("model=huggingface", "model.config.hidden_size=8")
    assert words.startswith("model.config.hidden_size: found a key that model.config has no value")
    assert words.endswith("; write +model.config.hidden_size=VALUE")


def test_when_to_save_and_what_to_keep_are_read_from_the_command_line() -> None:
    found = compose(
        [
            *("checkpoint.every_seconds=auto", "checkpoint.at_steps=[1,10]"),
            *("checkpoint.best_metric=eval_loss", "checkpoint.best_mode=max"),
        ]
    ).checkpoint
    assert (found.every_seconds, found.at_steps) == ("auto", [1, 10])
    assert (found.retention.best, found.retention.mode) == (1, "max")
    seconds = [compose([f"checkpoint.every_seconds={word}"]).checkpoint for word in ("60", "0.5")]
    assert [one.every_seconds for one in seconds] == [60, 0.5]
