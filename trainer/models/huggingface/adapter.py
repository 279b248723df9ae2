"""A causal language model of transformers behind the interface of keepstep's own models.

Owns no arithmetic but the head's. Parameters have transformers' names. Shapes: B batch, T
positions, D width, V vocabulary.
"""

from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn

from ....parallel import Head
from .architecture import Architecture
from .survey import Survey


@final
class HuggingFace(nn.Module):
    """Token ids (B, T), int64 -> logits (B, T, V), or with targets their summed cross entropy.

    Args:
        architecture: what is built, on the device of the context.
        survey: what is known of it.
        chunk_tokens: as of `Head`.
    """

    def __init__(
        self, architecture: Architecture, survey: Survey, *, chunk_tokens: int = 1024
    ) -> None:
        super().__init__()
        model = architecture.build()
        self.names = survey.names
        body, linear = model.base_model, model.get_output_embeddings()
        self.add_module(self.names.body, body)
        with torch.device("meta"):  # the weight is the model's
            head = Head(linear.in_features, linear.out_features, chunk_tokens=chunk_tokens)
        head.weight = model.get_input_embeddings().weight if survey.is_tied else linear.weight
        self.add_module(self.names.head, head)
        for owner in body.modules():
            if any(True for _ in owner.buffers(recurse=False)):
                owner.rebuild_buffers = partial(_rebuild, body, owner)

    def forward(
        self,
        tokens_BT: Tensor,
        targets_BT: Tensor | None = None,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
    ) -> Tensor:
        """Logits, or with targets (-100 counts for nothing) their cross entropy, summed, fp32.

        Args:
            positions_BT: of the tokens in their sequence, (B, T) or (1, T); None counts from 0.
            documents_BT: ids; a token attends to those of its own document only.
        """
        x_BTD = self.get_submodule(self.names.embedding)(tokens_BT)
        if positions_BT is None:
            positions_BT = torch.arange(tokens_BT.shape[1], device=x_BTD.device).unsqueeze(0)
        if self.names.table is not None and not isinstance(
            self.get_submodule(self.names.table), nn.Embedding
        ):
            # Another pipeline stage has the table of positions and has added its rows; what stands
            # here hands on what it is given, and it is given nothing to add.
            positions_BT = x_BTD.new_zeros(1, 1, 1)
        output = self.get_submodule(self.names.body)(
            inputs_embeds=x_BTD,
            position_ids=positions_BT,
            use_cache=False,
            documents_BT=documents_BT,
        )
        head, x_BTD = self.get_submodule(self.names.head), output.last_hidden_state
        if not isinstance(head, Head) and x_BTD._is_view():
            x_BTD = x_BTD.clone()  # FSDP hangs a hook on what a stage gives, which must be no view
        answer: Tensor = head(x_BTD, targets_BT)
        return answer


def _rebuild(body: Any, owner: nn.Module) -> None:
    """Has transformers compute the module's buffers anew, and leave its parameters alone."""
    for parameter in owner.parameters(recurse=False):
        parameter._is_hf_initialized = True  # type: ignore[attr-defined]
    body._init_weights(owner)
