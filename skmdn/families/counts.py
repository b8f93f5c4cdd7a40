"""Components of counts: masses at 0, 1, 2, ..."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from skmdn.numerics.basic import find_root
from skmdn.numerics.far_tails import log_beta_tails, log_gamma_tails
from skmdn.numerics.special import betainc, betaincc, gammainc, gammaincc
from skmdn.numerics.tails import less_log, stirling

from .base import IndependentFamily, Params, inverse_softplus

__all__ = ["Bernoulli", "NegativeBinomial", "Poisson"]

# Means stay between these, where the tails are exact. A width of 1e-8, the least,
# cannot be told from one of 0, the Poisson limit, by counts below 1e8.
_LEAST_MEAN = 1e-8
_MOST_MEAN = 1e12
_LEAST_WIDTH = 1e-8
# Where components start at the outermost: the links are flat beyond.
_START_MEAN = 1e-3
_START_WIDTH = (0.1, 10.0)
_START_CHANCE = 0.01

_MAX_DOUBLINGS = 100
_MAX_STEPS = 64


def _mean_link(raw: Tensor) -> Tensor:
    """Return the exponential: a network sees the size of counts by its logarithm."""
    return _LEAST_MEAN + raw.clamp_max(math.log(_MOST_MEAN)).exp()


def _inverse_mean_link(mean: Tensor) -> Tensor:
    """Return the unconstrained number of a mean, which does not start too near 0."""
    return (mean.clamp_min(_START_MEAN) - _LEAST_MEAN).log()


@dataclass(frozen=True)
class Counts(IndependentFamily):
    """Base of families of integers that begin at 0.

    A count has no units to choose: only the change that changes nothing keeps the
    family. Neither can its deviations be stretched, as its points stay where they
    are. And nothing can collapse: a probability is at most 1, however narrow the
    component.
    """

    discrete: ClassVar[bool] = True
    units: ClassVar[str] = "none"
    mirrors: ClassVar[bool] = False

    def scales(self, params: Params) -> Tensor:
        """Return ones: the likelihood is bounded without a prior."""
        return torch.ones_like(self.mean(params))

    def affine(self, params: Params, scale: Tensor, shift: Tensor) -> Params:
        """Return the parameters: ``scale`` is 1 and ``shift`` is 0 for counts."""
        return params

    def log_interval(self, params: Params, low: Tensor, high: Tensor) -> Tensor:
        """Return log P(low <= Y <= high): the tails begin between the integers."""
        return self._log_interval(params, low.ceil() - 0.5, high)[0]

    def masses_between(
        self, params: Params, low: Tensor, high: Tensor, most: int
    ) -> Tensor | None:
        """Return the integers of each interval; the last is repeated in short ones."""
        first, last = self.nearest_mass(params, low.ceil()), high.floor()
        n = int((last - first).max()) + 1
        if n > most:
            return None
        steps = torch.arange(max(n, 0), dtype=first.dtype, device=first.device)
        return torch.minimum(
            first.unsqueeze(-2) + steps.unsqueeze(-1), last.unsqueeze(-2)
        )

    def nearest_mass(self, params: Params, y: Tensor) -> Tensor:
        """Return the nearest integer that is not negative."""
        return y.round().clamp_min(0.0)


@dataclass(frozen=True)
class Unbounded(Counts):
    """Base of families of all non-negative integers.

    A subclass writes the mass at integers and both tails, continued from the
    integers to all numbers that are not negative.
    """

    def _log_mass(self, params: Params, k: Tensor) -> Tensor:
        raise NotImplementedError

    def _tail(self, params: Params, k: Tensor, upper: bool) -> Tensor:
        raise NotImplementedError

    def _log_tails(self, params: Params, k: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def contains(self, y: Tensor) -> Tensor:
        """Tell for each number whether it is a count."""
        return (y >= 0.0) & (y == y.floor()) & y.isfinite()

    def overlaps(self, low: Tensor, high: Tensor) -> Tensor:
        """Tell for each closed interval whether it has a count."""
        return low.ceil().clamp_min(0.0) <= high.floor()

    def support(self) -> str:
        """Return the support in words, for messages."""
        return "non-negative integers"

    def log_density(self, params: Params, y: Tensor) -> Tensor:
        """Return the log probability of every output, -inf between the integers."""
        inside = self.contains(y)
        mass = self._log_mass(params, torch.where(inside, y, 0.0))
        return torch.where(inside, mass, -torch.inf)

    def cdf(self, params: Params, y: Tensor) -> Tensor:
        """Return P(Y <= y), a staircase."""
        return self._stairs(params, y, upper=False)

    def sf(self, params: Params, y: Tensor) -> Tensor:
        """Return P(Y > y), a staircase."""
        return self._stairs(params, y, upper=True)

    def log_tails(self, params: Params, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return log P(Y <= y) and log P(Y > y), however small."""
        lower, upper = self._log_tails(params, self._step(y))
        below, above = y < 0.0, y == torch.inf
        lower = lower.masked_fill(below, -torch.inf).masked_fill(above, 0.0)
        return lower, upper.masked_fill(below, 0.0).masked_fill(above, -torch.inf)

    @staticmethod
    def _step(y: Tensor) -> Tensor:
        """Return the integer below, 0 outside."""
        y = y.detach()
        return torch.where((y < 0.0) | (y == torch.inf), 0.0, y).floor()

    def _stairs(self, params: Params, y: Tensor, upper: bool) -> Tensor:
        """Return a tail at the integer below."""
        tail = self._tail(params, self._step(y), upper)
        tail = torch.where(y < 0.0, float(upper), tail)
        return torch.where(y == torch.inf, float(not upper), tail)

    @torch.no_grad()
    def ppf(self, params: Params, q: Tensor) -> Tensor:
        """Return the smallest integers n with F(n) >= q.

        Levels above one half compare the upper tails, which have more digits.
        """
        level, *values = torch.broadcast_tensors(q, *params.values())
        flat = [value.reshape(-1) for value in values]
        goal = level.reshape(-1).double()
        found = torch.full_like(goal, torch.nan)
        for upper, side in ((False, goal <= 0.5), (True, (goal > 0.5) & (goal < 1.0))):
            index = side.nonzero().squeeze(-1)
            if len(index):
                part = {
                    name: value[index].double()
                    for name, value in zip(params, flat, strict=True)
                }
                found[index] = self._search(part, goal[index], upper)
        found = torch.where(goal == 1.0, torch.inf, found)
        return found.reshape(level.shape).to(values[0].dtype)

    def _search(self, params: Params, q: Tensor, upper: bool) -> Tensor:
        """Find the root of the continued tail, then step to the integer."""
        goal, sign = (1.0 - q, -1.0) if upper else (q, 1.0)
        normal_goal = torch.special.ndtri(goal)

        def reached(n: Tensor) -> Tensor:
            tail = self._tail(params, n.clamp_min(0.0), upper)
            return tail <= goal if upper else tail >= goal

        def excess(x: Tensor) -> Tensor:
            # In normal deviates the staircase is almost a straight line.
            normal = torch.special.ndtri(self._tail(params, x, upper))
            return sign * (normal - normal_goal)

        low = torch.zeros_like(goal)
        high = self.mean(params) + 10.0 * self.std(params) + 10.0
        for _ in range(_MAX_DOUBLINGS):
            short = ~reached(high)
            if not bool(short.any()):
                break
            low = torch.where(short, high, low)
            high = torch.where(short, 2.0 * high, high)
        root = find_root(excess, low, high, torch.full_like(goal, 0.25))
        n = root.ceil().clamp_min(0.0)
        for _ in range(_MAX_STEPS):
            climb = ~reached(n)
            descend = ~climb & (n > 0.0) & reached(n - 1.0)
            if not bool((climb | descend).any()):
                break
            n = n + climb.to(n.dtype) - descend.to(n.dtype)
        return n


