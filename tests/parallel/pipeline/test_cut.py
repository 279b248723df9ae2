"""Which stage has what: shares of equal cost, ranks of stages, and plans that cannot be cut."""

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.decoder import Decoder, decoder_plan
from torch import nn

from keepstep.parallel import Cut, ParallelConfig, Plan, fewest_microbatches
from keepstep.parallel.pipeline.cut import Absent, balance, borrowed, cut_stage, stage_ranks

costs = st.lists(st.integers(0, 9), min_size=1, max_size=8)


@given(costs, st.integers(1, 8), st.integers(0, 20), st.integers(0, 20))
def test_shares_are_contiguous_and_the_largest_is_as_small_as_can_be(
    given_costs: list[int], parts: int, before: int, after: int
) -> None:
    count = len(given_costs)
    parts = min(parts, count)

    def largest(cuts: tuple[int, ...]) -> int:
        edges = [0, *cuts, count]
        sums = [sum(given_costs[a:b]) for a, b in itertools.pairwise(edges)]
        sums[0] += before
        sums[-1] += after
        return max(sums)

    shares = balance(given_costs, parts, before=before, after=after)
    assert [at for share in shares for at in share] == list(range(count))
    assert all(shares)
    best = min(map(largest, itertools.combinations(range(1, count), parts - 1)))
    assert largest(tuple(share.start for share in shares[1:])) == best


def test_a_heavy_head_has_fewer_blocks_before_it() -> None:
    assert balance([1.0] * 8, 2, after=4.0) == [range(6), range(6, 8)]


def test_stages_follow_the_kind_of_schedule() -> None:
    assert stage_ranks("1F1B", 3, 0) == [0, 1, 2]
    assert stage_ranks("LoopedBFS", 2, 3) == [0, 1, 0, 1, 0, 1]
    assert stage_ranks("ZBVZeroBubble", 3, 0) == [0, 1, 2, 2, 1, 0]


@pytest.mark.parametrize(
    ("schedule", "found", "needed"),
    [("GPipe", 2, "1"), ("Interleaved1F1B", 1, "2 or more"), ("DualPipeV", 3, "2")],
)
def test_stages_that_a_schedule_cannot_have_are_refused(
    schedule: str, found: int, needed: str
) -> None:
    with pytest.raises(ValueError, match=f"found {found}, needed {needed} for .*={schedule}; set"):
        stage_ranks(schedule, 2, found)


def test_a_csv_says_where_its_stages_are(tmp_path: Path) -> None:
    path = tmp_path / "plan.csv"
    path.write_text("0F0,3F0,3B0,0B0\n1F0,2F0,2B0,1B0\n")
    assert stage_ranks(str(path), 2, 0) == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0F0,0B0\n", "found 1 rows, needed one for each of the parallel.pipeline=2 ranks"),
        ("0F0\n0B0\n", "found '0B0' in row 1, needed actions such as 3F0"),
        ("0F0\n2F0\n", r"found the stages \[0, 2\], needed all from 0 on"),
        ("0F0\nx\n", "found 'x' in row 1"),
    ],
)
def test_a_csv_that_is_no_schedule_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "plan.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        stage_ranks(str(path), 2, 0)


def test_a_csv_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"parallel\.schedule=none\.csv: No such file"):
        stage_ranks("none.csv", 2, 0)


def test_schedules_say_how_many_micro_batches_they_need() -> None:
    assert fewest_microbatches(ParallelConfig(schedule="1F1B"), 4) == 4
    assert fewest_microbatches(ParallelConfig(schedule="DualPipeV"), 2) == 4
    assert fewest_microbatches(ParallelConfig(schedule="LoopedBFS"), 2) == 2


def present(stage: int, stages: int, plan: Plan) -> list[str]:
    with torch.device("meta"):
        module = Decoder()
    cut_stage(module, plan, stage=stage, num_stages=stages)
    owners = (name.rpartition(".")[0] for name, _ in module.named_parameters())
    return sorted({owner for owner in owners if "attention" not in owner})


def test_every_parameter_is_in_exactly_one_stage() -> None:
    plan = decoder_plan()
    stages = [present(stage, 3, plan) for stage in range(3)]
    assert stages[0][-1] == "embed"
    assert {"head", "norm"} <= set(stages[2])
    whole = present(0, 1, decoder_plan())
    assert sorted(itertools.chain(*stages)) == whole


def test_a_module_of_another_stage_hands_its_first_argument_on() -> None:
    assert Absent()("hidden", 1, mask=None) == "hidden"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cut": None}, "found Decoder, whose plan has no cut"),
        ({"cut": Cut(blocks="layers.*")}, r"plan\.cut\.blocks: found no module for 'layers\.\*'"),
        ({"cut": Cut(blocks="blocks.*", first=("emb",))}, r"plan\.cut: found no module for 'emb'"),
        (
            {"cut": Cut(blocks="blocks.*", first=("embed",), last=("head",))},
            "found the parameters of norm in no stage",
        ),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(changes: dict[str, object], words: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=words):
        cut_stage(Decoder(), decoder_plan(**changes), stage=0, num_stages=2)


def test_more_stages_than_blocks_are_refused() -> None:
    words = "found 5 stages for 4 blocks, .*take 4 stages or fewer"
    with torch.device("meta"), pytest.raises(ValueError, match=words):
        cut_stage(Decoder(), decoder_plan(), stage=0, num_stages=5)


def test_what_the_last_stage_borrows_is_what_its_owner_is_absent_of() -> None:
    plan = decoder_plan(tied=(("head.weight", "embed.weight"),))
    first, last, whole = Decoder(), Decoder(), Decoder()
    for stage, module in enumerate((first, last)):
        cut_stage(module, plan, stage=stage, num_stages=2)
    assert [borrowed(module, plan) for module in (first, last, whole)] == [
        {},
        {"head.weight": "embed.weight"},
        {},
    ]
    assert isinstance(first.head, Absent)
    assert isinstance(nn.Module.get_submodule(last, "embed"), Absent)
