r"""How much each view counts, and how wide the ensemble is, from held-out rows.

A linear pool of good forecasts is wider than it should be: the spread within its
members is joined by the spread between them [1]_. So after the views' weights their
scales get a common factor t,

.. math::
    \hat w = \arg\max_w \sum_i v_i \log \sum_j w_j \, p_j(y_i \mid x_i) , \qquad
    \hat t = \arg\max_t \sum_i v_i \log \sum_j \hat w_j \, p_j^{(t)}(y_i \mid x_i)
    - c (\log t)^2

where :math:`p_j^{(t)}` has components t times as wide and c is a number of rows. The
fewer rows there are, the more is added to this factor.

A network that is sure of its component leaves nothing to the others, and a row that it
is wrong about costs tens of nats. So a share of each network's weight, which the same
rows say, is divided equally among its components: they are tails at hand.

References
----------
.. [1] R. Ranjan and T. Gneiting, "Combining probability forecasts", Journal of the
   Royal Statistical Society B 72(1), 2010.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from skmdn.likelihood import log_likelihood
from skmdn.mixture import Mixture

__all__ = ["HeldOutPredictions", "stacking_weights"]

# Logarithms of the common factor.
_SPREADS = (-1.0, 0.6, 33)
_COARSE = 4

# Rows that speak for the factor 1, for each row that judges: these have also chosen
# each member's state, so that they promise too much.
_PSEUDO_SPREAD = 0.05

# Too narrow costs more than too wide: over the rows' number, added to the logarithm.
_MARGIN = 1.0

# Rows granted to the weights as they are and to equal ones.
_PSEUDO_LEVEL = (20.0, 1.0)

# Searches for the levelled share and the factor in turn.
_N_ROUNDS = 2

# Nats that chance may gain; see ``best_spread``.
_DOUBT_WIDER, _DOUBT_NARROWER = 0.5, 2.0

# The least log density that counts: a row that no view can explain, 140 standard
# deviations away, must not decide for all.
_LEAST = -1e4

# Rows, one for each factor, that are looked at together.
_ROWS_TOGETHER = 4_096

# Iterations of EM. Shares of views that are almost alike may still move after that,
# the likelihood does not.
_N_ITER = 200


class HeldOutPredictions:
    """What the members of some views say of rows that they were not trained on.

    Parameters
    ----------
    members : sequence of sequence of Mixture
        For every view and every group of rows the mixtures, of batch shape
        ``(n_members, n_samples)``, of the members that have held out this group.
    targets : sequence of (Tensor, Tensor or None)
        The groups' targets, or their ends; see
        :func:`skmdn.likelihood.log_likelihood`.
    weights : Tensor of shape (n_samples,)
        Weights of the rows of all groups; 0 for those that do not judge.
    min_scale : float, default=0.0
        What no scale falls below.
    """

    def __init__(
        self,
        members: Sequence[Sequence[Mixture]],
        targets: Sequence[tuple[Tensor, Tensor | None]],
        weights: Tensor,
        *,
        min_scale: float = 0.0,
    ) -> None:
        self.members = members
        self.targets = targets
        self.weights = weights
        self.min_scale = min_scale

    def log_prob(self, log_factor: Tensor | None = None) -> Tensor:
        """Return log-likelihoods ``(n_views, n_samples)``, scales times a factor.

        Several factors have an axis of their own, the last.
        """
        return torch.stack(
            [
                torch.cat(
                    [
                        self._of_group(mixture, ends, log_factor)
                        for mixture, ends in zip(view, self.targets, strict=True)
                    ]
                )
                for view in self.members
            ]
        )

    def _of_group(
        self,
        members: Mixture,
        ends: tuple[Tensor, Tensor | None],
        log_factor: Tensor | None,
    ) -> Tensor:
        if log_factor is not None:
            if log_factor.ndim:
                members = members.unsqueeze()
                low, high = ends
                ends = low.unsqueeze(1), None if high is None else high.unsqueeze(1)
            members = members.widen(log_factor.exp(), self.min_scale)
        log_prob = log_likelihood(members, *ends)
        pooled = torch.logsumexp(log_prob, 0) - math.log(len(log_prob))
        return pooled.clamp_min(_LEAST)

    def pool(self, shares: Tensor, log_factor: Tensor | None = None) -> Tensor:
        """Return the log-likelihoods of the views' pool, ``(n_samples,)``."""
        log_prob = self.log_prob(log_factor)
        joint = log_prob + shares.log().view(-1, *[1] * (log_prob.ndim - 1))
        return torch.logsumexp(joint, 0)

    def total(self, shares: Tensor, log_factor: Tensor | None = None) -> Tensor:
        """Return the log-likelihood of the views' pool."""
        return self.weights @ self.pool(shares, log_factor)

    def level(self, share: float | Tensor) -> "HeldOutPredictions":
        """Return the same with a share of the weights divided equally."""
        return HeldOutPredictions(
            [[mixture.level(share) for mixture in view] for view in self.members],
            self.targets,
            self.weights,
            min_scale=self.min_scale,
        )

    def best_level(self, shares: Tensor, log_factor: Tensor) -> Tensor:
        """Return the share of the weights to be divided equally.

        The pool's density is linear in it, so that it is the weight of a second view.
        """
        log_prob = [self.level(end).pool(shares, log_factor) for end in (0.0, 1.0)]
        granted = self.weights.new_tensor(_PSEUDO_LEVEL)
        shares = stacking_weights(torch.stack(log_prob), self.weights, n_pseudo=granted)
        return shares[1]

    def best_spread(
        self, shares: Tensor, n_pseudo: float = 0.0, *, doubtful: bool = False
    ) -> Tensor:
        """Return the logarithm of the factor of all scales that suits the pool.

        A coarse search, then a fine one around the best.

        Parameters
        ----------
        shares : Tensor of shape (n_views,)
            The weights of the views.
        n_pseudo : float, default=0.0
            Rows that speak for the factor 1, beside one for twenty that judge.
        doubtful : bool, default=False
            Whether the logarithm is taken towards 0 as far as it may be due to chance:
            by the share c / g of it, where g is how much likelier, in nats, it makes
            all rows, and c is 1/2, or 2 for what is narrower: the rows have chosen
            states, and promise too much.
        """
        weights = self.weights
        n_rows = max(1, int(weights.count_nonzero()))
        n_pseudo += _PSEUDO_SPREAD * n_rows
        log_factors = torch.linspace(
            *_SPREADS, dtype=weights.dtype, device=weights.device
        )
        # Together where the rows are few: it saves calls, and would take memory.
        n_together = max(1, _ROWS_TOGETHER // n_rows)
        found: dict[int, float] = {}

        def look(places: Iterable[int]) -> int:
            new = sorted(set(places) - set(found))
            for some in torch.tensor(new, dtype=torch.long).split(n_together):
                factors = log_factors[some]
                totals = self.total(shares, factors) - n_pseudo * factors.square()
                found.update(zip(some.tolist(), totals.tolist(), strict=True))
            return max(sorted(found), key=found.__getitem__)

        near = look(range(0, len(log_factors), _COARSE))
        first, last = max(0, near - _COARSE + 1), min(len(log_factors), near + _COARSE)
        best = look(range(first, last))
        if not doubtful:
            return log_factors[best] + _MARGIN / n_rows
        place = float(log_factors[best])
        if first < best < last - 1:
            place += float(log_factors[1] - log_factors[0]) * _vertex(
                *(found[i] for i in (best - 1, best, best + 1))
            )
        factor = log_factors.new_tensor(place)
        gain = float(self.total(shares, factor) - self.total(shares))
        doubt = _DOUBT_WIDER if place > 0.0 else _DOUBT_NARROWER
        return factor * max(0.0, 1.0 - doubt / max(gain, doubt))

    def level_and_spread(self, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Return the share to be divided equally and the factor that goes with it."""
        log_factor = torch.zeros_like(shares[0])
        for _ in range(_N_ROUNDS):
            share = self.best_level(shares, log_factor)
            log_factor = self.level(share).best_spread(shares)
        return share, log_factor


def _vertex(before: float, top: float, behind: float) -> float:
    """Return how many steps from the middle one of three equidistant points is best."""
    bend = before - 2.0 * top + behind
    return 0.5 * (before - behind) / bend if bend < 0.0 else 0.0


def stacking_weights(
    log_prob: Tensor, weights: Tensor, *, n_pseudo: float | Tensor = 1.0
) -> Tensor:
    r"""Return the weights of views that make held-out rows most likely.

    .. math::
        \max_w \sum_i v_i \log \sum_j w_j \, p_j(y_i \mid x_i)
        + c \sum_j \log w_j

    by expectation maximisation [1]_.

    Parameters
    ----------
    log_prob : Tensor of shape (n_views, n_samples)
        Log densities.
    weights : Tensor of shape (n_samples,)
        Row weights v.
    n_pseudo : float or Tensor of shape (n_views,), default=1.0
        Rows that each view is granted, the number c.

    Returns
    -------
    shares : Tensor of shape (n_views,)
        Positive, with sum 1.

    References
    ----------
    .. [1] Y. Yao, A. Vehtari, D. Simpson and A. Gelman, "Using stacking to average
       Bayesian predictive distributions", Bayesian Analysis 13(3), 2018.
    """
    shares = torch.full_like(log_prob[:, 0], 1.0 / len(log_prob))
    for _ in range(_N_ITER):
        joint = log_prob + shares.log().unsqueeze(1)
        expected = torch.softmax(joint, 0) @ weights + n_pseudo
        shares = expected / expected.sum()
    return shares
