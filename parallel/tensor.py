"""Tensor and sequence parallelism: a plan's styles become torch's DTensor styles on a mesh.

Between the cut modules activations are plain tensors: whole, or with sequence parallelism this
rank's part of dim 1. Every parameter becomes a DTensor on the tensor mesh, so that norms, layouts
and optimizers see one kind. Source of the styles: Megatron-LM (arXiv 1909.08053, 2205.05198).
"""

from fnmatch import fnmatchcase
from typing import Any, final

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import (
    DTensor,
    Partial,
    Placement,
    Replicate,
    Shard,
)
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    parallelize_module,
)

from .config import ParallelConfig
from .layers.experts import Experts
from .layers.head import Head
from .parts import gathered, sum_parts
from .pipeline.cut import Absent
from .plan import Plan, Style
from .swap import see_local

Placements = tuple[Any, ...]


def apply_tensor(module: nn.Module, plan: Plan, mesh: DeviceMesh, *, sequence: bool) -> None:
    """Cuts the modules that the plan names over the mesh, in place; nothing is communicated.

    Args:
        sequence: whether activations between the cut modules are cut along dim 1; their length
            must be a multiple of the mesh's size.

    Raises:
        ValueError: the plan has no styles, or a module cannot have the style it is given.
    """
    check_styles(plan, type(module).__name__)
    styles = styles_of(module, plan)
    _check_experts(module, styles)
    for name, style in styles.items():
        child = module.get_submodule(name)
        _check(name, child, style, mesh.size())
        if _around(name, styles):
            continue
        if isinstance(child, Head):
            _cut_head(child, mesh, sequence=sequence)
        elif style is Style.partial:
            inside = {n[len(name) + 1 :]: s for n, s in styles.items() if n.startswith(f"{name}.")}
            sum_parts(child, inside, mesh, between=Shard(1) if sequence else Replicate())
        elif style is Style.heads or (style is Style.sequence and sequence):
            for inner in child.modules():
                _replicate(inner, mesh, gradient=Partial())
        elif style not in (Style.sequence, Style.replicate):
            made = _torch_style(style, sequence=sequence)
            parallelize_module(child, mesh, made, src_data_rank=None)
    for child in module.modules():
        _replicate(child, mesh, gradient=Replicate())


def check_styles(plan: Plan, model: str) -> None:
    """Refuses a plan without styles; `model` is how the sentence calls the model."""
    if not plan.tensor:
        raise ValueError(
            f"parallel.tensor: found {model}, whose plan has no tensor styles, needed to know "
            "which of its matrices are cut along rows and which along columns; give "
            "Plan(tensor=...) or set parallel.tensor=1"
        )


def styles_of(module: nn.Module, plan: Plan) -> dict[str, Style]:
    """Style by module name; of modules that another stage has none.

    Raises:
        ValueError: a glob that matches no module.
    """
    children = {name: child for name, child in module.named_modules() if name}
    found: dict[str, Style] = {}
    is_cut = any(isinstance(child, Absent) for child in children.values())
    for glob, style in plan.tensor:
        matched = [name for name in children if fnmatchcase(name, glob)]
        if not matched and not is_cut:
            raise ValueError(
                f"plan.tensor: found no module for {glob!r}, needed at least one; use names such "
                f"as {', '.join(list(children)[:5])}"
            )
        for name in matched:
            if not isinstance(children[name], Absent):
                found.setdefault(name, style)
    return found


def _around(name: str, styles: dict[str, Style]) -> str | None:
    """The module of style partial that `name` lies in, which cuts what is inside itself."""
    partial = (n for n, style in styles.items() if style is Style.partial)
    return next((outer for outer in partial if name.startswith(f"{outer}.")), None)


def _check_experts(module: nn.Module, styles: dict[str, Style]) -> None:
    for name, child in module.named_modules():
        if isinstance(child, Experts) and _around(name, styles) is None:
            raise ValueError(
                f"plan.tensor: found the experts {name} in no module of style {Style.partial}, "
                "needed one that sums their outputs over the ranks; name the module that calls "
                "them, or set parallel.tensor=1"
            )