@dataclass(frozen=True)
class Poisson(Unbounded):
    r"""Poisson components: counts of events that do not know of each other.

    .. math:: P(Y = k) = \frac{\lambda^k e^{-\lambda}}{k!}

    The probability is written with the deviance, as in [1]_, so that it keeps its
    digits where the rate is large.

    References
    ----------
    .. [1] C. Loader, "Fast and accurate computation of binomial probabilities", 2000.
    """

    raw_names: ClassVar[tuple[str, ...]] = ("rate",)
    event_ranks: ClassVar[dict[str, int]] = {"rate": 1}

    def from_raw(self, raw: Params, min_scale: float) -> Params:
        """Apply the exponential; ``min_scale`` is for families with a scale."""
        return {"rate": _mean_link(raw["rate"])}

    def start(self, centers: Tensor, spreads: Tensor, min_scale: float) -> Params:
        """Match the means, which are the variances too."""
        return {"rate": _inverse_mean_link(centers)}

    def _log_mass(self, params: Params, k: Tensor) -> Tensor:
        """Return minus half the deviance less the logarithm of a normaliser."""
        rate = params["rate"]
        positive = k.clamp_min(1.0)
        ratio = rate / positive
        deviance = positive * less_log((rate - positive) / positive, ratio)
        return -torch.where(k == 0.0, rate, deviance + stirling(positive))

    def _tail(self, params: Params, k: Tensor, upper: bool) -> Tensor:
        """Return a tail, which is the other one of a gamma law."""
        k, rate = torch.broadcast_tensors(k, params["rate"])
        return (gammainc if upper else gammaincc)(k + 1.0, rate)

    def _log_tails(self, params: Params, k: Tensor) -> tuple[Tensor, Tensor]:
        upper, lower = log_gamma_tails(k + 1.0, params["rate"])
        return lower, upper

    def draw(self, params: Params, generator: torch.Generator | None) -> Tensor:
        """Draw counts."""
        return torch.poisson(params["rate"], generator=generator)

    def mean(self, params: Params) -> Tensor:
        """Return the rates."""
        return params["rate"]

    def std(self, params: Params) -> Tensor:
        """Return the roots of the rates."""
        return params["rate"].sqrt()


