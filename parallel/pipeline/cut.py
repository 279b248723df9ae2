"""Where a model is cut into pipeline stages, and the cutting itself. Owns no communication."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, final

from torch import nn

from ..config import ParallelConfig
from ..names import canonical_name
from ..plan import Cut, Plan

LOOPED = ("Interleaved1F1B", "LoopedBFS", "InterleavedZeroBubble")
V_SHAPED = ("ZBVZeroBubble", "DualPipeV")


@final
class Absent(nn.Module):
    """Stands where another stage has a module: hands its first argument on, whatever else it is
    given, so that a model's forward need not know that it was cut."""

    def forward(self, first: Any, *_: Any, **__: Any) -> Any:
        return first


def stage_ranks(schedule: str, ranks: int, stages_per_rank: int) -> list[int]:
    """Which rank of the pipeline has each stage, in the order of stages; a CSV says it itself.

    Single-stage schedules have one stage a rank. Looped ones give stage i to rank i modulo the
    ranks. V-shaped ones fold: the first rank has the first stage and the last.

    Raises:
        ValueError: `stages_per_rank` is none that the schedule can have.
    """
    if schedule.endswith(".csv"):
        return _csv_ranks(schedule, ranks)
    if schedule in V_SHAPED:
        _check_stages(schedule, stages_per_rank, stages_per_rank in (0, 2), "2")
        return [*range(ranks), *reversed(range(ranks))]
    if schedule in LOOPED:
        _check_stages(schedule, stages_per_rank, stages_per_rank != 1, "2 or more")
        return list(range(ranks)) * (stages_per_rank or 2)
    _check_stages(schedule, stages_per_rank, stages_per_rank in (0, 1), "1")
    return list(range(ranks))


def fewest_microbatches(config: ParallelConfig, ranks: int) -> int:
    """How many micro-batches a schedule needs at least.

    Raises:
        ValueError: the schedule cannot have that many stages a rank, or its file is none.
    """
    stages = len(stage_ranks(config.schedule, ranks, config.stages_per_rank))
    if config.schedule.endswith(".csv"):
        return 1
    return stages if config.schedule in ("1F1B", "DualPipeV") else ranks


def _check_stages(schedule: str, found: int, holds: bool, needed: str) -> None:
    if not holds:
        raise ValueError(
            f"parallel.stages_per_rank: found {found}, needed {needed} for parallel.schedule="
            f"{schedule}; set parallel.stages_per_rank=0 to take what the schedule has"
        )


def _csv_ranks(path: str, ranks: int) -> list[int]:
    """Reads the stages of each row: an entry such as 3F0 is micro-batch 0's forward on stage 3."""
    try:
        with open(path, encoding="utf-8") as file:
            rows = [line.strip().split(",") for line in file if line.strip()]
    except OSError as error:
        raise ValueError(
            f"parallel.schedule={path}: {error.strerror}, needed a CSV file with a row of actions "
            "a rank; correct the path"
        ) from error
    if len(rows) != ranks:
        raise ValueError(
            f"parallel.schedule={path}: found {len(rows)} rows, needed one for each of the "
            f"parallel.pipeline={ranks} ranks; set parallel.pipeline={len(rows)}"
        )
    owners: dict[int, int] = {}
    for rank, row in enumerate(rows):
        for action in filter(None, map(str.strip, row)):
            digits = action[: len(action) - len(action.lstrip("0123456789"))]
            if not digits or owners.setdefault(int(digits), rank) != rank:
                raise ValueError(
                    f"parallel.schedule={path}: found {action!r} in row {rank}, needed actions "
                    "such as 3F0 (stage, action, micro-batch), each stage in one row; correct it"
                )
    if sorted(owners) != list(range(len(owners))):
        raise ValueError(
            f"parallel.schedule={path}: found the stages {sorted(owners)}, needed all from 0 on; "
            "correct the file"
        )
    return [owners[stage] for stage in sorted(owners)]


def block_names(module: nn.Module, cut: Cut) -> list[str]:
    """Names of the blocks in the order in which they compute.

    Raises:
        ValueError: the glob matches nothing.
    """
    names = [name for name, _ in module.named_modules() if fnmatchcase(name, cut.blocks)]
    blocks = [name for name in names if not any(name.startswith(f"{o}.") for o in names)]
    if not blocks:
        raise ValueError(
            f"plan.cut.blocks: found no module for {cut.blocks!r}, needed at least one; use names "
            f"such as {', '.join(name for name, _ in list(module.named_modules())[1:6])}"
        )
    return blocks