@final
class Gather(ParallelStyle):
    """Makes a module's first input whole, wherever it stands among the arguments; torch's
    PrepareModuleInput wants to be told of every other one."""

    def __init__(self, layout: Placement) -> None:
        super().__init__()
        self.layout = layout

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        def whole(_: nn.Module, args: Any, arguments: dict[str, Any]) -> Any:
            # Not made local again: the column layers inside take it as it is, and their gradients
            # are summed once, where each would be on its own.
            if args:
                return (self._whole(args[0], device_mesh), *args[1:]), arguments
            name = next(iter(arguments))
            return (), {**arguments, name: self._whole(arguments[name], device_mesh)}

        module.register_forward_pre_hook(whole, with_kwargs=True)
        return module

    def _whole(self, tensor: Tensor, mesh: DeviceMesh) -> DTensor:
        if not isinstance(tensor, DTensor):
            tensor = DTensor.from_local(tensor, mesh, [self.layout], run_check=False)
        return tensor.redistribute(placements=[Replicate()])


def _torch_style(style: Style, *, sequence: bool) -> ParallelStyle:
    between = Shard(1) if sequence else Replicate()
    if style is Style.column:
        return ColwiseParallel()
    if style is Style.row:
        return RowwiseParallel(output_layouts=between)
    if style is Style.vocabulary:
        return RowwiseParallel(input_layouts=Replicate(), output_layouts=between)
    return Gather(between)


def _check(name: str, module: nn.Module, style: Style, size: int) -> None:
    kinds: dict[Style, tuple[type[nn.Module], ...]] = {
        Style.column: (nn.Linear,),
        Style.row: (nn.Linear,),
        Style.vocabulary: (nn.Embedding, Head),
    }
    if style not in kinds:
        return
    if not isinstance(module, kinds[style]):
        needed = " or ".join(kind.__name__ for kind in kinds[style])
        raise ValueError(
            f"plan.tensor: found {name}, a {type(module).__name__}, with style {style}, needed a "
            f"{needed}; leave it out, or set parallel.tensor=1"
        )
    if isinstance(module, nn.Linear) and style is not Style.vocabulary:
        width = module.out_features if style is Style.column else module.in_features
        if width % size:
            raise ValueError(
                f"parallel.tensor: found {size} for {name}, whose {style} style cuts {width} "
                f"features, needed a divisor of {width}; set parallel.tensor="
                f"{max(n for n in range(1, size) if width % n == 0)}"
            )


def _cut_head(head: Head, mesh: DeviceMesh, *, sequence: bool) -> None:
    """Cuts a head along the vocabulary: each rank has some of the logits, the loss is whole."""
    head.cut_over(mesh)
    placed = Shard(1) if sequence else Replicate()

    def whole(_: nn.Module, args: Placements) -> Placements:
        return (gathered(args[0], mesh, placed), *args[1:])

    head.register_forward_pre_hook(whole)
    see_local(head, ["weight"], mesh, [Shard(0)], gradient=[Shard(0)])


def _replicate(module: nn.Module, mesh: DeviceMesh, *, gradient: Placement) -> None:
    """Gives the module's own parameters, where no style has cut them, to every rank in whole.

    Args:
        gradient: Replicate where every rank computes the same from them, so that nothing need be
            communicated; Partial where each one calls the module on other data.
    """
    names = [
        name
        for name, parameter in module.named_parameters(recurse=False)
        if not isinstance(parameter, DTensor)
    ]
    see_local(module, names, mesh, [Replicate()], gradient=[gradient])


def sequence_multiple(config: ParallelConfig) -> int:
    """What the length of a sequence must be a multiple of on these degrees."""
    by_context = 2 * config.context if config.context > 1 else 1
    return by_context * (config.tensor if config.sequence_parallel else 1)
