"""Config -> optimizer: who decays, whose steps are whose, and which kernels they take."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from ...parallel import canonical_name
from .adamw import AdamWRule
from .config import (
    AdamWConfig,
    Implementation,
    LionConfig,
    MuonConfig,
    OptimConfig,
    SGDConfig,
    StateDtype,
)
from .elementwise import Elementwise, Keeping, Named
from .lion import LionRule
from .muon import Muon, MuonSettings
from .rule import Rule
from .sgd import SGDRule
from .sharded import ShardedAdamW

_FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")  # where torch.optim has fused kernels
_DTYPES = {StateDtype.fp32: torch.float32, StateDtype.bf16: torch.bfloat16}


def build_optimizer(
    config: OptimConfig, module: nn.Module, *, seed: int = 0, exact: bool = False
) -> torch.optim.Optimizer:
    """The configured optimizer over the parameters of a module that want a gradient. Weight decay
    is on matrices only (two or more dims). Groups keep the same peak rate unless Muon is told
    otherwise.

    Where parameters or moments are bfloat16 they are written by stochastic rounding. AdamW's
    kernels are torch's own unless something is rounded or exact.

    Args:
        module: sharded already; its parameters' names decide what Muon takes.
        seed: of the lots that round.
        exact: whether the bits of a step may not show where a shard begins and ends. Those of
            torch's fused AdamW do on a CPU: the last elements of a shard take another path.

    Raises:
        ValueError: a config that has no optimizer here, or a setting that the parameters forbid.
    """
    named = [(canonical_name(n), p) for n, p in module.named_parameters() if p.requires_grad]
    match config:
        case AdamWConfig():
            betas = (config.beta1, config.beta2)
            rule = AdamWRule(beta1=config.beta1, beta2=config.beta2, eps=config.eps)
            if exact:
                _check_exact(config)
            if _is_rounded(config, named) or exact:
                return _elementwise(config, rule, named, seed)
            return ShardedAdamW(
                _plain_groups(config, named),
                lr=config.lr,
                betas=betas,
                eps=config.eps,
                **_kernels(config, named),
            )
        case SGDConfig():
            descent = SGDRule(momentum=config.momentum, nesterov=config.nesterov)
            return _elementwise(config, descent, named, seed)
        case LionConfig():
            lion = LionRule(beta1=config.beta1, beta2=config.beta2)
            return _elementwise(config, lion, named, seed)
        case MuonConfig():
            return _muon(config, named, seed)
    raise ValueError(
        f"optim: found {type(config).__name__}, needed adamw, lion, muon or sgd; choose one with "
        "optim=NAME"
    )


def _is_rounded(config: OptimConfig, named: Sequence[Named]) -> bool:
    """Whether something is kept in bfloat16."""
    dtypes = {p.dtype for _, p in named} | {_DTYPES[config.state_dtype]}
    if odd := dtypes - {torch.float32, torch.bfloat16}:
        raise ValueError(
            f"optim={config.name}: found parameters in {odd.pop()}, needed float32 or bfloat16; "
            "choose another precision"
        )
    if torch.bfloat16 not in dtypes:
        return False
    if config.implementation is Implementation.fused:
        raise ValueError(
            "optim.implementation: found 'fused' for parameters or moments in bfloat16, needed "
            "auto, foreach or loop, since torch's fused step rounds to nearest; set "
            "optim.implementation=auto"
        )
    return True


def _check_exact(config: OptimConfig) -> None:
    if config.implementation is Implementation.fused:
        raise ValueError(
            "optim.implementation: found 'fused' with parallel.exact=true, needed auto, foreach or "
            "loop, since the bits of torch's fused step show where a shard ends; set "
            "optim.implementation=auto"
        )


def _groups(config: OptimConfig, named: Sequence[Named]) -> list[dict[str, Any]]:
    """Matrices, which decay, and vectors, which do not; none that is empty."""
    groups = [
        {"params": [(n, p) for n, p in named if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [(n, p) for n, p in named if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _plain_groups(config: OptimConfig, named: Sequence[Named]) -> list[dict[str, Any]]:
    """The same without names, which torch would keep beside the parameters."""
    groups = _groups(config, named)
    return [{**group, "params": [p for _, p in group["params"]]} for group in groups]


def _kernels(config: OptimConfig, named: Sequence[Named]) -> dict[str, bool]:
    chosen = config.implementation
    if chosen is Implementation.auto:
        has_fused = all(parameter.device.type in _FUSED_DEVICES for _, parameter in named)
        chosen = Implementation.fused if has_fused else Implementation.foreach
    return {
        "fused": chosen is Implementation.fused,
        "foreach": chosen is Implementation.foreach,
    }


def _keeping(config: OptimConfig, seed: int) -> Keeping:
    return Keeping(
        dtype=_DTYPES[config.state_dtype],
        seed=seed,
        is_foreach=config.implementation is not Implementation.loop,
    )


def _elementwise(
    config: OptimConfig, rule: Rule, named: Sequence[Named], seed: int
) -> torch.optim.Optimizer:
    _is_rounded(config, named)  # refuses other dtypes
    return Elementwise(_groups(config, named), rule, _keeping(config, seed), lr=config.lr)


def _muon(config: MuonConfig, named: Sequence[Named], seed: int) -> Muon:
    _is_rounded(config, named)
    hidden = [(n, p) for n, p in named if _is_hidden(n, p, config.exclude)]
    taken = {name for name, _ in hidden}
    rest = _groups(config, [(n, p) for n, p in named if n not in taken])
    groups = [{"params": hidden, "weight_decay": config.weight_decay, "is_hidden": True}]
    groups += [{**group, "lr": config.lr * config.adamw_ratio} for group in rest]
    return Muon(
        [group for group in groups if group["params"]],
        MuonSettings(
            momentum=config.momentum,
            nesterov=config.nesterov,
            iterations=config.iterations,
            dtype=_DTYPES[config.iteration_dtype],
            scale=config.scale,
        ),
        AdamWRule(beta1=config.beta1, beta2=config.beta2, eps=config.eps),
        _keeping(config, seed),
        lr=config.lr,
    )


def _is_hidden(name: str, parameter: nn.Parameter, exclude: Sequence[str]) -> bool:
    return parameter.ndim >= 2 and not any(fnmatchcase(name, glob) for glob in exclude)
