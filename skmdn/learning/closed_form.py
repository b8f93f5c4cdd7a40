r"""The gradient of the standard network by hand: no graph, no allocation.

For one target, a SiLU trunk and normal components, with the responsibilities r and the
weights :math:`\pi` of a row at the temperature T, :math:`z_k = (\mu_k - y) / \sigma_k`
and the priors :math:`c_1 \log \sigma_k + c_2 / (2 \sigma_k^2)` and
:math:`-e_k \log \pi_k` of the loss, with :math:`e = \sum_k e_k`,

.. math::
    \frac{\partial L}{\partial l_k} = \frac{(1 + e) \pi_k - r_k - e_k}{T}, \qquad
    \frac{\partial L}{\partial \mu_k} = \frac{r_k z_k}{\sigma_k}, \qquad
    \frac{\partial L}{\partial \sigma_k} =
    \frac{r_k (1 - z_k^2) + c_1 - c_2 / \sigma_k^2}{\sigma_k} .

The rest is the chain rule through affine layers. Everything is written into memory
that is taken once: the tensors of the head have the rows on their last axis, and the
parameters' gradients are views of the loop's matrix. Any other network, family or
device is differentiated by autograd; :mod:`skmdn.learning.training` compares both on
the first batch.
"""

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn

from skmdn.families import Normal
from skmdn.priors import Dirichlet, InverseGamma

from .embeddings import FeatureEmbedding
from .networks import MixtureNetwork
from .objectives import MixtureObjective
from .penalty import MixturePrior

__all__ = ["ClosedFormGradient"]

# Members share the pass while a layer's rows of all of them have at most so many
# numbers; more would leave the cache between one operation and the next.
_GROUP_NUMBERS = 2**16

# Tables of constant columns may take this many bytes; larger ones are made per batch.
_TABLE_BYTES = 2**26

_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)

# Out-variants that have no public name; without them autograd takes over.
_silu: Any = getattr(torch._C._nn, "silu", None)
_softplus: Any = getattr(torch._C._nn, "softplus", None)
_silu_backward: Any = getattr(torch.ops.aten.silu_backward, "grad_input", None)


class ClosedFormGradient:
    """Losses and gradients of a :class:`MixtureObjective`, batch by batch.

    Parameters
    ----------
    objective : MixtureObjective
        One without noise, whose network :meth:`applies` to.
    gradients : dict of str to Tensor
        Where the gradient of each parameter of the network is written.
    """

    def __init__(
        self, objective: MixtureObjective, gradients: dict[str, Tensor]
    ) -> None:
        self.objective = objective
        self.network: Any = objective.network
        self.gradients = gradients
        self.table = self._constant_columns()
        equal = bool((objective.weights == 1.0).all())
        self.weights = None if equal else objective.weights
        self.groups: dict[torch.Size, list[_Group]] = {}

    @staticmethod
    def applies(network: nn.Module, prior: MixturePrior) -> bool:
        """Tell whether network, on a processor, and prior are of the standard kind."""
        if not isinstance(network, MixtureNetwork) or _silu_backward is None:
            return False
        head: Any = network.head
        trunk: Any = network.trunk
        return (
            head.linear.weight.device.type == "cpu"
            and head.sizes == [head.n_components] * 3
            and type(head.parts[0][0]) is Normal
            and type(prior.weights) in (Dirichlet, type(None))
            and type(prior.scales) in (InverseGamma, type(None))
            and prior.units is None
            and isinstance(network.block, FeatureEmbedding)
            and trunk.activation == "silu"
            and len(trunk.layers) > 0
        )

    def _constant_columns(self) -> Tensor | None:
        """Return raw features and bins of all rows, unless they are too many."""
        x, block = self.objective.x, self.network.block
        n_bytes = len(x) * block.n_constant * self.objective.y.element_size()
        bins = block.n_constant > block.n_features
        if not isinstance(x, Tensor) or (bins and n_bytes > _TABLE_BYTES):
            return None
        return block.constant(x).contiguous()

    def __call__(self, rows: Tensor, with_loss: bool) -> Tensor | None:
        """Write the gradients of the loss of ``rows (n_members, n_batch)``.

        Returns the losses ``(n_members,)`` if they are asked for.
        """
        if rows.shape not in self.groups:
            self.groups[rows.shape] = self._make_groups(*rows.shape)
        losses: list[Any] = []
        for group in self.groups[rows.shape]:
            group.load(rows[group.members], self)
            losses.append(group.run(with_loss))
        if not with_loss:
            return None
        return self.objective.log_scale + torch.cat(losses)

    def _make_groups(self, n_members: int, n_batch: int) -> list["_Group"]:
        widths = [layer.weight.shape[2] for layer in self.network.trunk.layers]
        n_groups = math.ceil(n_members * n_batch * max(widths) / _GROUP_NUMBERS)
        n_groups = min(n_groups, n_members)
        bounds = [round(i * n_members / n_groups) for i in range(n_groups + 1)]
        workspaces: dict[int, _Workspace] = {}
        groups = []
        for start, stop in itertools.pairwise(bounds):
            size = stop - start
            if size not in workspaces:
                workspaces[size] = _Workspace(self.objective, size, n_batch)
            members = slice(start, stop)
            groups.append(_Group(self, members, workspaces[size]))
        return groups


