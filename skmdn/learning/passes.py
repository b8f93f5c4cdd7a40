r"""A pass forth and back through the standard network, in memory that is taken once.

What it computes is in :mod:`skmdn.learning.closed_form`.
"""

import math
from typing import Any

import torch
from torch import Tensor

from .objectives import MixtureObjective
from .products import product, product_anywhere

__all__ = ["AVAILABLE", "Pass", "Workspace"]

_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)

# Out-variants that have no public name; without them autograd takes over.
_silu: Any = getattr(torch._C._nn, "silu", None)
_softplus: Any = getattr(torch._C._nn, "softplus", None)
_silu_backward: Any = getattr(torch.ops.aten.silu_backward, "grad_input", None)

AVAILABLE = None not in (_silu, _softplus, _silu_backward)

# Numbers that a kernel takes at a time.
_VECTORS = 32


class Workspace:
    """Memory for one pass of some members, with its parts named.

    Parameters
    ----------
    objective : MixtureObjective
        Tells the sizes and the dtype.
    n_members, n_batch : int
        Members in the pass and rows of each.
    """

    def __init__(
        self, objective: MixtureObjective, n_members: int, n_batch: int
    ) -> None:
        network: Any = objective.network
        block, n_components = network.block, network.head.n_components

        def new(*shape: int) -> Tensor:
            return objective.y.new_empty((n_members, *shape))

        def by_component(raw: Tensor) -> tuple[Tensor, ...]:
            return raw.unflatten(1, (-1, n_components)).unbind(1)

        self.y, self.weights = new(1, n_batch), new(1, n_batch)
        self._take_inputs(new, n_batch, block)
        widths = [layer.weight.shape[2] for layer in network.trunk.layers]
        self.before = [new(n_batch, width) for width in widths]
        self.with_one = [new(n_batch, 1 + width) for width in widths[:-1]]
        for after in self.with_one:
            after[..., 0] = 1.0
        # Where nothing follows but the head, the one would only be in the way.
        self.after = [after[..., 1:] for after in self.with_one]
        self.after.append(new(n_batch, widths[-1]))
        # What comes back to one layer after the other.
        back = objective.y.new_empty(n_members * max(widths) * n_batch)
        self.back = [
            back[: n_members * width * n_batch].view(n_members, n_batch, width)
            for width in widths
        ]
        self.raw = new(3 * n_components, n_batch)
        self.raw_logit, self.mean, self.raw_scale = by_component(self.raw)
        self.change = new(3 * n_components, n_batch)
        self.d_logit, self.d_mean, self.d_scale = by_component(self.change)
        self.d_both = self.change[:, n_components:]
        self.scale, self.log_scale, self.z = (
            new(n_components, n_batch) for _ in range(3)
        )
        # Side by side for a common softmax.
        self.joint, self.logit = self.logits = objective.y.new_empty(
            (2, n_members, n_components, n_batch)
        )
        self.responsibility, self.weight = self.shares = torch.empty_like(self.logits)
        # What the changes of means, and below them of scales, are multiplied by.
        self.factors = new(2 * n_components, n_batch)
        self.inverse, self.slope = by_component(self.factors)

    def _take_inputs(self, new: Any, n_batch: int, block: Any) -> None:
        """Take what the first layer sees: a one, constant columns and cosines."""
        n_constant, n_features = block.n_constant, block.n_features
        self.n_cosines = block.n_cosines * n_features
        self.input = new(n_batch, 1 + n_constant + self.n_cosines)
        self.input[..., 0] = 1.0
        flat = self.input.flatten(0, 1)
        self.flat_constant = flat[:, 1 : 1 + n_constant]
        # What is gathered for a row lies side by side.
        self.flat_row = flat[:, 1:]
        if self.n_cosines:
            self.cosine = self.input[..., 1 + n_constant :]
            self.repeated, self.angle, self.wave = (
                new(n_batch, self.n_cosines) for _ in range(3)
            )
            raw = self.input[..., 1 : 1 + n_features].unsqueeze(-1)
            self.raw_by_feature = raw.expand(*raw.shape[:-1], block.n_cosines)
            self.cosine_by_feature = self.cosine.unflatten(-1, (n_features, -1))


