r"""Finite mixtures: the one piece of mathematics behind every estimator.

.. math:: p(y) = \sum_{k=1}^K w_k \, f_k(y)

A :class:`Mixture` holds log weights and *blocks* of components. Its batch axes
are free: none for a latent prior, ``(n_samples,)`` for predictions,
``(n_members, n_samples)`` in training. Where the parameters come from is not its
concern.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .numerics.basic import log_sum_exp
from .queries.blocks import Block, pulled_back
from .queries.crps import integrated_crps, normal_crps
from .queries.draws import choose_components, normal_draws
from .queries.entropy import mixture_entropy
from .queries.modes import highest_mode
from .queries.quantiles import bracketed_quantiles, normal_quantiles

__all__ = ["Block", "Mixture"]


class Mixture:
    r"""A batch of finite mixture distributions.

    .. math:: \log p(y) = \mathrm{logsumexp}_k (\log w_k + \log f_k(y))

    Parameters
    ----------
    log_weights : Tensor of shape (..., n_components)
        Normalised log weights; ``-inf`` switches a component off.
    blocks : sequence of Block
        Their components, one block after the other, are the mixture's.

    Notes
    -----
    Points have shape ``(..., n_outputs)`` and broadcast against the batch axes.
    Where some families are discrete and others are not, the density is taken with
    respect to length and to the counting of the points with a mass together: at such a
    point it is a probability, elsewhere a density.
    Queries *per output* (:meth:`cdf`, :meth:`ppf`, :meth:`crps`) describe the
    marginal distribution of every output and keep the output axis.

    Examples
    --------
    >>> import torch
    >>> from skmdn.families import Normal
    >>> mean = torch.tensor([[-1.0], [2.0]])
    >>> block = Block(Normal(), {"mean": mean, "scale": torch.ones(2, 1)}, 2)
    >>> mixture = Mixture(torch.tensor([0.25, 0.75]).log(), [block])
    >>> mixture.mean()
    tensor([1.2500])
    """

    def __init__(self, log_weights: Tensor, blocks: Sequence[Block]) -> None:
        self.log_weights = log_weights
        self.blocks = tuple(blocks)

    @classmethod
    def from_logits(
        cls, logits: Tensor, blocks: Sequence[Block], temperature: float = 1.0
    ) -> "Mixture":
        """Normalise ``logits / temperature`` into log weights."""
        if not temperature > 0.0:
            raise ValueError(f"temperature must be positive, got {temperature!r}.")
        return cls(torch.log_softmax(logits / temperature, -1), blocks)

    @property
    def n_components(self) -> int:
        """The number of components over all blocks."""
        return self.log_weights.shape[-1]

    @property
    def n_outputs(self) -> int:
        """The dimension of a point."""
        block = self.blocks[0]
        return block.family.n_outputs(block.params)

    @property
    def batch_shape(self) -> torch.Size:
        """The shape of the batch of mixtures."""
        return self.log_weights.shape[:-1]

    @property
    def gaussian(self) -> bool:
        """Whether all components are normal, which closed forms ask for."""
        return all(block.family.gaussian for block in self.blocks)

    @property
    def weights(self) -> Tensor:
        """The mixture weights, ``(..., n_components)``."""
        return self.log_weights.exp()

    # Views of the same mixture.

    def map(self, function: Callable[[Tensor], Tensor]) -> "Mixture":
        """Apply a function (a cast, a copy, an index) to every tensor."""
        blocks = [block.map(function) for block in self.blocks]
        return Mixture(function(self.log_weights), blocks)

    def __getitem__(self, index: Any) -> "Mixture":
        """Index the leading batch axes."""
        return self.map(lambda value: value[index])

    def unsqueeze(self) -> "Mixture":
        """Add a last batch axis, along which several points can be queried."""
        axis = len(self.batch_shape)
        return self.map(lambda value: value.unsqueeze(axis))

    @staticmethod
    def concatenate(mixtures: Sequence["Mixture"], dim: int = 0) -> "Mixture":
        """Lay mixtures of the same components end to end along a batch axis."""
        first = mixtures[0]
        blocks = [
            Block(
                block.family,
                {
                    name: torch.cat([m.blocks[b].params[name] for m in mixtures], dim)
                    for name in block.params
                },
                block.n_components,
            )
            for b, block in enumerate(first.blocks)
        ]
        return Mixture(torch.cat([m.log_weights for m in mixtures], dim), blocks)

    def merge(self, log_weights: Tensor | None = None) -> "Mixture":
        r"""Merge the leading axis: an ensemble of M mixtures is one of M K parts.

        .. math:: p(y) = \sum_m v_m \sum_k w_{mk} f_{mk}(y)

        Parameters
        ----------
        log_weights : Tensor of shape (n_members, ...), optional
            Logarithms of the members' weights v, perhaps of each row; equal by
            default.

        Returns
        -------
        mixture : Mixture
            Members vary slowest along its component axis.
        """
        n_members = self.batch_shape[0]
        if log_weights is None:
            log_weights = self.log_weights.new_full((n_members,), -math.log(n_members))
        n_more = self.log_weights.ndim - log_weights.ndim
        shape = log_weights.shape + (1,) * n_more
        joint = (self.log_weights + log_weights.reshape(shape)).movedim(0, -2)
        members = []
        for block in self.blocks:
            block = block.expanded()
            params = {}
            for name, value in block.params.items():
                axis = block.component_axis(name)
                moved = value.movedim(0, axis - 1)
                params[name] = moved.flatten(axis - 1, axis)
            members.append(Block(block.family, params, n_members * block.n_components))
        return Mixture(self._interleave(joint), members)

    def _interleave(self, joint: Tensor) -> Tensor:
        """Flatten (members, components) so that each block's members lie together."""
        sizes = [block.n_components for block in self.blocks]
        return torch.cat([part.flatten(-2) for part in joint.split(sizes, -1)], -1)

    def affine(self, scale: Tensor, shift: Tensor) -> "Mixture":
        """Return the distribution of ``scale * y + shift``, one number per output."""
        blocks = [
            block.replace(block.family.affine(block.params, scale, shift))
            for block in self.blocks
        ]
        return Mixture(self.log_weights, blocks)

    def widen(self, factor: Tensor, min_scale: float = 0.0) -> "Mixture":
        """Multiply every component's deviations from its mean.

        Parameters
        ----------
        factor : Tensor
            With the batch axes of the mixture, or broadcast to them.
        min_scale : float, default=0.0
            No component is narrowed so far that one of its scales falls below this.
        """
        factor = factor[..., None, None]
        blocks = []
        for block in self.blocks:
            allowed = factor
            if min_scale:
                smallest = block.family.scales(block.params).amin(-1, keepdim=True)
                allowed = torch.maximum(factor, (min_scale / smallest).clamp_max(1.0))
            blocks.append(block.replace(block.family.widen(block.params, allowed)))
        return Mixture(self.log_weights, blocks)

    def marginal(self, outputs: list[int]) -> "Mixture":
        """Return the joint distribution of some of the outputs, in that order."""
        blocks = []
        for block in self.blocks:
            family = block.family.for_outputs(outputs)
            params = block.family.marginal(block.params, outputs)
            blocks.append(Block(family, params, block.n_components))
        return Mixture(self.log_weights, blocks)

    def choose(self, components: Sequence[int]) -> "Mixture":
        """Return the mixture of some components, whose weights sum to 1 again."""
        blocks, first = [], 0
        for block in self.blocks:
            last = first + block.n_components
            inside = [c - first for c in components if first <= c < last]
            first = last
            if inside:
                full, params = block.expanded(), {}
                for name, value in full.params.items():
                    index = torch.tensor(inside, device=value.device)
                    axis = block.component_axis(name)
                    params[name] = value.index_select(axis, index)
                blocks.append(Block(block.family, params, len(inside)))
        log_weights = self.log_weights[..., sorted(components)]
        return Mixture(torch.log_softmax(log_weights, -1), blocks)

    def temper(self, temperature: float) -> "Mixture":
        """Divide the logits of the weights by a temperature."""
        if temperature == 1.0:
            return self
        # The largest logit is 0: however cold, one component is left.
        logits = self.log_weights - self.log_weights.amax(-1, keepdim=True)
        return Mixture.from_logits(logits, self.blocks, temperature)

    def level(self, share: float | Tensor) -> "Mixture":
        r"""Divide a share s of the weight equally among the components.

        .. math:: w_k' = (1 - s) w_k + s / K
        """
        share = torch.as_tensor(share).to(self.log_weights)
        log_weights = torch.logaddexp(
            self.log_weights + torch.log1p(-share),
            share.log() - math.log(self.n_components),
        )
        return Mixture(log_weights, self.blocks)

    def condition(self, outputs: list[int], values: Tensor) -> "Mixture":
        r"""Return the distribution of the other outputs given the values of these.

        .. math:: p(y_a \mid y_b) = \sum_k r_k f_k(y_a \mid y_b), \quad
            r_k \propto w_k f_k(y_b)

        Parameters
        ----------
        outputs : list of int
            The outputs b that are known.
        values : Tensor of shape (..., len(outputs))
            What they are.
        """
        rest = [d for d in range(self.n_outputs) if d not in outputs]
        blocks, log_probs = [], []
        for block in self.blocks:
            params, log_prob = block.family.condition(
                block.params, outputs, values.unsqueeze(-2)
            )
            family = block.family.for_outputs(rest)
            blocks.append(Block(family, params, block.n_components))
            log_probs.append(log_prob)
        joint = self.log_weights + torch.cat(log_probs, -1)
        blocks = [block.expand_batch(joint.shape[:-1]) for block in blocks]
        return Mixture(torch.log_softmax(joint, -1), blocks)

    # Densities.

    def log_joint(self, y: Tensor) -> Tensor:
        """Return log w_k + log f_k(y) in nats, ``(..., n_components)``."""
        y = y.unsqueeze(-2)
        parts = [block.family.log_prob(block.params, y) for block in self.blocks]
        if len(parts) == 1:
            return self.log_weights + parts[0]
        discrete = [block.family.discrete for block in self.blocks]
        if any(discrete) and not all(discrete):
            parts = self._without_mass_points(parts, y)
        return self.log_weights + torch.cat(parts, -1)

    def _without_mass_points(self, parts: list[Tensor], y: Tensor) -> list[Tensor]:
        """Take the continuous components away from points that have a probability.

        The density is one with respect to lengths and the counting of these points
        together: at such a point a component without a mass there adds nothing.
        """
        masses = [
            block.family.contains(y).all(-1)
            for block in self.blocks
            if block.family.discrete
        ]
        at_mass = torch.stack(torch.broadcast_tensors(*masses)).any(0)
        return [
            part if block.family.discrete else part.masked_fill(at_mass, -math.inf)
            for block, part in zip(self.blocks, parts, strict=True)
        ]

    def log_prob(self, y: Tensor) -> Tensor:
        """Return the log density of points ``(..., n_outputs)`` in nats."""
        return log_sum_exp(self.log_joint(y))

    def responsibilities(self, y: Tensor) -> Tensor:
        """Return p(component | y), ``(..., n_components)``."""
        return torch.softmax(self.log_joint(y), -1)

    # Moments.

    def component_means(self) -> Tensor:
        """Return the components' means, ``(..., n_components, n_outputs)``."""
        return self._gather(lambda b: b.family.mean(b.params))

    def component_stds(self) -> Tensor:
        """Return the components' standard deviations, shaped like their means."""
        return self._gather(lambda b: b.family.std(b.params))

    def component_covariances(self) -> Tensor:
        """Return ``(..., n_components, n_outputs, n_outputs)``."""
        return self._gather(lambda b: b.family.covariance(b.params))

    def component_precisions(self) -> Tensor:
        """Return the inverses of the covariances, computed without inverting them."""
        return self._gather(lambda b: b.family.precision(b.params))

    def _gather(self, query: Callable[[Block], Tensor]) -> Tensor:
        parts = [query(block) for block in self.blocks]
        axis = len(self.batch_shape)
        return parts[0] if len(parts) == 1 else torch.cat(parts, axis)

    def mean(self) -> Tensor:
        """Return the mean, ``(..., n_outputs)``."""
        return self._average(self._heard(self.component_means()))

    def variance(self) -> Tensor:
        """Return the variance of every output by the law of total variance."""
        mean = self.mean().unsqueeze(-2)
        offset = torch.where(mean.isinf(), mean, self.component_means() - mean)
        squares = self.component_stds().square() + offset.square()
        return self._average(self._heard(squares))

    def _heard(self, values: Tensor) -> Tensor:
        """Silence components of weight 0, whose moments may be infinite."""
        return values.masked_fill((self.log_weights == -math.inf).unsqueeze(-1), 0.0)

    def covariance(self) -> Tensor:
        """Return the covariance matrix by the law of total covariance."""
        offset = self.component_means() - self.mean().unsqueeze(-2)
        between = offset.unsqueeze(-1) * offset.unsqueeze(-2)
        weights = self.weights[..., None, None]
        return (weights * (self.component_covariances() + between)).sum(-3)

    def _average(self, values: Tensor) -> Tensor:
        if values.shape[-1] == 1:
            return (self.weights * values.squeeze(-1)).sum(-1, keepdim=True)
        return (self.weights.unsqueeze(-1) * values).sum(-2)

    # Queries per output.

    def cdf(self, y: Tensor) -> Tensor:
        """Return P(Y_d <= y_d) for every output, shaped like ``y``."""
        y = y.unsqueeze(-2)
        cdf = self._average(self.per_point(lambda b: b.family.cdf(b.params, y)))
        return cdf.clamp(max=1.0)

    def sf(self, y: Tensor) -> Tensor:
        """Return P(Y_d > y_d) for every output, accurate where it is small."""
        y = y.unsqueeze(-2)
        sf = self._average(self.per_point(lambda b: b.family.sf(b.params, y)))
        return sf.clamp(max=1.0)

    def log_cdf(self, y: Tensor) -> Tensor:
        """Return log P(Y_d <= y_d), also where the probability itself underflows."""
        y = y.unsqueeze(-2)
        return self._log_average(
            self.per_point(lambda b: b.family.log_cdf(b.params, y))
        )

    def log_sf(self, y: Tensor) -> Tensor:
        """Return log P(Y_d > y_d), also where the probability itself underflows."""
        y = y.unsqueeze(-2)
        return self._log_average(self.per_point(lambda b: b.family.log_sf(b.params, y)))

    def _log_average(self, logs: Tensor) -> Tensor:
        joint = self.log_weights.unsqueeze(-1) + logs
        return torch.logsumexp(joint, -2).clamp_max(0.0)

    def per_point(self, query: Callable[[Block], Tensor]) -> Tensor:
        """Return what is asked of every block, side by side on the component axis."""
        parts = [query(block) for block in self.blocks]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -2)

    def ppf(self, q: Tensor) -> Tensor:
        r"""Return the quantiles of every output.

        Those of normal components come from
        :func:`skmdn.queries.quantiles.normal_quantiles`, those of others from
        :func:`skmdn.queries.quantiles.bracketed_quantiles`.

        Parameters
        ----------
        q : Tensor of shape (n_levels,)
            Levels in (0, 1).

        Returns
        -------
        quantiles : Tensor of shape (..., n_levels, n_outputs)
        """
        inner, onto = pulled_back(self)
        if onto is not None:
            return onto.forward(inner.ppf(q))
        if not self.gaussian:
            return bracketed_quantiles(self, q)
        means, stds = self.component_means().mT, self.component_stds().mT
        weights = self.weights.unsqueeze(-2).expand_as(means)
        shape = (-1, self.n_components)
        quantiles = normal_quantiles(
            weights.reshape(shape), means.reshape(shape), stds.reshape(shape), q
        )
        return quantiles.reshape(*means.shape[:-1], len(q)).mT

    def crps(self, y: Tensor) -> Tensor:
        """Return the continuous ranked probability score of every output.

        See :func:`skmdn.queries.crps.normal_crps`; for other families than the normal
        :func:`skmdn.queries.crps.integrated_crps`.
        """
        if not self.gaussian:
            return integrated_crps(self, y)
        return normal_crps(
            self.weights, self.component_means(), self.component_stds(), y
        )

    # The whole distribution.

    def sample(self, n_draws: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw from every mixture of the batch.

        The component is chosen first and its parameters gathered, so that a
        component of weight 0 never touches a draw. Normal components of one output
        need a single random number per draw (:func:`skmdn.queries.draws.normal_draws`).

        Returns
        -------
        draws : Tensor of shape (..., n_draws, n_outputs)
        """
        inner, onto = pulled_back(self)
        if onto is not None:
            return onto.forward(inner.sample(n_draws, generator))
        shape = (*self.batch_shape, n_draws)
        weights = self.weights.detach().reshape(-1, self.n_components)
        if self.is_plain():
            means = self.component_means().reshape(weights.shape)
            stds = self.component_stds().reshape(weights.shape)
            draws = normal_draws(weights, means, stds, n_draws, generator)
            return draws.reshape(*shape, 1)
        component = choose_components(weights, n_draws, generator)
        row = torch.arange(component.shape[0], device=component.device).unsqueeze(-1)
        if len(self.blocks) == 1:
            flat = row * self.n_components + component
            draws = self.blocks[0].family.draw(self.blocks[0].take(flat), generator)
            return draws.reshape(shape + draws.shape[-1:])
        draws = self.log_weights.new_empty((*component.shape, self.n_outputs))
        first = 0
        for block in self.blocks:
            inside = (component >= first) & (component < first + block.n_components)
            flat = row * block.n_components + component - first
            draws[inside] = block.family.draw(block.take(flat[inside]), generator)
            first += block.n_components
        return draws.reshape(shape + draws.shape[-1:])

    def is_plain(self) -> bool:
        """Whether :func:`normal_draws` applies, which has no gradient."""
        tensors = [value for block in self.blocks for value in block.params.values()]
        return (
            self.gaussian
            and self.n_outputs == 1
            and self.log_weights.dtype == torch.float64
            and not any(value.requires_grad for value in tensors)
        )

    def mode(self) -> Tensor:
        """Return the highest mode, ``(..., n_outputs)``.

        See :func:`skmdn.queries.modes.highest_mode`.
        """
        return highest_mode(self)

    def entropy(self) -> Tensor:
        """Return the entropy of one-dimensional mixtures in nats.

        See :func:`skmdn.queries.entropy.mixture_entropy`.
        """
        return mixture_entropy(self)