class _Workspace:
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

        widths = [layer.weight.shape[2] for layer in network.trunk.layers]
        self.x = new(n_batch, block.n_constant)
        self.flat_x = self.x.view(-1, block.n_constant)
        self.y, self.weights = new(1, n_batch), new(1, n_batch)
        self.n_cosines = block.n_cosines * block.n_features
        if self.n_cosines:
            self.angle, self.cosine, self.sine, self.wave = (
                new(n_batch, self.n_cosines) for _ in range(4)
            )
            self.repeated = self.x[..., : block.n_features].unsqueeze(-1)
            shape = (n_members, n_batch, block.n_features, block.n_cosines)
            self.angle_by_feature = self.angle.view(shape)
            self.wave_by_feature = self.wave.view(shape)
        self.before = [new(n_batch, width) for width in widths]
        self.after = [new(n_batch, width) for width in widths]
        self.raw = new(3 * n_components, n_batch)
        self.logit, self.mean, self.raw_scale = self.raw.unflatten(
            1, (3, n_components)
        ).unbind(1)
        self.change = new(3 * n_components, n_batch)
        self.d_logit, self.d_mean, self.d_scale = self.change.unflatten(
            1, (3, n_components)
        ).unbind(1)
        (
            self.scale,
            self.log_scale,
            self.z,
            self.joint,
            self.responsibility,
            self.weight,
        ) = (new(n_components, n_batch) for _ in range(6))
        # What the changes of means, and below them of scales, are multiplied by.
        self.factors = new(2 * n_components, n_batch)
        self.inverse, self.slope = self.factors.unflatten(1, (2, n_components)).unbind(
            1
        )
        self.d_both = self.change[:, n_components:]
        # Sums over the rows as products: faster than a reduction of a short axis.
        self.ones = objective.y.new_ones((n_members, n_batch, 1))


