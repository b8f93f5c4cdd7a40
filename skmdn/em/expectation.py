r"""What each row says about the components: the expectation step.

The log density of a row is a linear function of its features :math:`x_i x_j, x_i, 1`,
and the statistics are sums of the same features: a block of rows takes two matrix
products, however many runs and components there are. Where that form would lose digits,
deviations from each mean are formed instead.
"""

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from skmdn.numerics.basic import least_exponent

from .kernels import Kernel, block_length, expanded_is_safe, make_kernel
from .parameters import Parameters
from .rows import Block, Rows
from .scattered import ScatteredMatrices, scattered_length
from .statistics import Statistics

__all__ = ["e_step", "impute", "log_density", "moments_of", "responsibilities"]


def e_step(
    parameters: Parameters, rows: Rows, table: Tensor | None = None
) -> tuple[Tensor, Statistics]:
    r"""Return the log-likelihood of each run and the statistics of its components.

    Missing numbers are integrated out: their expected values and squares, given what
    is there, enter the statistics.

    Parameters
    ----------
    parameters : Parameters
        The mixtures.
    rows : Rows
        The data.
    table : Tensor of shape (n_labels, n_components), optional
        0 where a row of that label may have the component, otherwise -inf.

    Returns
    -------
    log_likelihood : Tensor of shape (n_runs,)
        :math:`\sum_i w_i \log p(x_i)`.
    statistics : Statistics
        Of all rows.
    """
    n_runs, n_components, n_features = parameters.shape
    log_likelihood = parameters.means.new_zeros(n_runs)
    counts = parameters.means.new_zeros(n_runs * n_components)
    firsts, seconds = None, None
    for kernel, blocks in _work(parameters, rows):
        for block in blocks:
            logits = _logits(kernel, block, table).view(n_runs, n_components, -1)
            log_density = _normalise(logits)
            if block.weights is None:
                log_likelihood += log_density.sum(-1)
            else:
                log_likelihood += log_density @ block.weights
                logits.mul_(block.weights)
            kernel.gather(logits.flatten(0, 1), block)
        n, first, second = kernel.moments()
        counts += n
        firsts = first if firsts is None else firsts + first
        seconds = second if seconds is None else seconds + second
    assert firsts is not None
    assert seconds is not None
    shape = (n_runs, n_components)
    return log_likelihood, Statistics.about(
        parameters.means,
        counts.view(shape),
        firsts.view(*shape, n_features),
        seconds.view(*shape, *seconds.shape[1:]),
    )


def log_density(parameters: Parameters, rows: Rows) -> Tensor:
    """Return the log density of every row, ``(n_runs, n_samples)``."""
    n_runs, n_components, _ = parameters.shape
    result = parameters.means.new_empty((n_runs, rows.n_samples))
    for kernel, blocks in _work(parameters, rows):
        for block in blocks:
            logits = _logits(kernel, block, None).view(n_runs, n_components, -1)
            result[:, block.places] = _normalise(logits)
    return result


def responsibilities(
    parameters: Parameters, rows: Rows, kind: str = "share", table: Tensor | None = None
) -> Tensor:
    """Return what each row has to do with each component.

    Parameters
    ----------
    parameters : Parameters
        The mixtures.
    rows : Rows
        The data.
    kind : {"share", "joint", "conditional"}, default="share"
        The components' posterior probabilities; the logarithms of the weighted
        densities; those of the densities.
    table : Tensor of shape (n_labels, n_components), optional
        0 where a row of that label may have the component, otherwise -inf.

    Returns
    -------
    values : Tensor of shape (n_runs, n_components, n_samples)
    """
    n_runs, n_components, _ = parameters.shape
    if kind == "conditional":
        parameters = Parameters(
            parameters.covariance_type,
            torch.zeros_like(parameters.log_weights),
            parameters.means,
            parameters.covariances,
            parameters.whitening,
        )
    result = parameters.means.new_empty((n_runs, n_components, rows.n_samples))
    for kernel, blocks in _work(parameters, rows):
        for block in blocks:
            logits = _logits(kernel, block, table).view(n_runs, n_components, -1)
            if kind == "share":
                _normalise(logits)
            result[..., block.places] = logits
    return result


