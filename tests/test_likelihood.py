"""Likelihoods of targets that are known in part, against scipy."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp

from skmdn.families import (
    Gamma,
    MultivariateNormal,
    Normal,
    PointMass,
    Poisson,
    make_family,
)
from skmdn.likelihood import cells, log_likelihood
from skmdn.mixture import Block, Mixture
from tests.helpers import (
    COVARIANCE_TYPES,
    dense,
    normal_mixture,
    randn,
    random_mixture,
    random_raw,
    tensor,
)

NAN, INF = math.nan, math.inf


def of_components(mixture, row, function):
    """Return the log of a sum over components of one row's mixture."""
    weights, means, covariances = (part[row] for part in dense(mixture))
    parts = [function(m, c) for m, c in zip(means, covariances, strict=True)]
    return logsumexp(parts, b=weights)


def independent(mean, covariance, low, high):
    """Log-likelihood of one component with independent outputs, by scipy."""
    total = 0.0
    ends = zip(mean, np.sqrt(np.diag(covariance)), low, high, strict=True)
    for m, s, a, b in ends:
        if a == b:
            total += stats.norm.logpdf(a, m, s)
        elif a < b:
            total += np.log(stats.norm.cdf(b, m, s) - stats.norm.cdf(a, m, s))
    return total