@dataclass(frozen=True)
class NegativeBinomial(Unbounded):
    r"""Negative binomial components: counts that scatter more than Poisson ones.

    .. math::
        P(Y = k) = \frac{\Gamma(r + k)}{\Gamma(r)\, k!}
        \left(\frac{r}{r + \mu}\right)^r \left(\frac{\mu}{r + \mu}\right)^k,
        \qquad \mathrm{Var}(Y) = \mu + \mu^2 / r

    The network makes the width :math:`1 / \sqrt{r}`, the relative standard deviation
    of the gamma variable that a Poisson rate is multiplied by: 0 is the Poisson limit.
    The probability is written with the deviance, as in [1]_, which keeps the digits
    there.

    References
    ----------
    .. [1] C. Loader, "Fast and accurate computation of binomial probabilities", 2000.
    """

    raw_names: ClassVar[tuple[str, ...]] = ("mean", "width")
    event_ranks: ClassVar[dict[str, int]] = {"mean": 1, "concentration": 1}

    def from_raw(self, raw: Params, min_scale: float) -> Params:
        """Apply the exponential and softplus; ``min_scale`` is for others."""
        width = _LEAST_WIDTH + torch.nn.functional.softplus(raw["width"])
        return {
            "mean": _mean_link(raw["mean"]),
            "concentration": width.square().reciprocal(),
        }

    def start(self, centers: Tensor, spreads: Tensor, min_scale: float) -> Params:
        """Match means and, where there is more than Poisson noise, deviations."""
        mean = centers.clamp_min(_START_MEAN)
        extra = (spreads.square() - mean).clamp_min(0.0).sqrt()
        width = (extra / mean).clamp(*_START_WIDTH)
        return {
            "mean": _inverse_mean_link(mean),
            "width": inverse_softplus(width - _LEAST_WIDTH),
        }

    def _log_mass(self, params: Params, k: Tensor) -> Tensor:
        """Return the log probability as that of r among r + k, times r / (r + k)."""
        mean, r = params["mean"], params["concentration"]
        positive = k.clamp_min(1.0)
        total, drawn = r + mean, r + k
        # Relative distances of r and k from what is expected of them
        over = (k - mean) / total
        under = (mean - k) / positive * (r / total)
        deviance = r * less_log(over, drawn / total)
        deviance = deviance + positive * less_log(
            under, (mean / positive) * (drawn / total)
        )
        ways = stirling(drawn) - stirling(r) - stirling(positive) - (k / r).log1p()
        return torch.where(k == 0.0, -r * (mean / r).log1p(), ways - deviance)

    def _tail(self, params: Params, k: Tensor, upper: bool) -> Tensor:
        """Return a tail of a beta law, given the smaller of its two odds."""
        k, mean, r = torch.broadcast_tensors(k, params["mean"], params["concentration"])
        total = r + mean
        few = mean <= r
        tail = torch.empty_like(total)
        lower, other = (betaincc, betainc) if upper else (betainc, betaincc)
        tail[few] = other(k[few] + 1.0, r[few], (mean / total)[few])
        many = ~few
        tail[many] = lower(r[many], k[many] + 1.0, (r / total)[many])
        return tail

    def _log_tails(self, params: Params, k: Tensor) -> tuple[Tensor, Tensor]:
        mean, r = params["mean"], params["concentration"]
        few = mean <= r
        share = torch.where(few, mean, r) / (r + mean)
        first, second = torch.where(few, k + 1.0, r), torch.where(few, r, k + 1.0)
        inner, outer = log_beta_tails(first, second, share)
        return torch.where(few, outer, inner), torch.where(few, inner, outer)

    def draw(self, params: Params, generator: torch.Generator | None) -> Tensor:
        """Draw counts whose rates are gamma variables."""
        mean, r = params["mean"], params["concentration"]
        rate = torch._standard_gamma(r, generator=generator) * (mean / r)
        return torch.poisson(rate, generator=generator)

    def mean(self, params: Params) -> Tensor:
        """Return the means."""
        return params["mean"]

    def std(self, params: Params) -> Tensor:
        """Return the root of mean + mean^2 / r."""
        mean = params["mean"]
        return (mean * (1.0 + mean / params["concentration"])).sqrt()


