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
that is taken once. The first of the inputs of a layer is a one, whose weights are the
bias, so that a product gives the gradients of both; the tensors of the head have the
rows on their last axis. Any other network, family or device is differentiated by
autograd; :mod:`skmdn.learning.training` compares both on the first batch.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from skmdn.families import Normal
from skmdn.priors import Dirichlet, InverseGamma

from .embeddings import FeatureEmbedding
from .networks import MixtureNetwork
from .objectives import MixtureObjective
from .penalty import MixturePrior
from .products import product

__all__ = ["ClosedFormGradient"]

# Members share the pass while a layer's rows of all of them have at most so many
# numbers; more would leave the cache between one operation and the next.
_GROUP_NUMBERS = 2**16

# Tables of what rows give the first layer may take this many bytes; larger ones are made per batch.
_TABLE_BYTES = 2**26

# Held-out rows that are judged together.
_ROWS_TOGETHER = 256

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
        self.table = self._columns_of_rows()
        equal = bool((objective.weights == 1.0).all())
        self.weights = None if equal else objective.weights
        self.groups: dict[tuple[int, ...], list[_Group]] = {}
        objective.by_hand = self.log_prob_of_spreads

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

    def _columns_of_rows(self) -> Tensor | None:
        """Return what all rows give the first layer, unless that is too much.

        Raw features, bins and the features again, once for each of their cosines.
        """
        x, block = self.objective.x, self.network.block
        n_bytes = len(x) * block.n_out * self.objective.y.element_size()
        more = block.n_out > block.n_features
        if not isinstance(x, Tensor) or (more and n_bytes > _TABLE_BYTES):
            return None
        columns = block.constant(x)
        if block.n_cosines:
            columns = torch.cat([columns, x.repeat_interleave(block.n_cosines, 1)], 1)
        return columns.contiguous()

    def __call__(self, rows: Tensor, with_loss: bool) -> Tensor | None:
        """Write the gradients of the loss of ``rows (n_members, n_batch)``.

        Returns the losses ``(n_members,)`` if they are asked for.
        """
        losses: list[Any] = []
        for group in self._loaded_groups(rows):
            losses.append(group.run(with_loss))
        if not with_loss:
            return None
        return self.objective.log_scale + torch.cat(losses)

    def log_prob_of_spreads(self, rows: Tensor, log_spread: Tensor) -> Tensor:
        """Return :meth:`MixtureObjective.log_prob_of_spreads`."""
        n_members, n_rows = rows.shape
        n_together = math.ceil(n_rows / math.ceil(n_rows / _ROWS_TOGETHER))
        out = log_spread.new_empty((n_members, log_spread.shape[1], n_rows))
        for start in range(0, n_rows, n_together):
            # The last part begins earlier, to be as large as the others.
            start = min(start, n_rows - n_together)
            part = slice(start, start + n_together)
            for group in self._loaded_groups(rows[:, part]):
                out[group.members, :, part] = group.log_prob(log_spread[group.members])
        return out.mT

    def _loaded_groups(self, rows: Tensor) -> Iterator["_Group"]:
        """Yield groups of members, with their part of the rows gathered."""
        groups = self.groups.get(rows.shape)
        if groups is None:
            groups = self.groups[rows.shape] = self._make_groups(*rows.shape)
        for group in groups:
            own = rows if len(groups) == 1 else rows[group.members]
            group.load(own.reshape(-1), self)
            yield group

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
        self.share = 1.0 / space.input.shape[1]

        def pair(name: str) -> tuple[Tensor, Tensor]:
            value = network.get_parameter(name).detach()
            return value[members], gradients[name][members]

        def layer(name: str) -> tuple[Tensor, Tensor]:
            return tuple(
                map(_with_bias, pair(f"{name}.weight"), pair(f"{name}.bias"))
            )

        self.layers = []
        below = [space.input, *space.with_one]
        for i, inputs in enumerate(below):
            self.layers.append(
                _Layer(
                    *layer(f"trunk.layers.{i}"),
                    inputs,
                    space.before[i],
                    space.after[i],
                    space.back[i],
                )
            )
        self.downs = [
            product(layer.change, layer.weight[:, 1:].mT, lower.back)
            for layer, lower in itertools.pairwise(self.layers[::-1])
        ]
        last = self.layers[-1]
        weight, d_weight = pair("head.linear.weight")
        bias, d_bias = pair("head.linear.bias")
        self.head_bias, self.d_head_bias = bias.mT, d_bias.mT
        self.head = product(weight, last.after.mT, space.raw)
        self.head_gradient = product(space.change, last.after, d_weight)
        self.head_back = product(space.change.mT, weight, last.back)
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

    def load(self, rows: Tensor, owner: ClosedFormGradient) -> None:
        """Gather the rows' data."""
        space, objective = self.space, owner.objective
        if owner.table is not None:
            torch.index_select(owner.table, 0, rows, out=space.flat_row)
        else:
            x = objective.x[rows]
            owner.network.block.constant(x, out=space.flat_constant)
            if space.n_cosines:
                space.cosine_by_feature.copy_(space.raw_by_feature)
        torch.index_select(objective.flat_y, 0, rows, out=space.y.view(-1))
        self.weighted = owner.weights is not None
        if owner.weights is not None:
            torch.index_select(owner.weights, 0, rows, out=space.weights.view(-1))

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
            (space.logit - space.log_scale).unsqueeze(1),
            space.z.square().unsqueeze(1),
            (-2.0 * log_spread).exp()[..., None, None],
            value=-0.5,
        )
        total = _log_sum(space.logit, 1).unsqueeze(1)
        log_prob = _log_sum(joint, 2).sub_(total).sub_(_LOG_SQRT_2PI)
        return log_prob.sub_(log_spread.unsqueeze(2))

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
            torch.cos(space.angle, out=space.cosine)
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
        self.head_back()

    def _trunk_backward(self) -> None:
        for layer, down in zip(self.layers[:0:-1], self.downs, strict=True):
            layer.differentiate()
            down()
        self.layers[0].differentiate()
        space = self.space
        if space.n_cosines:
            self.wave_back()
            torch.sin(space.angle, out=space.angle)
            space.wave.mul_(space.angle)
            torch.sum(space.wave, 1, keepdim=True, out=self.d_phase).neg_()
            space.wave.mul_(space.repeated)
            torch.sum(space.wave, 1, keepdim=True, out=self.d_frequency)
            self.d_frequency.mul_(-2.0 * math.pi)


