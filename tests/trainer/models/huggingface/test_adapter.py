"""The adapter computes what transformers does, with transformers' names, through `Attend`."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.families import FAMILIES, LENGTH, described, pair
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from keepstep.parallel import Attend, Head


def tokens(rows: int = 3) -> Tensor:
    return torch.randint(0, 50, (rows, LENGTH), generator=torch.Generator().manual_seed(7))


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_loss_are_those_of_transformers(family: str) -> None:
    module, plain = pair(described(family, initializer_range=0.2))
    batch = tokens()
    with torch.no_grad():
        logits = plain.eval()(input_ids=batch).logits
        close(module.eval()(batch), logits)
        targets = batch.roll(-1, 1)
        targets[:, -1] = -100
        wanted = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
        close(module(batch, targets), wanted)


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}, {"attention_bias": True}])
def test_gradients_are_those_of_transformers(changes: dict[str, Any]) -> None:
    module, plain = pair(described("LlamaForCausalLM", initializer_range=0.2, **changes))
    batch = tokens()
    (module(batch[:, :-1], batch[:, 1:]) / batch[:, 1:].numel()).backward()
    plain(input_ids=batch, labels=batch).loss.backward()
    wanted = {name: p.grad for name, p in plain.named_parameters()}
    found = {name: p.grad for name, p in module.named_parameters()}
    assert found.keys() == wanted.keys()
    for name, grad in found.items():
        torch.testing.assert_close(grad, wanted[name], rtol=1e-4, atol=1e-6)


def test_a_token_that_is_padding_teaches_its_row_nothing() -> None:
    module, plain = pair(described("LlamaForCausalLM", pad_token_id=4))
    batch = tokens()
    batch[:, ::3] = 4
    module(batch[:, :-1], batch[:, 1:]).backward()
    plain(input_ids=batch, labels=batch).loss.backward()
    grads = [one.get_parameter("model.embed_tokens.weight").grad for one in (module, plain)]
    assert all(grad is not None and not grad[4].any() and grad[batch[0, 1]].any() for grad in grads)


@pytest.mark.parametrize("family", ["Qwen3ForCausalLM", "GPT2LMHeadModel"])
def test_documents_do_not_see_one_another(family: str) -> None:
    module, _ = pair(described(family, initializer_range=0.2))
    batch, cut = tokens(1), 6
    documents = (torch.arange(LENGTH) >= cut).long().unsqueeze(0)
    positions = torch.cat((torch.arange(cut), torch.arange(LENGTH - cut))).unsqueeze(0)
    with torch.no_grad():
        joined = module.eval()(batch, positions_BT=positions, documents_BT=documents)
        close(joined[:, cut:], module(batch[:, cut:]))
        close(joined[:, :cut], module(batch[:, :cut]))


@pytest.mark.parametrize("family", FAMILIES)
def test_no_tensor_of_all_pairs_of_positions_is_made(family: str) -> None:
    module, _ = pair(described(family))
    for child in module.modules():
        if isinstance(child, Attend):
            child.core = lambda q, k, v, **_: v.repeat_interleave(q.shape[1] // v.shape[1], 1)
    with torch.no_grad(), Shapes() as shapes:
        module(tokens()[:, :15])  # no width is 15
    assert (3, 15, 32) in shapes.seen
    assert not [shape for shape in shapes.seen if shape.count(15) > 1]


class Shapes(TorchDispatchMode):
    """The shapes of all that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if isinstance(output, Tensor):
            self.seen.add(tuple(output.shape))
        return output


def test_each_attention_is_keepsteps_and_the_head_is_a_head() -> None:
    module = described("Gemma3ForCausalLM").build()
    attends = [name for name, child in module.named_modules() if isinstance(child, Attend)]
    assert attends == [f"model.layers.{at}.self_attn.attend" for at in range(2)]
    assert isinstance(module.lm_head, Head)
    assert module.lm_head.weight is module.model.embed_tokens.weight


@pytest.mark.parametrize("family", ["LlamaForCausalLM", "Gemma3ForCausalLM"])
def test_buffers_come_back_after_the_module_was_emptied(family: str, tmp_path: Path) -> None:
    found = described(family)
    wanted = dict(found.build().named_buffers())
    with torch.device("meta"):
        module = found.build()
    module.to_empty(device="cpu")
    for buffer in module.buffers():
        buffer.fill_(torch.nan)
    before = {name: parameter.clone() for name, parameter in module.named_parameters()}
    for child in module.modules():
        if hasattr(child, "rebuild_buffers"):
            child.rebuild_buffers()
    assert wanted
    for name, buffer in module.named_buffers():
        assert torch.equal(buffer, wanted[name]), name
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter.nan_to_num(), before[name].nan_to_num()), name


def test_dropout_of_the_configuration_is_that_of_training() -> None:
    module, plain = pair(described("GPT2LMHeadModel", resid_pdrop=0.3, embd_pdrop=0.1))
    batch = tokens()
    answers = []
    for model in (module.train(), plain.train()):
        torch.manual_seed(5)
        output = model(batch)
        answers.append(output if isinstance(output, Tensor) else output.logits)
    close(*answers)
    assert not torch.allclose(answers[0], module.eval()(batch))