def impute(parameters: Parameters, rows: Rows) -> Tensor:
    r"""Return the data of one run with expected values where numbers were missing.

    .. math:: \hat x_u = \sum_k p(k \mid x_o) \bigl(\mu_{ku} + \Sigma_{kuo}
        \Sigma_{koo}^{-1} (x_o - \mu_{ko})\bigr)

    Parameters
    ----------
    parameters : Parameters
        One run.
    rows : Rows
        The data.

    Returns
    -------
    columns : Tensor of shape (n_features, n_samples)
    """
    result = rows.columns.clone()
    if rows.complete:
        return result
    for kernel, blocks in _work(parameters, rows):
        for block in blocks:
            logits = _logits(kernel, block, None)
            _normalise(logits.unsqueeze(0))
            expected = kernel.expected(logits, block)
            filled = result[:, block.places]
            result[:, block.places] = torch.where(filled.isnan(), expected, filled)
    return result


def moments_of(rows: Rows, shares: Tensor, *, matrices: bool) -> Statistics:
    """Return the statistics of components with given shares of the rows.

    Parameters
    ----------
    rows : Rows
        Data without missing numbers.
    shares : Tensor of shape (n_components, n_samples)
        The share of each row that each component has; weights are multiplied in.
    matrices : bool
        Whether scatters are matrices.

    Returns
    -------
    statistics : Statistics
        Of one run.
    """
    if rows.weights is not None:
        shares = shares * rows.weights
    counts = shares.sum(-1)
    means = shares @ rows.columns.T / counts.clamp_min(1e-300).unsqueeze(-1)
    scatters = []
    for share, mean in zip(shares, means, strict=True):
        # One component at a time: few rows are many, for hard assignments.
        kept = (share > 0).nonzero().view(-1)
        deviation = rows.columns[:, kept] - mean.unsqueeze(-1)
        weighted = deviation * share[kept]
        if matrices:
            scatters.append(weighted @ deviation.T)
        else:
            scatters.append((weighted * deviation).sum(-1))
    return Statistics(
        counts.unsqueeze(0), means.unsqueeze(0), torch.stack(scatters).unsqueeze(0)
    )


def _work(
    parameters: Parameters, rows: Rows
) -> Iterator[tuple[Kernel, Iterator[Block]]]:
    """Yield kernels, each with the blocks of rows that it is for."""
    expanded = expanded_is_safe(parameters, rows.reach)
    n_rows = block_length(parameters, expanded=expanded)
    everything = list(range(rows.n_features))
    if not parameters.matrices:
        yield make_kernel(parameters, everything, expanded), rows.blocks(n_rows)
        return
    for present, blocks in rows.patterns(n_rows):
        yield make_kernel(parameters, present, expanded), blocks
    for blocks in rows.scattered(partial(scattered_length, parameters)):
        yield ScatteredMatrices(parameters), blocks


def _logits(kernel: Kernel, block: Block, table: Tensor | None) -> Tensor:
    logits = kernel.logits(block)
    if block.labels is not None and table is not None:
        allowed = table[block.labels].T
        logits.view(-1, *allowed.shape).add_(allowed)
    return logits


def _normalise(logits: Tensor) -> Tensor:
    """Turn joint log densities into shares, in place; return the log densities."""
    top = logits.amax(1, keepdim=True)
    top.masked_fill_(top == -math.inf, torch.finfo(top.dtype).min)
    logits.sub_(top).clamp_(min=least_exponent(logits.dtype)).exp_()
    total = logits.sum(1, keepdim=True)
    # Faster than a division of each.
    logits.mul_(total.reciprocal())
    return total.log_().add_(top).squeeze(1)
