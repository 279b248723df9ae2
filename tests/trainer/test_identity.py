"""What makes a run that run, its name, and its folder: one configuration and one job at a time."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from keepstep.trainer import ConfigError, RunConfig
from keepstep.trainer.compose import compose, read_config
from keepstep.trainer.identity import (
    CONFIG_FILE,
    RunFolder,
    checkpoint_folder,
    config_digest,
    identity,
    named,
    run_folder,
    text_label,
)

DECIDING = (
    *("model.hidden_size=64", "model=llama_1b", "data=stdlib", "data.seed=1", "data.path=/texts"),
    *("data.sequence_length=64", "data.lanes=8", "precision=bf16", "optim.lr=1e-4"),
    *("optim=lion", "optim=sgd", "optim=muon", "optim.state_dtype=bf16", "schedule=linear"),
    *("optim.clip_norm=0", "schedule=wsd", "schedule.warmup_steps=5", "train.steps=77"),
    *("train.batch_tokens=1024", "train.microbatch_samples=2", "train.seed=1"),
)
FREE = (
    *("run.name=other", "run.dir=elsewhere", "run.resume=must", "parallel.shard=2"),
    *("parallel.replicate=2", "checkpoint.every_steps=3", "checkpoint.path=/there"),
    *("recovery.enabled=false", "telemetry.progress=false", "chaos.plan=[{do:kill,rank:0,step:1}]"),
    *("train.eval_every=7", "train.eval_samples=3", "train.max_skips=1", "train.sample_tokens=0"),
    *("data.cache.folder=/cache", "data.prefetch_batches=9"),
)


@pytest.fixture(scope="module")
def plain() -> RunConfig:
    return compose()


@pytest.mark.parametrize("override", DECIDING)
def test_what_numbers_depend_on_is_part_of_the_identity(override: str, plain: RunConfig) -> None:
    changed = compose([override])
    assert identity(changed) != identity(plain)
    assert config_digest(changed) != config_digest(plain)
    assert named(changed, "x").run.name != named(plain, "x").run.name


@pytest.mark.parametrize("override", FREE)
def test_where_and_on_what_it_runs_is_not(override: str, plain: RunConfig) -> None:
    changed = compose([override])
    assert identity(changed) == identity(plain)
    assert config_digest(changed) != config_digest(plain)


def test_equal_configurations_have_equal_digests(plain: RunConfig) -> None:
    assert config_digest(compose()) == config_digest(plain)


def test_a_run_is_named_after_its_label_unless_it_has_a_name() -> None:
    name = named(compose(), "mine").run.name
    assert name is not None
    assert name.startswith("mine-")
    assert len(name) == len("mine-") + 8
    assert named(compose(["run.name=own"]), "mine").run.name == "own"


@pytest.mark.parametrize(
    ("override", "label"),
    [
        ("data=stdlib", "llama_tiny-stdlib"),
        ("data.path=/some/texts", "llama_tiny-texts"),
        ("data.path=/some/texts/*", "llama_tiny-texts"),
        ("data.path='s3://bucket/corpus.jsonl'", "llama_tiny-corpus"),
        ("model=llama_1b", "llama_1b-shakespeare"),
    ],
)
def test_the_main_job_is_labelled_with_model_and_text(override: str, label: str) -> None:
    assert text_label(compose([override])) == label


def test_folders_follow_from_the_settings() -> None:
    assert run_folder(compose(["run.name=a"])) == Path("runs/a")
    assert run_folder(compose(["run.name=a", "run.dir=/b"])) == Path("/b")
    assert checkpoint_folder(compose(["run.dir=/b"])) == "/b/checkpoints"
    assert checkpoint_folder(compose(["run.dir=/b", "checkpoint.path=/c"])) == "/c"


# The folder


Configure = Callable[..., RunConfig]


@pytest.fixture
def configure(tmp_path: Path) -> Configure:
    return lambda *overrides: compose([f"run.dir={tmp_path / 'run'}", *overrides])


def begun(config: RunConfig) -> Path:
    """A folder in which a job has trained a step."""
    folder = RunFolder(config)
    folder.open()
    (folder.path / "metrics.jsonl").write_text('{"step": 1}\n')
    folder.close()
    return folder.path


def test_opening_writes_the_resolved_configuration(configure: Configure) -> None:
    folder = RunFolder(configure("train.steps=7"))
    folder.open()
    folder.close()
    text = (folder.path / "config.yaml").read_text()
    assert "steps: 7" in text
    assert "name: llama_tiny" in text
    assert "name: fp32" in text


def test_the_written_configuration_opens_the_folder_again(configure: Configure) -> None:
    path = begun(configure("schedule=wsd", "data.path=/texts", "data.format=jsonl"))
    before = (path / "config.yaml").read_bytes()
    again = RunFolder(configure("schedule=wsd", "data.path=/texts", "data.format=jsonl"))
    again.open()
    again.close()
    assert (path / "config.yaml").read_bytes() == before


def test_a_run_of_another_configuration_is_refused_and_left_as_it_was(
    configure: Configure,
) -> None:
    path = begun(configure())
    before = {file: file.read_bytes() for file in path.iterdir() if file.is_file()}
    with pytest.raises(ConfigError) as caught:
        RunFolder(configure("optim.lr=0.5", "train.seed=3")).open()
    words = str(caught.value)
    assert words.startswith(f"run.dir={path}: found a run of another configuration (")
    assert "optim.lr was 0.003, is 0.5" in words
    assert "train.seed was 0, is 3" in words
    assert words.endswith("set another run.name, or run.on_change=accept to go on with the new one")
    assert {one: one.read_bytes() for one in path.iterdir() if one.is_file()} == before


def test_at_most_three_differences_are_shown(configure: Configure) -> None:
    begun(configure())
    changes = [f"train.{key}=2" for key in ("steps", "seed", "microbatch_samples", "batch_samples")]
    with pytest.raises(ConfigError) as caught:
        RunFolder(configure(*changes)).open()
    assert str(caught.value).count(" was ") == 3
    assert ", ...)" in str(caught.value)


def test_another_configuration_is_taken_where_that_is_asked(configure: Configure) -> None:
    path = begun(configure())
    folder = RunFolder(configure("optim.lr=0.5", "run.on_change=accept"))
    folder.open()
    folder.close()
    assert "lr: 0.5" in (path / "config.yaml").read_text()


def test_a_folder_in_which_nothing_began_takes_any_configuration(configure: Configure) -> None:
    folder = RunFolder(configure())
    folder.open()
    folder.close()
    other = RunFolder(configure("optim.lr=0.5"))
    other.open()
    other.close()
    assert "lr: 0.5" in (other.path / "config.yaml").read_text()


def test_a_refused_folder_is_free_for_the_right_configuration(configure: Configure) -> None:
    begun(configure())
    refused = RunFolder(configure("optim.lr=0.5"))
    with pytest.raises(ConfigError):
        refused.open()
    right = RunFolder(configure())
    right.open()
    right.close()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"needed a folder that can be written; set another"):
        RunFolder(compose([f"run.dir={tmp_path / 'file' / 'run'}"])).open()


def owner(config: RunConfig) -> int:
    """Forks a job that holds the folder until it is killed."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            folder = RunFolder(config)
            folder.open()
            os.write(writing, b"!")
            time.sleep(60)
        finally:
            os._exit(1)
    assert os.read(reading, 1) == b"!"
    os.close(reading)
    os.close(writing)
    return pid