def _log_sum(x: Tensor, dim: int) -> Tensor:
    """Return the logarithm of a sum of exponentials.

    By the largest term and its share, which no exponential that underflows slows down.
    """
    return x.amax(dim) - torch.softmax(x, dim).amax(dim).log_()


def _with_bias(weight: Tensor, bias: Tensor) -> Tensor:
    """Return weights and, before their rows, the bias; they are neighbours."""
    n_members, n_in, n_out = weight.shape
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
    before, after, back : Tensor of shape (n_members, n_batch, n_out)
        What the activation takes and gives, and what comes back.
    """

    def __init__(
        self,
        weight: Tensor,
        d_weight: Tensor,
        below: Tensor,
        before: Tensor,
        after: Tensor,
        back: Tensor,
    ) -> None:
        self.weight = weight
        self.before, self.after, self.back = before, after, back
        # What the activation took is no longer needed when something comes back.
        self.change = before
        self.affine = product(below, weight, before)
        self.gradient = product(below.mT, self.change, d_weight)

    def forward(self) -> None:
        """Compute the outputs from what is below."""
        self.affine()
        _silu(self.before, out=self.after)

    def differentiate(self) -> None:
        """Take ``back`` through the activation and write the layer's gradient."""
        _silu_backward(self.back, self.before, grad_input=self.change)
        self.gradient()
