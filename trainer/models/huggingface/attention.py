"""transformers' attention goes through keepstep's `Attend`, which layouts can make cross ranks.

`Attend` makes the causal mask. transformers makes none for a name that it has no masks for, so no
(T, T) tensor exists. Shapes: B batch, H heads, K key-value heads, T positions, F head width.
"""

from typing import Any

from torch import Tensor, nn

from ....parallel import Attend
from ...errors import ConfigError

ATTENTION = "keepstep"


def give_attends(model: nn.Module) -> None:
    """Gives each attention module of the model an `Attend` of its own, named `attend`."""
    for module in list(model.modules()):
        # What transformers asks of an attention module that others can compute.
        if hasattr(module, "is_causal") and "Attention" in type(module).__name__:
            module.attend = Attend()


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    documents_BT: Tensor | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """The attention of one module as transformers calls it: (B, H, T, F) queries with (B, K, T, F)
    keys and values -> (B, T, H, F).

    Raises:
        ConfigError: it is asked for something that `Attend` does not compute.
    """
    for name, found in {"dropout": dropout or None, **others}.items():
        if found is not None and name in _REMEDIES:
            raise ConfigError(
                f"model.config: found {name} {_brief(found)} in the attention of "
                f"{type(module).__name__}, needed none, for keepstep's attention has no {name}; "
                f"{_REMEDIES[name]}"
            )
    if sliding_window is not None and sliding_window < query.shape[2]:
        raise ConfigError(
            f"model.config.sliding_window: found {sliding_window} for sequences of "
            f"{query.shape[2]} tokens, needed windows that see them whole, for keepstep's "
            f"attention has none; set data.sequence_length={sliding_window} or "
            "model.config.sliding_window=null"
        )
    if attention_mask is not None:
        raise ConfigError(
            f"model.architecture: found a mask of {tuple(attention_mask.shape)} from "
            f"{type(module).__name__}, needed plain causal attention; take another architecture"
        )
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    core = module.attend
    assert isinstance(core, Attend)
    mixed: Tensor = core(
        query, key, value, documents_BT=documents_BT, is_causal=causal, scale=scaling
    )
    return mixed.transpose(1, 2).contiguous(), None


# What architectures may ask of attention beside the usual.
_REMEDIES = {
    "dropout": "set model.config.attention_dropout=0.0 (attn_pdrop for GPT-2)",
    "softcap": "set model.config.attn_logit_softcapping=null",
    "s_aux": "take an architecture without sinks",
    "position_bias": "take an architecture without biases of positions",
}


def _brief(value: Any) -> str:
    return f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