def cut_stage(module: nn.Module, plan: Plan, *, stage: int, num_stages: int) -> None:
    """Takes out of `module` what the other stages have; names stay as they are.

    Raises:
        ValueError: the plan does not say how, a glob matches nothing, or there are fewer blocks
            than stages.
    """
    cut = check_cut(plan, type(module).__name__)
    blocks = block_names(module, cut)
    if len(blocks) < num_stages:
        raise ValueError(
            f"parallel.pipeline: found {num_stages} stages for {len(blocks)} blocks, needed a "
            f"block for each; take {len(blocks)} stages or fewer (parallel.pipeline x "
            "parallel.stages_per_rank)"
        )
    first, last = (_matching(module, globs) for globs in (cut.first, cut.last))
    _check_all_placed(module, [*first, *blocks, *last])
    shares = balance(
        [_cost(module.get_submodule(name)) for name in blocks],
        num_stages,
        before=sum(_cost(module.get_submodule(name)) for name in first),
        after=sum(_cost(module.get_submodule(name)) for name in last),
    )
    gone = [name for at, name in enumerate(blocks) if at not in shares[stage]]
    gone += first if stage > 0 else []
    gone += last if stage < num_stages - 1 else []
    for name in gone:
        parent, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(parent), leaf, Absent())


def balance(
    costs: Sequence[float], parts: int, *, before: float = 0.0, after: float = 0.0
) -> list[range]:
    """Contiguous shares of the costs, at least one each, with the smallest possible maximum; the
    first share bears `before` too, the last one `after`. Exact, by dynamic programming."""
    count = len(costs)
    sums = [0.0]
    for cost in costs:
        sums.append(sums[-1] + cost)

    def cost_of(start: int, stop: int) -> float:
        return sums[stop] - sums[start] + before * (start == 0) + after * (stop == count)

    # best[stop] = (largest share, start of the last share) with the shares so far
    best = [[(cost_of(0, stop), 0) for stop in range(count + 1)]]
    for part in range(1, parts):
        row = [(float("inf"), 0)] * (count + 1)
        for stop in range(part + 1, count + 1):
            row[stop] = min(
                (max(best[-1][start][0], cost_of(start, stop)), -start)
                for start in range(part, stop)
            )
            row[stop] = (row[stop][0], -row[stop][1])
        best.append(row)
    shares, stop = [], count
    for row in reversed(best):
        start = row[stop][1]
        shares.append(range(start, stop))
        stop = start
    return shares[::-1]


def borrowed(module: nn.Module, plan: Plan) -> dict[str, str]:
    """Tied parameters of one stage whose owner another stage has: canonical name -> owner's."""
    present = {canonical_name(name) for name, _ in module.named_parameters(remove_duplicate=False)}
    return {name: owner for name, owner in plan.tied if name in present and owner not in present}


def check_cut(plan: Plan, model: str) -> Cut:
    """The plan's cut; refuses a plan without; `model` is how the sentence calls the model."""
    if plan.cut is None:
        raise ValueError(
            f"parallel.pipeline: found {model}, whose plan has no cut, needed to know its first "
            "modules, its blocks and its last ones; give Plan(cut=Cut(...)) or set "
            "parallel.pipeline=1"
        )
    return plan.cut


def _matching(module: nn.Module, globs: Sequence[str]) -> list[str]:
    names = [name for name, _ in module.named_modules() if name]
    found: list[str] = []
    for glob in globs:
        matched = [name for name in names if fnmatchcase(name, glob)]
        if not matched:
            raise ValueError(
                f"plan.cut: found no module for {glob!r}, needed at least one; use names such as "
                f"{', '.join(names[:5])}"
            )
        found += [name for name in matched if not any(name.startswith(f"{m}.") for m in found)]
    return found


def _check_all_placed(module: nn.Module, placed: Sequence[str]) -> None:
    for name in _parameter_owners(module):
        if not any(name == owner or name.startswith(f"{owner}.") for owner in placed):
            raise ValueError(
                f"plan.cut: found the parameters of {name or 'the root module'} in no stage, "
                "needed each in the first modules, the blocks or the last ones; add a glob to "
                "plan.cut.first or plan.cut.last"
            )


def _parameter_owners(module: nn.Module) -> Iterator[str]:
    for name, child in module.named_modules():
        if any(True for _ in child.parameters(recurse=False)):
            yield name


def _cost(module: nn.Module) -> float:
    """Multiplications a token, nearly: the elements of matrices; a look-up costs nothing."""
    return float(
        sum(
            parameter.numel()
            for child in module.modules()
            if not isinstance(child, nn.Embedding)
            for parameter in child.parameters(recurse=False)
            if parameter.dim() > 1
        )
    )