@pytest.mark.parametrize("layout", ["diag", "spherical"])
def test_each_output_is_known_between_or_missing(layout):
    mixture = random_mixture(layout, (1,), n_components=3, n_outputs=3)
    kinds = [(0.3, 0.3), (-0.5, 1.0), (-INF, 0.2), (-0.2, INF), (NAN, NAN)]
    for row in itertools.product(kinds, repeat=3):
        low, high = np.transpose(row)
        found = log_likelihood(mixture, tensor([low.tolist()]), tensor([high.tolist()]))
        expected = of_components(mixture, 0, lambda m, c: independent(m, c, low, high))  # noqa: B023
        assert float(found) == pytest.approx(expected, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("n_outputs", [2, 3, 4])
def test_missing_outputs_leave_the_marginal_of_the_others(covariance_type, n_outputs):
    patterns = list(itertools.product([True, False], repeat=n_outputs))
    patterns = [p for p in patterns if any(p)]
    mixture = random_mixture(
        covariance_type, (2, len(patterns)), n_components=3, n_outputs=n_outputs
    )
    known = torch.tensor(patterns)
    y = torch.where(known, randn(len(patterns), n_outputs), NAN)
    found = log_likelihood(mixture, y, y.clone())
    assert found.shape == (2, len(patterns))
    weights, means, covariances = dense(mixture)
    for index in np.ndindex(2, len(patterns)):
        there = np.flatnonzero(patterns[index[1]])
        parts = [
            stats.multivariate_normal(m[there], c[np.ix_(there, there)]).logpdf(
                y[index[1]].numpy()[there]
            )
            for m, c in zip(means[index], covariances[index], strict=True)
        ]
        expected = logsumexp(parts, b=weights[index])
        assert float(found[index]) == pytest.approx(expected, rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_slopes_with_missing_outputs_agree_with_differences(covariance_type):
    family = make_family("normal", covariance_type)
    raw = random_raw(family, (), 2, 3, 1)
    y = randn(5, 3)
    y[0, 1] = y[1, 0] = y[1, 2] = y[3, 2] = NAN

    def evaluate(raw):
        params = family.from_raw(raw, 0.1)
        return family.log_likelihood(params, y.unsqueeze(1), y.unsqueeze(1)).sum()

    leaves = {name: value.clone().requires_grad_() for name, value in raw.items()}
    evaluate(leaves).backward()
    for name, leaf in leaves.items():
        for index in np.ndindex(*leaf.shape):
            step = torch.zeros_like(leaf)
            step[index] = 1e-5
            up, down = (
                evaluate({**raw, name: raw[name] + sign * step}) for sign in (1, -1)
            )
            assert float(leaf.grad[index]) == pytest.approx(
                float(up - down) / 2e-5, rel=1e-6, abs=1e-7
            )


@pytest.mark.parametrize("layout", [*COVARIANCE_TYPES, "mixed"])
def test_targets_that_are_all_known_have_their_density(layout):
    mixture = random_mixture(layout, (2, 6), n_outputs=3)
    y = randn(6, 3)
    expected = mixture.log_prob(y)
    torch.testing.assert_close(log_likelihood(mixture, y), expected, rtol=0, atol=0)
    found = log_likelihood(mixture, y, y.clone())
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", ["diag", "spherical"])
@pytest.mark.parametrize("width", [1e-6, 1e-9])
def test_narrow_intervals_are_densities_times_lengths(layout, width):
    """The uncensored limit: the likelihood and its slopes."""
    mixture = random_mixture(layout, (8,), n_outputs=2)
    block, y = mixture.blocks[0], randn(8, 2)
    params = {name: v.clone().requires_grad_() for name, v in block.params.items()}
    mixture = Mixture(mixture.log_weights, [block.replace(params)])
    low, high = cells(y, None, width)
    length = (high - low).log().sum(-1)
    found = log_likelihood(mixture, low, high) - length
    expected = mixture.log_prob(y)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    leaves = list(params.values())
    slopes = [torch.autograd.grad(v.sum(), leaves) for v in (found, expected)]
    for found, expected in zip(*slopes, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_boxes_of_outputs_that_vary_together_are_refused():
    mixture = random_mixture("full", (2,), n_outputs=2)
    with pytest.raises(ValueError, match="covariance_type='diag'"):
        log_likelihood(mixture, tensor([[0.0, 1.0]]), tensor([[0.5, 1.0]]))
    single = random_mixture("full", (2,), n_outputs=1)
    found = log_likelihood(single, tensor([[0.0]]), tensor([[0.5]]))
    expected = (single.cdf(tensor([[0.5]])) - single.cdf(tensor([[0.0]]))).log()
    torch.testing.assert_close(found, expected[..., 0])


# Points with a probability.


def rain():
    """Return a mixture of dry days and gamma amounts, in one output."""
    dry = Block(PointMass(0.0), {"value": tensor([[0.0]])}, 1)
    params = {"concentration": tensor([[2.0]]), "rate": tensor([[0.5]])}
    return Mixture(tensor([0.4, 0.6]).log(), [dry, Block(Gamma(), params, 1)])


def test_an_interval_counts_the_masses_in_it():
    amount = stats.gamma(2.0, scale=2.0)
    for low, high, expected in (
        (0.0, 1.0, 0.4 + 0.6 * amount.cdf(1.0)),
        (-INF, 1.0, 0.4 + 0.6 * amount.cdf(1.0)),
        (-INF, 0.0, 0.4),
        (0.5, 3.0, 0.6 * (amount.cdf(3.0) - amount.cdf(0.5))),
        (0.5, INF, 0.6 * amount.sf(0.5)),
        (0.0, 0.0, 0.4),
        (2.0, 2.0, 0.6 * amount.pdf(2.0)),
    ):
        found = log_likelihood(rain(), tensor([low]), tensor([high]))
        assert float(found) == pytest.approx(np.log(expected), rel=1e-12)


def test_masses_of_several_outputs():
    """A continuous component has no density where another has a mass."""
    masses = Block(PointMass((0.0, 1.0)), {"value": tensor([[0.0, 1.0]])}, 1)
    params = {"mean": tensor([[0.5, 0.5]]), "scale": tensor([[1.0, 2.0]])}
    mixture = Mixture(tensor([0.3, 0.7]).log(), [masses, Block(Normal(), params, 1)])
    first, second = stats.norm(0.5, 1.0), stats.norm(0.5, 2.0)
    for low, high, expected in (
        ((0.0, 1.0), (0.0, 1.0), 0.3),
        ((0.0, NAN), (0.0, NAN), 0.3),
        ((0.0, 0.5), (0.0, 2.0), 0.3),
        ((0.2, NAN), (0.2, NAN), 0.7 * first.pdf(0.2)),
        ((0.0, 2.0), (0.0, 2.0), 0.7 * first.pdf(0.0) * second.pdf(2.0)),
        (
            (-1.0, 0.0),
            (1.0, INF),
            0.3 + 0.7 * (first.cdf(1.0) - first.cdf(-1.0)) * second.sf(0.0),
        ),
        ((-1.0, NAN), (1.0, NAN), 0.3 + 0.7 * (first.cdf(1.0) - first.cdf(-1.0))),
    ):
        found = log_likelihood(mixture, tensor(low), tensor(high))
        assert float(found) == pytest.approx(np.log(expected), rel=1e-12), low


def test_counts_are_masses_from_one_end_to_the_other():
    mixture = Mixture(tensor([0.0]), [Block(Poisson(), {"rate": tensor([[3.0]])}, 1)])
    law = stats.poisson(3.0)
    for low, high in ((2.0, 5.0), (2.0, 2.0), (0.0, 1.0)):
        inside = np.arange(low, high + 1)
        found = log_likelihood(mixture, tensor([low]), tensor([high]))
        assert float(found) == pytest.approx(np.log(law.pmf(inside).sum()), rel=1e-12)


# Cells.


def test_cells_lie_around_the_numbers_that_are_known():
    low = tensor([[1.0, 2.0], [NAN, -INF]])
    high = tensor([[1.0, 3.0], [NAN, 0.0]])
    found = cells(low, high, tensor([0.5, 2.0]))
    np.testing.assert_array_equal(found[0], [[0.75, 2.0], [NAN, -INF]])
    np.testing.assert_array_equal(found[1], [[1.25, 3.0], [NAN, 0.0]])
    both = cells(low[:1], None, 0.5)
    np.testing.assert_array_equal(torch.stack(both), [[[0.75, 1.75]], [[1.25, 2.25]]])


def cell_log_prob(mixture, y, width):
    return log_likelihood(mixture, *cells(y, None, width))


@pytest.mark.parametrize("width", [0.01, 0.5, 3.0])
def test_the_probability_of_a_cell_is_a_difference_of_the_cdf(width):
    weights, means, scales = [0.3, 0.7], [-1.0, 2.0], [0.5, 1.5]
    mixture = normal_mixture(weights, means, scales)
    y = np.linspace(-4.0, 6.0, 41)
    low, high = y - 0.5 * width, y + 0.5 * width
    # In the upper half by symmetry, where the cdf is nearly 1.
    parts = [
        np.where(
            y < m,
            stats.norm.cdf(high, m, s) - stats.norm.cdf(low, m, s),
            stats.norm.sf(low, m, s) - stats.norm.sf(high, m, s),
        )
        for m, s in zip(means, scales, strict=True)
    ]
    expected = np.log(np.array(weights) @ parts)
    found = cell_log_prob(mixture, tensor(y.tolist()).unsqueeze(1), width)
    assert found.shape == (41,)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("distance", [5.0, 10.0, 20.0, 35.0, 1e4])
def test_cells_in_either_tail_keep_their_digits(distance, sign):
    mixture = normal_mixture([1.0], [0.0], [1.0])
    width = 0.25
    found = float(cell_log_prob(mixture, tensor([sign * distance]), width))
    near, far = distance - 0.5 * width, distance + 0.5 * width
    outer, inner = stats.norm.logsf(far), stats.norm.logsf(near)
    expected = inner + np.log1p(-np.exp(outer - inner))
    assert found == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cells_almost_without_probability_are_finite(dtype):
    mixture = normal_mixture([0.5, 0.5], [0.0, 1.0], [1e-3, 1.0])
    mixture = mixture.map(lambda value: value.to(dtype))
    y = torch.tensor([[-1e6], [-50.0], [0.0], [50.0], [1e6]], dtype=dtype)
    found = cell_log_prob(mixture, y, 0.5)
    assert found.isfinite().all()
    assert (found <= 0.0).all()
    assert float(found[2]) > -1.0


def test_cells_of_a_lattice_sum_to_one():
    mixture = random_mixture("diag", (2,), n_outputs=1)
    lattice = torch.arange(-60.0, 61.0, dtype=torch.float64).unsqueeze(1) * 0.25
    found = cell_log_prob(mixture.unsqueeze(), lattice, 0.25).exp().sum(1)
    torch.testing.assert_close(found, torch.ones(2, dtype=torch.float64))


def test_a_shared_matrix_serves_all_components_with_missing_outputs():
    tied = MultivariateNormal("tied")
    raw = random_raw(tied, (4,), 3, 2, 2)
    params = tied.from_raw(raw, 0.1)
    full = {
        "mean": params["mean"],
        "precision_factor": params["precision_factor"].expand(4, 3, 2, 2),
    }
    y = randn(4, 1, 2)
    y[1, 0, 0] = y[2, 0, 1] = NAN
    torch.testing.assert_close(
        tied.log_likelihood(params, y, y),
        MultivariateNormal().log_likelihood(full, y, y),
    )