class Pass:
    """Some members' pass forth and back in one workspace.

    Every view of a parameter, of a gradient and of the workspace is made once: on
    small networks making them would take as long as the arithmetic.

    Parameters
    ----------
    objective : MixtureObjective
        What is computed and differentiated.
    gradients : dict of str to Tensor
        Where the gradient of each parameter of the network goes.
    members : slice
        Those whose pass it is.
    space : Workspace
        Memory for as many members.
    """

    def __init__(
        self,
        objective: MixtureObjective,
        gradients: dict[str, Tensor],
        members: slice,
        space: Workspace,
    ) -> None:
        network: Any = objective.network
        self.members = members
        self.space = space
        self.objective = objective
        # Tensors of the same shape are added fastest.
        self.min_scale = torch.full_like(space.scale, network.head.min_scale)
        self._take_prior(objective)
        self.share = 1.0 / space.input.shape[1]

        def pair(name: str) -> tuple[Tensor, Tensor]:
            value = network.get_parameter(name).detach()
            return value[members], gradients[name][members]

        self.layers = []
        for i, below in enumerate([space.input, *space.with_one]):
            weight, d_weight = pair(f"trunk.layers.{i}.weight")
            bias, d_bias = pair(f"trunk.layers.{i}.bias")
            self.layers.append(
                _Layer(
                    _with_bias(weight, bias),
                    _with_bias(d_weight, d_bias),
                    below,
                    space.before[i],
                    space.after[i],
                    space.back[i],
                )
            )
        self.downs = [
            product_anywhere(layer.change, layer.weight[:, 1:].mT, back)
            for layer, back in zip(self.layers[:0:-1], space.back[-2::-1], strict=True)
        ]
        last = self.layers[-1]
        weight, d_weight = pair("head.linear.weight")
        bias, d_bias = pair("head.linear.bias")
        self.head_bias, self.d_head_bias = bias.mT, d_bias.mT
        self.head = product(weight, last.after.mT, space.raw)
        self.head_gradient = product(space.change, last.after, d_weight)
        self.head_back = product(space.change.mT, weight, space.back[-1])
        if space.n_cosines:
            first = self.layers[0]
            self.frequency, self.d_frequency = pair("block.frequency")
            self.phase, self.d_phase = pair("block.phase")
            waves = first.weight[:, -space.n_cosines :]
            self.wave_back = product(first.change, waves.mT, space.wave)

    def _take_prior(self, objective: MixtureObjective) -> None:
        """Store the prior's numbers, divided by the rows that it stands beside."""
        prior, n_rows = objective.prior, objective.n_rows
        n_components = self.space.scale.shape[1]
        self.c1 = self.c2 = self.constant = 0.0
        scales: Any = prior.scales
        if scales is not None:
            self.c1 = 2.0 * (scales.shape + 1.0) / n_rows
            self.c2 = 2.0 * scales.scale / n_rows
            self.constant = n_components * scales.log_normalizer() / n_rows
        self.c1_tensor = torch.full_like(self.space.scale, self.c1)
        self.excess: Tensor | None = None
        if prior.weights is not None:
            excess = objective.y.new_tensor(prior.weights.excess(n_components))
            self.excess = (excess / n_rows).unsqueeze(1)
            self.total_excess = float(self.excess.sum())
            self.constant += prior.weights.log_normalizer(n_components) / n_rows

    def load(self, rows: Tensor, table: Tensor | None, weights: Tensor | None) -> None:
        """Gather the rows' data.

        Parameters
        ----------
        rows : Tensor of shape (n_members * n_batch,)
            The rows of each member, end to end.
        table : Tensor of shape (n_samples, n_columns) or None
            What each row gives the first layer: raw features, bins, and the features
            again for each of their cosines; None to make it now.
        weights : Tensor of shape (n_samples,) or None
            Weights of the rows, if they differ.
        """
        space, objective = self.space, self.objective
        if table is not None:
            torch.index_select(table, 0, rows, out=space.flat_row)
        else:
            block: Any = objective.network.block
            block.constant(objective.x[rows], out=space.flat_constant)
            if space.n_cosines:
                space.cosine_by_feature.copy_(space.raw_by_feature)
        torch.index_select(objective.flat_y, 0, rows, out=space.y.view(-1))
        self.weighted = weights is not None
        if weights is not None:
            torch.index_select(weights, 0, rows, out=space.weights.view(-1))

    def run(self, with_loss: bool) -> Tensor | None:
        """Compute the gradients, and the losses if they are asked for."""
        self.temperature = self.objective.temperature()
        self._forward()
        self._share_out()
        losses = self._loss() if with_loss else None
        self._head_backward()
        self._trunk_backward()
        return losses

    def log_prob(self, log_spread: Tensor) -> Tensor:
        """Return log-likelihoods ``(n_members, n_spreads, n_batch)``."""
        self.temperature = self.objective.head.temperature
        self._forward()
        space = self.space
        joint = torch.addcmul(
            torch.log_softmax(space.logit, 1).sub_(space.log_scale).unsqueeze(1),
            space.z.square_().unsqueeze(1),
            (-2.0 * log_spread).exp_()[..., None, None],
            value=-0.5,
        )
        # The largest term and its share: an exponential that underflows is slow.
        log_sum = joint.amax(2).sub_(torch.softmax(joint, 2).amax(2).log_())
        return log_sum.sub_((log_spread + _LOG_SQRT_2PI).unsqueeze(2))

    def _forward(self) -> None:
        space = self.space
        if space.n_cosines:
            # The table holds the features once for each of their cosines.
            space.repeated.copy_(space.cosine)
            torch.addcmul(
                self.phase,
                space.repeated,
                self.frequency,
                value=2.0 * math.pi,
                out=space.angle,
            )
            # Faster than with gaps between the rows, as in _Layer.
            torch.cos(space.angle, out=space.wave)
            space.cosine.copy_(space.wave)
        for layer in self.layers:
            layer.forward()
        self.head()
        space.raw.add_(self.head_bias)
        torch.div(space.raw_logit, self.temperature, out=space.logit)
        _softplus(space.raw_scale, 1, 20, out=space.scale)
        space.scale.add_(self.min_scale)
        torch.reciprocal(space.scale, out=space.inverse)
        torch.log(space.scale, out=space.log_scale)
        torch.sub(space.mean, space.y, out=space.z).mul_(space.inverse)

    def _share_out(self) -> None:
        """Give each row to the components, and without a look at its target."""
        space = self.space
        torch.sub(space.logit, space.log_scale, out=space.joint)
        space.joint.addcmul_(space.z, space.z, value=-0.5)
        torch.softmax(space.logits, 2, out=space.shares)

    def _loss(self) -> Tensor:
        """Return the members' average losses."""
        space = self.space
        # The largest term and its share give the logarithm of a sum.
        joint, total = space.logits.amax(2) - space.shares.amax(2).log_()
        prior = (self.c1 * space.log_scale).addcmul_(
            space.inverse, space.inverse, value=0.5 * self.c2
        )
        loss = (total - joint).add_(prior.sum(1)).add_(_LOG_SQRT_2PI + self.constant)
        if self.excess is not None:
            loss.add_(total, alpha=self.total_excess)
            loss.sub_((self.excess * space.logit).sum(1))
        if self.weighted:
            loss.mul_(space.weights[:, 0])
        return loss.mean(1)

    def _head_backward(self) -> None:
        space = self.space
        torch.sigmoid(space.raw_scale, out=space.slope).mul_(space.inverse)
        torch.sub(space.weight, space.responsibility, out=space.d_logit)
        if self.excess is not None:
            space.d_logit.add_(space.weight, alpha=self.total_excess).sub_(self.excess)
        if self.temperature != 1.0:
            space.d_logit.div_(self.temperature)
        torch.mul(space.responsibility, space.z, out=space.d_mean)
        torch.addcmul(
            self.c1_tensor,
            space.inverse,
            space.inverse,
            value=-self.c2,
            out=space.d_scale,
        )
        space.d_scale.add_(space.responsibility)
        space.d_scale.addcmul_(space.d_mean, space.z, value=-1.0)
        space.d_both.mul_(space.factors)
        if self.weighted:
            space.change.mul_(space.weights)
        space.change.mul_(self.share)
        self.head_gradient()
        torch.sum(space.change, 2, keepdim=True, out=self.d_head_bias)

    def _trunk_backward(self) -> None:
        back = self.head_back()
        for layer, down in zip(self.layers[:0:-1], self.downs, strict=True):
            layer.differentiate(back)
            back = down()
        self.layers[0].differentiate(back)
        space = self.space
        if space.n_cosines:
            self.wave_back()
            torch.sin(space.angle, out=space.angle)
            space.wave.mul_(space.angle)
            torch.sum(space.wave, 1, keepdim=True, out=self.d_phase).neg_()
            space.wave.mul_(space.repeated)
            torch.sum(space.wave, 1, keepdim=True, out=self.d_frequency)
            self.d_frequency.mul_(-2.0 * math.pi)