class _Group:
    """Some members' pass forth and back in one workspace.

    Every view of a parameter, of a gradient and of the workspace is made once: on
    small networks making them would take as long as the arithmetic.
    """

    def __init__(
        self, owner: ClosedFormGradient, members: slice, space: _Workspace
    ) -> None:
        objective = owner.objective
        network, gradients = owner.network, owner.gradients
        self.members = members
        self.space = space
        self.objective = objective
        # Tensors of the same shape are added fastest.
        self.min_scale = torch.full_like(space.scale, network.head.min_scale)
        self._take_prior(objective)
        self.share = 1.0 / space.x.shape[1]

        def pair(name: str) -> tuple[Tensor, Tensor]:
            value = network.get_parameter(name).detach()
            return value[members], gradients[name][members]

        self.layers = []
        below = space.x
        n_constant = space.x.shape[2]
        for i, (before, after) in enumerate(
            zip(space.before, space.after, strict=True)
        ):
            weight, d_weight = pair(f"trunk.layers.{i}.weight")
            bias, d_bias = pair(f"trunk.layers.{i}.bias")
            if i == 0:
                self.wave_weight = weight[:, n_constant:]
                self.wave_weight_t = self.wave_weight.mT
                self.d_wave_weight = d_weight[:, n_constant:]
                weight, d_weight = weight[:, :n_constant], d_weight[:, :n_constant]
            self.layers.append(
                _Layer(weight, bias, d_weight, d_bias, below, before, after)
            )
            below = after
        self.head_weight, self.d_head_weight = pair("head.linear.weight")
        bias, d_bias = pair("head.linear.bias")
        self.head_bias, self.d_head_bias = bias.mT, d_bias.mT
        self.last, self.last_t = below, below.mT
        self.change_t = space.change.mT
        if space.n_cosines:
            frequency, self.d_frequency = pair("block.frequency")
            self.phase, self.d_phase = pair("block.phase")
            block = network.block
            shape = (block.n_features, block.n_cosines)
            self.frequency = frequency.unflatten(-1, shape)
            self.cosine_t = space.cosine.mT

    def _take_prior(self, objective: MixtureObjective) -> None:
        """Store the prior's numbers, divided by the rows that it stands beside."""
        prior, n_rows = objective.prior, objective.n_rows
        n_components = self.space.logit.shape[1]
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

    def load(self, rows: Tensor, owner: ClosedFormGradient) -> None:
        """Gather the rows' data."""
        space, flat = self.space, rows.reshape(-1)
        objective = owner.objective
        if owner.table is not None:
            torch.index_select(owner.table, 0, flat, out=space.flat_x)
        else:
            owner.network.block.constant(objective.x[flat], out=space.flat_x)
        torch.index_select(objective.flat_y, 0, flat, out=space.y.view(-1))
        self.weighted = owner.weights is not None
        if owner.weights is not None:
            torch.index_select(owner.weights, 0, flat, out=space.weights.view(-1))

    def run(self, with_loss: bool) -> Tensor | None:
        """Compute the gradients, and the losses if they are asked for."""
        self.temperature = self.objective.temperature()
        self._forward()
        losses = self._loss() if with_loss else None
        self._head_backward()
        self._trunk_backward()
        return losses

    def _forward(self) -> None:
        space = self.space
        first = self.layers[0]
        torch.baddbmm(first.bias, first.below, first.weight, out=first.before)
        if space.n_cosines:
            torch.mul(space.repeated, self.frequency, out=space.angle_by_feature)
            torch.add(self.phase, space.angle, alpha=2.0 * math.pi, out=space.angle)
            torch.cos(space.angle, out=space.cosine)
            first.before.baddbmm_(space.cosine, self.wave_weight)
        _silu(first.before, out=first.after)
        for layer in self.layers[1:]:
            torch.baddbmm(layer.bias, layer.below, layer.weight, out=layer.before)
            _silu(layer.before, out=layer.after)
        torch.baddbmm(self.head_bias, self.head_weight, self.last_t, out=space.raw)
        if self.temperature != 1.0:
            space.logit.div_(self.temperature)
        _softplus(space.raw_scale, 1, 20, out=space.scale)
        space.scale.add_(self.min_scale)
        torch.reciprocal(space.scale, out=space.inverse)
        torch.log(space.scale, out=space.log_scale)
        torch.sub(space.mean, space.y, out=space.z).mul_(space.inverse)
        torch.sub(space.logit, space.log_scale, out=space.joint)
        space.joint.addcmul_(space.z, space.z, value=-0.5)
        torch.softmax(space.joint, 1, out=space.responsibility)
        torch.softmax(space.logit, 1, out=space.weight)

    def _loss(self) -> Tensor:
        """Return the members' average losses."""
        space = self.space
        # The largest term and its share give the logarithm of a sum.
        joint = space.joint.amax(1) - space.responsibility.amax(1).log_()
        total = space.logit.amax(1) - space.weight.amax(1).log_()
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
        self._average(space.change, self.last, self.d_head_weight)
        self._average(space.change, space.ones, self.d_head_bias)
        self._average(self.change_t, self.head_weight, self.layers[-1].back)

    def _average(self, left: Tensor, right: Tensor, out: Tensor) -> None:
        """Write a product divided by the number of rows."""
        torch.baddbmm(out, left, right, beta=0, alpha=self.share, out=out)

    def _trunk_backward(self) -> None:
        for layer, lower in zip(self.layers[:0:-1], self.layers[-2::-1], strict=True):
            layer.differentiate()
            torch.bmm(layer.back, layer.weight_t, out=lower.back)
        first = self.layers[0]
        first.differentiate()
        space = self.space
        if space.n_cosines:
            torch.bmm(self.cosine_t, first.back, out=self.d_wave_weight)
            torch.bmm(first.back, self.wave_weight_t, out=space.wave)
            torch.sin(space.angle, out=space.sine)
            space.wave.mul_(space.sine).neg_()
            torch.sum(space.wave, 1, keepdim=True, out=self.d_phase)
            space.wave_by_feature.mul_(space.repeated)
            torch.sum(space.wave, 1, keepdim=True, out=self.d_frequency)
            self.d_frequency.mul_(2.0 * math.pi)


class _Layer:
    """Views of one affine layer and its activation."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        d_weight: Tensor,
        d_bias: Tensor,
        below: Tensor,
        before: Tensor,
        after: Tensor,
    ) -> None:
        self.weight, self.weight_t, self.bias = weight, weight.mT, bias
        self.d_weight, self.d_bias = d_weight, d_bias
        self.below, self.below_t = below, below.mT
        # What comes back takes the place of what went up: it is no longer needed
        # then, and less memory stays in the cache.
        self.before, self.after, self.back = before, after, after

    def differentiate(self) -> None:
        """Take ``back`` through the activation and write the layer's gradient."""
        _silu_backward(self.back, self.before, grad_input=self.back)
        torch.bmm(self.below_t, self.back, out=self.d_weight)
        torch.sum(self.back, 1, keepdim=True, out=self.d_bias)