def test_a_second_job_is_refused_until_the_first_is_gone_even_by_kill(
    configure: Configure,
) -> None:
    pid = owner(configure())
    try:
        with pytest.raises(ConfigError, match="found another job training in it, needed it free"):
            RunFolder(configure()).open()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    folder = RunFolder(configure())
    folder.open()
    folder.close()
    folder.close()


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["model=moe_tiny", "optim=muon", "schedule=wsd"],
        ["model=huggingface", "model.architecture=LlamaForCausalLM", "+model.config.hidden_size=8"],
        ["optim=lion", "schedule=constant", "checkpoint.every_seconds=auto", "data.mixture=[]"],
        ["chaos.plan=[{do:kill,rank:0,step:3}]", "data.packing=isolated"],
    ],
)
def test_a_configuration_is_read_back_from_its_folder(tmp_path: Path, words: list[str]) -> None:
    config = compose([*words, f"run.dir={tmp_path}"])
    folder = RunFolder(config)
    folder.open()
    folder.close()
    assert read_config(tmp_path / CONFIG_FILE) == config


def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path) -> None:
    for content in ("a: [", "a: 1", "- 1"):
        (tmp_path / CONFIG_FILE).write_text(content)
        with pytest.raises(ConfigError, match="found no configuration that can be read"):
            read_config(tmp_path / CONFIG_FILE)
