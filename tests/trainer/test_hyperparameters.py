"""A checkpoint holds the optimizer's tensors and none of its settings: those configured hold."""

import torch

from keepstep.checkpoint import Checkpoints, LocalStore, SoloExchange
from keepstep.trainer.optim.state import materialise_state
from keepstep.trainer.state import State, gather_state


def made(lr: float, decay: float) -> tuple[torch.nn.Module, torch.optim.Optimizer, State]:
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(module.parameters(), lr=lr, weight_decay=decay)
    materialise_state(optimizer)
    return module, optimizer, gather_state(module, optimizer, {})


def test_a_learning_rate_and_a_weight_decay_in_the_configuration_win(tmp_path):
    checkpoints = Checkpoints(LocalStore(tmp_path), SoloExchange(), keep=1)
    _, first, state = made(1e-2, 0.1)
    checkpoints.save(state.tensors, step=1, topology={}, progress={}, lineage={})
    assert {name.rpartition(".")[2] for name in state.tensors if name.startswith("optim.")} == {
        "exp_avg", "exp_avg_sq", "step",
    }  # fmt: skip
    _, second, live = made(5e-4, 0.0)
    before = [{k: v for k, v in group.items() if k != "params"} for group in second.param_groups]
    assert checkpoints.restore(live.tensors, in_place=True) is not None
    after = [{k: v for k, v in group.items() if k != "params"} for group in second.param_groups]
    assert before == after
    assert (after[0]["lr"], after[0]["weight_decay"]) == (5e-4, 0.0)
    assert first.param_groups[0]["lr"] == 1e-2
