"""Credentials do not leave with a run's facts; everything else does."""

import pytest

from keepstep.trainer.telemetry.scrub import HIDDEN, scrub, scrub_word, scrubbed


@pytest.mark.parametrize(
    "key", ["api_key", "wandb.api_key", "HF_TOKEN", "password", "aws_secret_access_key", "x.auth"]
)
def test_what_a_key_calls_a_secret_is_hidden(key: str) -> None:
    assert scrub("hunter2", key) == HIDDEN
    assert scrub_word(f"+model.config.{key}=hunter2") == f"+model.config.{key}={HIDDEN}"


@pytest.mark.parametrize(
    "key", ["train.batch_tokens", "data.tokenizer", "train.sample_tokens", "num_heads", "author"]
)
def test_what_only_sounds_like_one_stays(key: str) -> None:
    assert scrubbed({key: "1"}) == {key: "1"}


def test_urls_lose_user_password_and_query() -> None:
    found = scrub("read s3://key:pass@host/a/b?X-Amz-Signature=1 and file:///tmp/x")
    assert found == "read s3://host/a/b?*** and file:///tmp/x"
    assert scrub("sqlite:////tmp/a@b.db") == "sqlite:////tmp/a@b.db"


def test_nested_values_are_looked_into() -> None:
    assert scrub({"a": [{"token": "x"}], "b": None}) == {"a": [{"token": HIDDEN}], "b": None}
