"""The gradient of a network of posteriors by hand: the chain rule without a graph."""

from typing import Any

import torch
from torch import Tensor, nn

from skmdn.learning.correlated import CorrelatedPass
from skmdn.learning.penalty import MixturePrior

from .networks import Features, PosteriorNetwork, PosteriorObjective, rows_of

__all__ = ["PosteriorGradient"]

_silu: Any = getattr(torch._C._nn, "silu", None)
_silu_backward: Any = getattr(torch.ops.aten.silu_backward, "grad_input", None)
_relu_backward: Any = getattr(torch.ops.aten.threshold_backward, "grad_input", None)
_PARTS = (_silu, _silu_backward, _relu_backward)


class PosteriorGradient:
    """Losses and gradients of a :class:`PosteriorObjective`, batch by batch.

    Parameters
    ----------
    objective : PosteriorObjective
        Whose network :meth:`applies` to.
    gradients : dict of str to Tensor
        Where the gradient of each parameter of the network is written.
    """

    def __init__(
        self, objective: PosteriorObjective, gradients: dict[str, Tensor]
    ) -> None:
        self.objective = objective
        self.network: Any = objective.network
        self.gradients = gradients
        trunk: Any = objective.network.trunk
        self.layers = [
            _Layer(objective.network, gradients, f"trunk.layers.{i}")
            for i in range(len(trunk.layers))
        ]
        self.head = _Layer(objective.network, gradients, "head.linear")
        self.line = self.network.get_parameter("head.line").detach()
        self.smooth = self.network.trunk.activation == "silu"

    @staticmethod
    def applies(network: nn.Module, prior: MixturePrior) -> bool:
        """Tell whether a network is of the standard kind."""
        if not isinstance(network, PosteriorNetwork) or None in _PARTS:
            return False
        trunk: Any = network.trunk
        return (
            type(network.block) is Features
            and trunk.activation in ("relu", "silu")
            and len(trunk.layers) > 0
        )

    def __call__(self, rows: Tensor, with_loss: bool) -> Tensor | None:
        """Write the gradients of the loss of ``rows (n_members, n_batch)``.

        Returns the losses ``(n_members,)`` if they are asked for.
        """
        objective, head = self.objective, self.network.head
        kept = objective.kept_units(rows)
        x = self.network.block(rows_of(objective.x, rows))
        u = rows_of(objective.y, rows).mT
        hidden = self._forward(x, kept)
        raw = torch.baddbmm(self.head.bias.mT, self.head.weight, hidden.mT)
        base = torch.bmm(self.line, x.mT)
        unit = head.unit().detach()
        forth = CorrelatedPass(raw, base, unit, u, head.link)
        size = 1.0 / rows.shape[1]
        if objective.equal:
            weight = raw.new_tensor(-size).expand(rows.shape)
        else:
            weight = -size * rows_of(objective.weights, rows)
        d_raw, d_base, d_unit = forth.backward(weight)
        inside = unit == self.network.get_parameter("head.log_unit").detach()
        torch.mul(d_unit, inside, out=self.gradients["head.log_unit"])
        torch.bmm(d_base, x, out=self.gradients["head.line"])
        torch.bmm(d_raw, hidden, out=self.head.d_weight)
        torch.sum(d_raw, 2, out=self.head.d_bias[:, 0])
        self._backward(torch.bmm(d_raw.mT, self.head.weight), kept)
        if not with_loss:
            return None
        return objective.log_scale + (weight * forth.log_prob).sum(1)

    def _forward(self, x: Tensor, kept: list[Tensor]) -> Tensor:
        """Return the last hidden layer and remember those before."""
        for i, layer in enumerate(self.layers):
            layer.below = x
            layer.before = torch.baddbmm(layer.bias, x, layer.weight)
            if self.smooth:
                x = torch.nn.functional.silu(layer.before)
            else:
                x = layer.before.relu()
            if kept:
                x *= kept[i]
        return x

    def _backward(self, back: Tensor, kept: list[Tensor]) -> None:
        """Take the gradient by the last layer down through all of them."""
        for i in range(len(self.layers) - 1, -1, -1):
            layer = self.layers[i]
            if kept:
                back *= kept[i]
            if self.smooth:
                _silu_backward(back, layer.before, grad_input=back)
            else:
                _relu_backward(back, layer.before, 0.0, grad_input=back)
            torch.bmm(layer.below.mT, back, out=layer.d_weight)
            torch.sum(back, 1, out=layer.d_bias[:, 0])
            if i:
                back = torch.bmm(back, layer.weight.mT)


class _Layer:
    """An affine layer: its parameters, their gradients and what went through it."""

    below: Tensor
    before: Tensor

    def __init__(
        self, network: nn.Module, gradients: dict[str, Tensor], name: str
    ) -> None:
        self.weight = network.get_parameter(f"{name}.weight").detach()
        self.bias = network.get_parameter(f"{name}.bias").detach()
        self.d_weight = gradients[f"{name}.weight"]
        self.d_bias = gradients[f"{name}.bias"]
