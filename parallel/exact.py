"""Sums of micro-batches' gradients that are the same bits in whatever order, on whatever ranks.

Each micro-batch's gradient is rounded onto a grid so coarse that every partial sum of them is a
float32, in which they are added. Float addition is exact then, and so associative: the
plain accumulation, reduce-scatter and all-reduce of any backend, in any order, over any number of
ranks, give one result (pre-rounding: Demmel and Nguyen, "Fast Reproducible Floating-Point
Summation", ARITH 2013). Nothing more travels and nothing more is kept.

The grid of a parameter follows from a bound on its gradients that all ranks have agreed on before
the step, from the steps before; a step in which a micro-batch exceeds it is done again with a bound
that it cannot exceed. Bounds are powers of two, so that rounding to the grid is two additions.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from .collectives import Exchange, max_
from .gradients import counts
from .names import canonical_name
from .positions import local_part
from .shard import wrapped_modules

# Powers of two by which a bound exceeds the largest gradient that was seen when it was set.
_HEADROOM = 2
# A grid below the smallest normal float32 would lose to flushing; gradients there are zero.
_SMALLEST = 2.0**-90
# Of an order-free sum of squares, each rounded to an integer: bits of the whole sum.
_SUM_BITS = 62
# Elements at a time: what a CPU's caches hold.
_CHUNK = 2**17
_HALF = 31


@final
class Grid:
    """The grids of a model's gradients. All ranks of the world have one, and call alike.

    Args:
        module: sharded; each rank's own stages where it is cut over a pipeline.
        exchange: over all ranks of the world.
        addends: gradients of one parameter that are summed in a step: micro-batches, times the
            ranks that have a part each of one (context, tensor).
    """

    def __init__(self, module: nn.Module, exchange: Exchange, *, addends: int) -> None:
        self._control = exchange.group
        # Four at least: an anchor takes the highest bit and the sign's.
        self._addends = max(4, 2 ** math.ceil(math.log2(addends)))
        self._own = {
            canonical_name(name): parameter
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        said = exchange.gather_bytes(json.dumps(list(self._own)).encode())
        self.names = sorted({name for one in said for name in json.loads(one)})
        """Of all trainable parameters of the model, on whatever rank; the same on all ranks."""
        self._bounds: dict[str, float] = {}
        self._seen: dict[str, Tensor] = {}
        self._largest: dict[str, float] = {}
        self._summed: dict[str, float] = {}
        self._attach(module)

    def _attach(self, module: nn.Module) -> None:
        """Collective: has each gathered parameter, which FSDP keeps for good, round its gradient
        before it is added to that of the micro-batches before."""
        sharded = {id(parameter) for parameter in module.parameters()}
        for prefix, wrapped in wrapped_modules(module):
            wrapped.unshard()
            assert isinstance(wrapped, nn.Module)
            for name, parameter in wrapped.named_parameters(prefix=prefix):
                if id(parameter) not in sharded and parameter.requires_grad:
                    parameter.register_hook(self._hook(canonical_name(name)))
            wrapped.reshard()

    def _hook(self, name: str) -> Callable[[Tensor], Tensor | None]:
        def rounded(gradient: Tensor) -> Tensor | None:
            local = local_part(gradient)
            if not local.numel():
                return None
            found = _largest(local.detach())
            before = self._seen.get(name)
            self._seen[name] = found if before is None else torch.maximum(before, found)
            if (bound := self._bounds.get(name, 0.0)) == 0.0:
                return None  # all zeros; or else the step is done again
            # The sum lies where float32 has the grid's step, and so is rounded to it.
            anchor = 0.75 * bound * self._addends
            onto = (local.float() + anchor).sub_(anchor).to(local.dtype)
            return _like(onto, gradient)

        return rounded

    def settle(self) -> bool:
        """Collective, after the step's last backward: whether its gradients are sums to go on with.
        If not, a micro-batch exceeded its bound: clear the gradients and do the same step again,
        for which the bounds are wide enough. Waits for the device.
        """
        seen = _maxima(self.names, self._seen)
        gradients = {n: p.grad for n, p in self._own.items() if p.grad is not None}
        summed = _maxima(self.names, {n: _largest(local_part(g)) for n, g in gradients.items()})
        largest = max_(torch.cat([seen, summed]), self._control).tolist()
        self._seen = {}
        self._largest = dict(zip(self.names, largest[: len(self.names)], strict=True))
        self._summed = dict(zip(self.names, largest[len(self.names) :], strict=True))
        if not self.is_finite:
            return True  # the verdict skips such a step
        unseen = [name for name in self.names if self._summed[name] > self._largest[name] == 0]
        if unseen:
            raise RuntimeError(
                f"parallel.exact: found a gradient of {unseen[0]} that no micro-batch had, needed "
                "gradients that go through torch's autograd; set parallel.exact=false"
            )
        exceeded = {n for n, most in self._largest.items() if most > self._bounds.get(n, 0.0)}
        for name in exceeded:
            self._bounds[name] = _bound(self._largest[name])
        return not exceeded

    def end_step(self) -> None:
        """After a settled step: bounds follow the gradients, up at once and down by halves."""
        if not self.is_finite:
            return
        for name, most in self._largest.items():
            if most > 0:
                self._bounds[name] = max(_bound(most), self._bounds.get(name, 0.0) / 2)

    @property
    def is_finite(self) -> bool:
        """Whether all gradients of the settled step are, on all ranks."""
        return all(map(math.isfinite, (*self._largest.values(), *self._summed.values())))

    def squares(self) -> list[float]:
        """This rank's part of each parameter's squared L2 norm, by `names`, as two integers each,
        whose sums over all ranks are exact and the same wherever the gradient's elements lie; see
        `totals`. Waits for the device.

        Of copies that are equal on several ranks one rank counts each.
        """
        found = dict.fromkeys(self.names, 0)
        if self.is_finite:
            for name, parameter in self._own.items():
                grad, most = parameter.grad, self._summed[name]
                if grad is not None and most > 0 and counts(grad):
                    unit = 2.0 ** _exponent(most)
                    found[name] = _integer_squares(local_part(grad), unit, _bits(grad.numel()))
        return [half for total in found.values() for half in _halves(total)]

    def totals(self, summed: Sequence[float]) -> dict[str, int]:
        """By name, what `squares` of all ranks add up to; see `unscaled`."""
        pairs = zip(summed[::2], summed[1::2], strict=True)
        return {name: _whole(*pair) for name, pair in zip(self.names, pairs, strict=True)}

    def unscaled(self, name: str, total: int, elements: int) -> float:
        """The squared norm that a sum of `squares` over all ranks stands for.

        Args:
            elements: of the full parameter.
        """
        most = self._summed.get(name, 0.0)
        if not total:
            return most  # 0, or infinite
        return math.ldexp(float(total), 2 * _exponent(most) - _bits(elements))

    def state_dict(self) -> dict[str, int]:
        """Bounds for a manifest, as powers of two by parameter; equal on all ranks."""
        return {name: _exponent(bound) for name, bound in self._bounds.items() if bound}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Takes over the bounds of a manifest; a parameter without one begins anew."""
        self._bounds = {name: 2.0 ** int(power) for name, power in state.items()}
        self._seen, self._largest, self._summed = {}, {}, {}