def _with_bias(weight: Tensor, bias: Tensor) -> Tensor:
    """Return weights and, before their rows, the bias; they are neighbours."""
    n_members, n_in, n_out = weight.shape
    assert weight.data_ptr() - bias.data_ptr() == n_out * bias.element_size()
    shape = (n_members, 1 + n_in, n_out)
    return bias.as_strided(shape, (bias.stride(0), n_out, 1))


class _Layer:
    """One affine layer and its activation.

    Parameters
    ----------
    weight, d_weight : Tensor of shape (n_members, 1 + n_in, n_out)
        Bias and weights, and where their gradient goes.
    below : Tensor of shape (n_members, n_batch, 1 + n_in)
        Its inputs, the first of which is a one.
    before, after : Tensor of shape (n_members, n_batch, n_out)
        Memory for what the activation takes, and for what comes back through it; and
        what it gives.
    scratch : Tensor of shape (n_members, n_batch, n_out)
        Memory that is free on the way forth.
    """

    def __init__(
        self,
        weight: Tensor,
        d_weight: Tensor,
        below: Tensor,
        before: Tensor,
        after: Tensor,
        scratch: Tensor,
    ) -> None:
        self.weight = weight
        self.before = self.change = before
        self.after = after
        # Where there are gaps between the rows, a kernel's vectors end with each row;
        # what is left of it is computed number by number.
        gaps = not after.is_contiguous() and after.shape[2] % _VECTORS > 0
        self.activated = scratch if gaps else after
        self.affine = product_anywhere(below, weight, before)
        self.gradient = product(below.mT, self.change, d_weight)

    def forward(self) -> None:
        """Compute the outputs from what is below."""
        self.before = self.affine()
        _silu(self.before, out=self.activated)
        if self.activated is not self.after:
            self.after.copy_(self.activated)

    def differentiate(self, back: Tensor) -> None:
        """Take ``back`` through the activation and write the layer's gradient."""
        _silu_backward(back, self.before, grad_input=self.change)
        self.gradient()
