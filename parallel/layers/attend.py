"""The attention of a model as a module of its own, so that it can be made to cross ranks."""

from collections.abc import Callable
from typing import final

from torch import Tensor, nn

from .attention import local_attention


@final
class Attend(nn.Module):
    """Scaled dot-product attention of (B, H, T, F) queries with (B, K, T, F) keys and values.

    H is a multiple of K. `core` is what computes it: on one rank until the layout replaces it.
    """

    core: Callable[..., Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.core = local_attention

    def forward(
        self,
        q_BHTF: Tensor,
        k_BKTF: Tensor,
        v_BKTF: Tensor,
        *,
        documents_BT: Tensor | None = None,
        is_causal: bool = True,
        scale: float | None = None,
    ) -> Tensor:
        """Returns (B, H, T, F).

        Args:
            documents_BT: ids of documents; a position attends to those of equal id only.
            scale: of the scores; None is 1 / sqrt(F).
        """
        return self.core(
            q_BHTF, k_BKTF, v_BKTF, documents=documents_BT, is_causal=is_causal, scale=scale
        )
