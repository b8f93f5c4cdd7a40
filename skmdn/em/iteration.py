"""The loops: over all rows at once, and over batches of a stream."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .expectation import e_step
from .maximization import Priors, log_prior, m_step
from .parameters import Parameters
from .rows import Rows
from .statistics import Statistics

__all__ = ["Fit", "Online", "Past", "run"]

# Once the weight seen is g times as large, what was seen before counts this power of
# 1 / g.
_FORGETTING = 3.0


@dataclass
class Fit:
    """What became of several runs.

    Attributes
    ----------
    parameters : Parameters
        The last ones of every run.
    bounds : list of list of float
        For each run the log posterior per unit of weight before every step.
    converged : list of bool
        Whether a run stopped by itself.
    sound : list of bool
        Whether its covariances stayed positive definite.
    """

    parameters: Parameters
    bounds: list[list[float]]
    converged: list[bool]
    sound: list[bool]

    def order(self, margin: float = 0.0, favourite: int = 0) -> list[int]:
        """Return the sound runs, the best first; of equals the first is better.

        A favourite comes before others that are better by no more than the margin.
        """
        sound = [r for r, good in enumerate(self.sound) if good]
        lead = {favourite: margin}
        return sorted(sound, key=lambda r: -_last(self.bounds[r]) - lead.get(r, 0.0))


def _last(bounds: list[float]) -> float:
    if not bounds or math.isnan(bounds[-1]):
        return -math.inf
    return bounds[-1]


def run(
    parameters: Parameters,
    rows: Rows,
    priors: Priors,
    *,
    tol: float,
    max_iter: int,
    before: float = -math.inf,
    table: Tensor | None = None,
    report: Callable[[int, list[float]], None] | None = None,
) -> Fit:
    """Alternate both steps until the log posterior of a run rises by less than tol.

    Parameters
    ----------
    parameters : Parameters
        Where the runs begin.
    rows : Rows
        The data.
    priors : Priors
        What is known beforehand; counted once.
    tol : float
        In nats per unit of weight.
    max_iter : int
        The most steps of each kind.
    before : float, default=-inf
        The log posterior per unit of weight of an earlier fit that goes on.
    table : Tensor of shape (n_labels, n_components), optional
        0 where a row of that label may have the component, otherwise -inf.
    report : callable, optional
        Called after each step with its number and the changes of the active runs; a
        true answer stops all runs.

    Returns
    -------
    fit : Fit
        Each run as far as it went.
    """
    n_runs = parameters.shape[0]
    fit = Fit(
        parameters, [[] for _ in range(n_runs)], [False] * n_runs, [True] * n_runs
    )
    active = list(range(n_runs))
    for iteration in range(1, max_iter + 1):
        chosen = torch.tensor(active, device=parameters.means.device)
        # A copy of all runs is made only once some have stopped.
        current = fit.parameters if len(active) == n_runs else fit.parameters[chosen]
        log_likelihood, statistics = e_step(current, rows, table)
        bounds = (log_likelihood + log_prior(current, priors)) / rows.total
        better, sound = m_step(statistics, current, priors)
        fit.parameters = (
            better if len(active) == n_runs else fit.parameters.replaced(chosen, better)
        )
        changes, going = [], []
        for r, bound, good in zip(active, bounds.tolist(), sound.tolist(), strict=True):
            change = bound - (fit.bounds[r][-1] if fit.bounds[r] else before)
            fit.bounds[r].append(bound)
            changes.append(change)
            fit.sound[r] = good
            fit.converged[r] = good and abs(change) < tol
            if good and not fit.converged[r]:
                going.append(r)
        active = going
        if (report is not None and report(iteration, changes)) or not active:
            break
    return fit


@dataclass(frozen=True)
class Past:
    """What earlier batches have left.

    Attributes
    ----------
    statistics : Statistics or None
        Of one unit of weight; None before the first batch.
    seen : float
        The weight of all rows so far.
    """

    statistics: Statistics | None = None
    seen: float = 0.0

    def with_batch(self, statistics: Statistics, weight: float) -> "Past":
        """Return the past after a batch of this weight, given its statistics."""
        latest = statistics.scaled(1.0 / weight)
        seen = self.seen + weight
        if self.statistics is None:
            return Past(latest, seen)
        kept = (self.seen / seen) ** _FORGETTING
        earlier = self.statistics.to(latest).scaled(kept)
        return Past(earlier.merged(latest.scaled(1.0 - kept)), seen)

    def of(self, run: int) -> "Past":
        """Return what belongs to one run, on the CPU."""
        kept = self.statistics
        if kept is not None:
            part = slice(run, run + 1)
            kept = Statistics(
                kept.counts[part].cpu(),
                kept.means[part].cpu(),
                kept.scatters[part].cpu(),
            )
        return Past(kept, self.seen)


class Online:
    r"""Stepwise expectation maximisation over batches [1]_.

    .. math:: s \leftarrow (1 - \eta) \, s + \eta \, \hat s(\text{batch}),
        \qquad \eta = 1 - \Bigl(\frac{w}{w + w_\text{batch}}\Bigr)^3

    with w the weight of all rows before. What is kept of the past depends on how much
    has been seen since, not on the batches in which it came. The statistics s are those
    of one unit of weight; the step that maximises sees them times all the weight there
    is, so that priors are counted once.

    Parameters
    ----------
    parameters : Parameters
        Where to begin.
    priors : Priors
        What is known beforehand.
    total : float, optional
        The weight of all rows. By default that of the rows seen so far.
    past : Past, optional
        What earlier batches have left.

    References
    ----------
    .. [1] O. Cappe and E. Moulines, "On-line expectation-maximization algorithm for
       latent data models", Journal of the Royal Statistical Society B 71(3), 2009.
    """

    def __init__(
        self,
        parameters: Parameters,
        priors: Priors,
        total: float | None = None,
        past: Past | None = None,
    ) -> None:
        self.parameters = parameters
        self.priors = priors
        self.total = total
        self.past = Past() if past is None else past

    def step(self, rows: Rows, table: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Learn from a batch.

        Parameters
        ----------
        rows : Rows
            The batch.
        table : Tensor of shape (n_labels, n_components), optional
            0 where a row of that label may have the component, otherwise -inf.

        Returns
        -------
        bounds : Tensor of shape (n_runs,)
            The log posterior per unit of weight of the batch, before the step.
        sound : Tensor of shape (n_runs,)
            Whether the covariances stayed positive definite; otherwise the run keeps
            the parameters it had.
        """
        log_likelihood, statistics = e_step(self.parameters, rows, table)
        self.past = self.past.with_batch(statistics, rows.total)
        total = self.past.seen if self.total is None else self.total
        bounds = log_likelihood / rows.total
        bounds = bounds + log_prior(self.parameters, self.priors) / total
        assert self.past.statistics is not None
        statistics = self.past.statistics.scaled(total)
        better, sound = m_step(statistics, self.parameters, self.priors)
        kept = sound.nonzero().view(-1)
        self.parameters = self.parameters.replaced(kept, better[kept])
        return bounds, sound