@dataclass(frozen=True)
class Bernoulli(Counts):
    r"""Bernoulli components: yes or no.

    .. math:: P(Y = 1) = 1 - P(Y = 0) = \frac{1}{1 + e^{-\ell}}
    """

    raw_names: ClassVar[tuple[str, ...]] = ("logit",)
    event_ranks: ClassVar[dict[str, int]] = {"logit": 1}

    def contains(self, y: Tensor) -> Tensor:
        """Tell for each number whether it is 0 or 1."""
        return (y == 0.0) | (y == 1.0)

    def overlaps(self, low: Tensor, high: Tensor) -> Tensor:
        """Tell for each closed interval whether it has 0 or 1."""
        return low.ceil().clamp_min(0.0) <= high.floor().clamp_max(1.0)

    def support(self) -> str:
        """Return the support in words, for messages."""
        return "0 and 1"

    def nearest_mass(self, params: Params, y: Tensor) -> Tensor:
        """Return the nearer of 0 and 1."""
        return y.round().clamp(0.0, 1.0)

    def from_raw(self, raw: Params, min_scale: float) -> Params:
        """Return the logit as it is; ``min_scale`` is for families with a scale."""
        return {"logit": raw["logit"]}

    def start(self, centers: Tensor, spreads: Tensor, min_scale: float) -> Params:
        """Match the means, which say all; none starts quite certain."""
        chance = centers.clamp(_START_CHANCE, 1.0 - _START_CHANCE)
        return {"logit": torch.logit(chance)}

    def log_density(self, params: Params, y: Tensor) -> Tensor:
        """Return the log probability of every output."""
        inside = self.contains(y)
        sign = 2.0 * torch.where(inside, y, 0.0) - 1.0
        mass = torch.nn.functional.logsigmoid(sign * params["logit"])
        return torch.where(inside, mass, -torch.inf)

    def draw(self, params: Params, generator: torch.Generator | None) -> Tensor:
        """Draw zeros and ones."""
        return torch.bernoulli(self.mean(params), generator=generator)

    def mean(self, params: Params) -> Tensor:
        """Return the probabilities of 1."""
        return torch.sigmoid(params["logit"])

    def std(self, params: Params) -> Tensor:
        """Return the root of the product of both probabilities."""
        logit = params["logit"]
        return (torch.sigmoid(logit) * torch.sigmoid(-logit)).sqrt()

    def cdf(self, params: Params, y: Tensor) -> Tensor:
        """Return 0, P(Y = 0) or 1."""
        zero = torch.sigmoid(-params["logit"])
        return torch.where(y < 0.0, 0.0, torch.where(y < 1.0, zero, 1.0))

    def sf(self, params: Params, y: Tensor) -> Tensor:
        """Return 1, P(Y = 1) or 0."""
        one = torch.sigmoid(params["logit"])
        return torch.where(y < 0.0, 1.0, torch.where(y < 1.0, one, 0.0))

    def log_tails(self, params: Params, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return log P(Y <= y) and log P(Y > y)."""
        zero = torch.nn.functional.logsigmoid(-params["logit"])
        one = torch.nn.functional.logsigmoid(params["logit"])
        below, above = y < 0.0, y >= 1.0
        lower = torch.where(above, 0.0, zero).masked_fill(below, -torch.inf)
        return lower, torch.where(below, 0.0, one).masked_fill(above, -torch.inf)

    def ppf(self, params: Params, q: Tensor) -> Tensor:
        """Return 0 up to the probability of 0, then 1; high levels ask that of 1."""
        logit = params["logit"]
        low, high = q > torch.sigmoid(-logit), torch.sigmoid(logit) > 1.0 - q
        return torch.where(q > 0.5, high, low).to(logit.dtype)
