"""A data setting that cannot work is refused with its key, what was found and what to set."""

import pytest

from keepstep.data import DataConfig, DataFormat


def test_the_named_corpora_need_no_path() -> None:
    assert DataConfig(name="shakespeare").path is None
    assert DataConfig(name="stdlib").format is DataFormat.auto


def test_an_unknown_corpus_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match=r"data.name: found 'shakespear'.*set data.name=shakespea"):
        DataConfig(name="shakespear")


def test_any_name_goes_with_a_path_of_ones_own() -> None:
    assert DataConfig(name="letters", path="/letters").name == "letters"


@pytest.mark.parametrize(
    ("key", "value", "least"),
    [
        ("sequence_length", 0, 1),
        ("vocabulary_size", 256, 257),
        ("prefetch_batches", 0, 1),
        ("lanes", 0, 1),
        ("block", -1, 0),
        ("window", 0, 1),
        ("seed", -1, 0),
    ],
)
def test_a_number_too_small_is_refused(key: str, value: int, least: int) -> None:
    with pytest.raises(ValueError, match=f"data.{key}: found {value}, needed {least} or more"):
        DataConfig(name="stdlib", **{key: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_an_eval_fraction_must_lie_between_nothing_and_all(fraction: float) -> None:
    with pytest.raises(ValueError, match=f"data.eval_fraction: found {fraction}"):
        DataConfig(name="stdlib", eval_fraction=fraction)


def test_a_type_that_token_ids_cannot_have_is_refused() -> None:
    with pytest.raises(ValueError, match=r"data.token_dtype: found 'float32', needed one of uint8"):
        DataConfig(name="stdlib", token_dtype="float32")