def _like(local: Tensor, gradient: Tensor) -> Tensor:
    if not isinstance(gradient, DTensor):
        return local
    laid = DTensor.from_local(
        local,
        gradient.device_mesh,
        gradient.placements,
        run_check=False,
        shape=gradient.shape,
        stride=gradient.stride(),
    )
    assert isinstance(laid, DTensor)
    return laid


def _maxima(names: Iterable[str], found: Mapping[str, Tensor]) -> Tensor:
    """One vector on the CPU; what is not a number counts as infinite, since backends differ in
    whether it wins."""
    wanted = [name for name in names if name in found]
    values = torch.stack([found[n] for n in wanted]).tolist() if wanted else []
    numbers = {n: v if v == v else math.inf for n, v in zip(wanted, values, strict=True)}
    return torch.tensor([numbers.get(name, 0.0) for name in names], dtype=torch.float64)


def _largest(local: Tensor) -> Tensor:
    """The largest magnitude of an element, 0-d, float32; NaN where one is. A tenth of what torch's
    norm of infinite order takes on a CPU."""
    if not local.numel():
        return local.new_zeros((), dtype=torch.float32)
    least, most = torch.aminmax(local)
    return torch.maximum(-least, most).float()


def _exponent(value: float) -> int:
    """Of the smallest power of two that is no smaller."""
    fraction, power = math.frexp(value)
    return power - 1 if fraction == 0.5 else power


def _bound(largest: float) -> float:
    return max(_SMALLEST, 2.0 ** (_exponent(largest) + _HEADROOM))


def _bits(elements: int) -> int:
    """Of one square, so that the sum of so many is below 2^62."""
    return _SUM_BITS - math.ceil(math.log2(max(2, elements)))


def _integer_squares(local: Tensor, unit: float, bits: int) -> int:
    """The sum of round((x / unit)^2 x 2^bits); |x| is at most `unit`, a power of two."""
    factor, flat, total = 2.0 ** (bits // 2), local.reshape(-1), 0
    for chunk in flat.split(_CHUNK if flat.is_cpu else max(1, len(flat))):
        scaled = chunk.double().mul_(factor / unit)
        total += int(scaled.mul_(scaled).mul_(2.0 ** (bits % 2)).round_().long().sum())
    return total


def _halves(total: int) -> tuple[float, float]:
    """A sum below 2^62 as two floats, which add up exactly over ranks."""
    return float(total >> _HALF), float(total & (2**_HALF - 1))


def _whole(high: float, low: float) -> int:
    """The sum whose halves these are the sums of."""
    return (int(high) << _HALF) + int(low)
