"""Numerical methods on tensors: root search, quadrature, sums of exponentials."""

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

__all__ = [
    "find_root",
    "gauss_bell",
    "gauss_legendre",
    "least_exponent",
    "log_complement",
    "log_sum_exp",
    "own_units",
    "log_of",
    "ndtr",
    "nodes_between",
]

_MAX_ITER = 128


def find_root(
    function: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, xtol: Tensor
) -> Tensor:
    """Find the roots of many increasing functions at once, each in its bracket.

    Chandrupatla's method [1]_: inverse quadratic steps where they can be trusted,
    bisection elsewhere. A root outside its bracket (by rounding) is answered with
    the nearer end.

    Parameters
    ----------
    function : callable
        Maps a tensor of points to the residuals, element by element.
    low, high : Tensor of shape (...)
        Ends of the brackets.
    xtol : Tensor
        Absolute tolerance on the root, broadcastable to the brackets. The
        relative tolerance is the spacing of floating-point numbers.

    Returns
    -------
    root : Tensor of shape (...)

    References
    ----------
    .. [1] T. R. Chandrupatla, "A new hybrid quadratic/bisection algorithm for
       finding the zero of a nonlinear function without using derivatives",
       Advances in Engineering Software 28(3), 1997.
    """
    eps = torch.finfo(low.dtype).eps
    a, b = low, high
    fa, fb = function(a), function(b)
    c, fc = a, fa
    done = (fa >= 0) | (fb <= 0)
    best = torch.where(fa >= 0, a, b)
    t = torch.full_like(low, 0.5)
    for _ in range(_MAX_ITER):
        if bool(done.all()):
            break
        x = torch.where(done, best, a + t * (b - a))
        fx = function(x)
        same = fx.sign() == fa.sign()
        c, fc = torch.where(same, a, b), torch.where(same, fa, fb)
        b, fb = torch.where(same, b, a), torch.where(same, fb, fa)
        a, fa = x, fx
        nearer = fa.abs() < fb.abs()
        candidate = torch.where(nearer, a, b)
        best = torch.where(done, best, candidate)
        limit = (2 * eps * candidate.abs() + xtol) / (b - a).abs()
        done = done | (limit > 0.5) | (torch.where(nearer, fa, fb) == 0)
        t = _next_step(a, b, c, fa, fb, fc).clamp(limit.clamp(max=0.5), None)
        t = torch.minimum(t, 1.0 - limit)
    return best


def _next_step(
    a: Tensor, b: Tensor, c: Tensor, fa: Tensor, fb: Tensor, fc: Tensor
) -> Tensor:
    """Return the step from a towards b, as a share of the bracket."""
    xi = (a - b) / (c - b)
    phi = (fa - fb) / (fc - fb)
    smooth = (phi.square() < xi) & ((1.0 - phi).square() < 1.0 - xi)
    step = fa / (fb - fa) * fc / (fb - fc) + (c - a) / (b - a) * fa / (fc - fa) * fb / (
        fc - fb
    )
    return torch.where(smooth & step.isfinite(), step, 0.5)


@cache
def gauss_legendre(n_nodes: int) -> tuple[Tensor, Tensor]:
    """Return nodes and weights of the rule on [-1, 1], in float64 on the CPU.

    They are eigenvalues and first entries of eigenvectors of a Jacobi matrix [1]_.

    References
    ----------
    .. [1] G. H. Golub and J. H. Welsch, "Calculation of Gauss quadrature rules",
       Mathematics of Computation 23(106), 1969.
    """
    # Kept for good: it must serve in training too, wherever it is first needed.
    with torch.inference_mode(False):
        k = torch.arange(1.0, n_nodes, dtype=torch.float64, device="cpu")
        off = k / (4.0 * k.square() - 1.0).sqrt()
        nodes, vectors = torch.linalg.eigh(off.diag(1) + off.diag(-1))
        return nodes, 2.0 * vectors[0].square()


def nodes_between(low: Tensor, high: Tensor, n_nodes: int) -> tuple[Tensor, Tensor]:
    """Return Gauss-Legendre nodes and weights between pairs of numbers.

    Parameters
    ----------
    low, high : Tensor of shape (...)
        Ends; where they are equal all weights are 0.
    n_nodes : int
        Nodes between each pair.

    Returns
    -------
    points, weights : Tensor of shape (..., n_nodes)
    """
    nodes, weights = (part.to(low) for part in gauss_legendre(n_nodes))
    half = 0.5 * (high - low).unsqueeze(-1)
    return low.unsqueeze(-1) + half + half * nodes, half * weights


def least_exponent(dtype: torch.dtype) -> float:
    """Return about the logarithm of the smallest normal number.

    Exponentials of less are many times slower than others.
    """
    return -708.0 if dtype == torch.float64 else -87.0


def gauss_bell(z: Tensor) -> Tensor:
    """Return exp(-z^2); where it underflows, the smallest normal number."""
    return (-z.square()).clamp(min=least_exponent(z.dtype)).exp()


def log_complement(x: Tensor) -> Tensor:
    """Return log(1 - exp(x)) of negative numbers, and its slope, to their digits."""
    near = x > -0.5
    small, large = torch.where(near, x, -1.0), torch.where(near, -1.0, x)
    return torch.where(near, (-small.expm1()).log(), (-large.exp()).log1p())


def log_sum_exp(values: Tensor) -> Tensor:
    """Return ``torch.logsumexp(values, -1)`` without its slow exponentials.

    Terms that underflow beside the largest are replaced by numbers that vanish in
    the sum, which is at least 1.
    """
    largest = values.detach().amax(-1, keepdim=True)
    shift = largest.masked_fill(largest.isinf(), 0.0)
    total = (values - shift).clamp_(min=least_exponent(values.dtype)).exp_().sum(-1)
    result = total.log() + shift.squeeze(-1)
    return torch.where(largest.squeeze(-1) == -torch.inf, -torch.inf, result)


def log_of(probability: Tensor) -> Tensor:
    """Return the logarithm, -inf from 0 down with slope 0 there."""
    possible = probability > 0.0
    logs = torch.where(possible, probability, 1.0).log()
    return logs.masked_fill(~possible, -torch.inf)


def ndtr(offset: Tensor, std: Tensor | float = 1.0) -> Tensor:
    """Return the normal distribution function, whose lower tail torch's own loses."""
    return torch.special.erfc(offset / (-math.sqrt(2.0) * std)).mul_(0.5)


def own_units(
    weights: Tensor, means: Tensor, stds: Tensor, axis: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Measure mixtures in units in which squares neither overflow nor underflow.

    Components of weight 0 are replaced by the heaviest, so that they are harmless.

    Parameters
    ----------
    weights, means, stds : Tensor, all of one shape
        Of one-dimensional components.
    axis : int
        The components' axis.

    Returns
    -------
    means, stds : Tensor
        In units in which the largest of them is about 1.
    unit : Tensor
        Powers of two; the components' axis has length 1.
    """
    heaviest = weights.argmax(axis, keepdim=True)
    off = weights == 0
    means = torch.where(off, means.gather(axis, heaviest), means)
    stds = torch.where(off, stds.gather(axis, heaviest), stds)
    size = torch.maximum(means.abs(), stds).detach().amax(axis, keepdim=True)
    unit = torch.ldexp(torch.ones_like(size), size.frexp().exponent - 1)
    return means / unit, stds / unit, unit
