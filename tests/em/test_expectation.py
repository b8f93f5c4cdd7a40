"""The expectation step against its definition, in both forms of the arithmetic."""

import mpmath
import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from skmdn.em import (
    COVARIANCE_TYPES,
    Parameters,
    Rows,
    e_step,
    impute,
    kernels,
    log_density,
    moments_of,
    responsibilities,
)
from skmdn.em import rows as em_rows
from tests.em.helpers import (
    dense,
    random_parameters,
    random_rows,
    reference_joint,
    reference_moments,
)
from tests.helpers import tensor


@pytest.fixture(params=["expanded", "deviations", "scattered"])
def form(request, monkeypatch):
    """Force one of the ways to form squares, or to treat rows with holes."""
    limit = np.inf if request.param == "expanded" else 0.0
    monkeypatch.setattr(kernels, "_LARGEST_SQUARE", limit)
    monkeypatch.setattr(em_rows, "_MANY", 999 if request.param == "scattered" else 1)
    return request.param


@pytest.mark.parametrize(
    ("form", "missing"),
    [
        ("expanded", 0.0),
        ("expanded", 0.3),
        ("deviations", 0.0),
        ("deviations", 0.3),
        ("scattered", 0.3),
    ],
    indirect=["form"],
)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", COVARIANCE_TYPES)
def test_statistics_are_the_expected_moments(form, kind, weighted, missing):
    parameters = random_parameters(kind, n_features=3)
    rows = random_rows(80, 3, seed=4, missing=missing, weighted=weighted)
    log_likelihood, statistics = e_step(parameters, rows)
    for run in range(2):
        expected = reference_moments(parameters, run, rows)
        counts, means = statistics.counts[run].numpy(), statistics.means[run].numpy()
        second = expected[3] / expected[1][:, None, None]
        spread = second - means[:, :, None] * means[:, None, :]
        scatter = spread * expected[1][:, None, None]
        if not parameters.matrices:
            scatter = np.diagonal(scatter, axis1=1, axis2=2)
        np.testing.assert_allclose(log_likelihood[run], expected[0], rtol=1e-10)
        np.testing.assert_allclose(counts, expected[1], rtol=1e-9)
        np.testing.assert_allclose(
            means, expected[2] / expected[1][:, None], rtol=1e-8, atol=1e-9
        )
        np.testing.assert_allclose(
            statistics.scatters[run], scatter, rtol=1e-7, atol=1e-8
        )


@pytest.mark.parametrize("kind", COVARIANCE_TYPES)
def test_densities_and_shares(form, kind):
    parameters = random_parameters(kind, n_features=3)
    rows = random_rows(50, 3, missing=0.2)
    joint = reference_joint(parameters, 1, rows.columns)
    total = logsumexp(joint, axis=0)
    share = responsibilities(parameters, rows)[1]
    np.testing.assert_allclose(
        log_density(parameters, rows)[1], total, rtol=1e-9, atol=1e-12
    )
    np.testing.assert_allclose(share, np.exp(joint - total), atol=1e-10)
    weighted = responsibilities(parameters, rows, "joint")[1]
    np.testing.assert_allclose(weighted, joint, rtol=1e-9)
    alone = responsibilities(parameters, rows, "conditional")[1]
    log_weights = parameters.log_weights[1].numpy()[:, None]
    np.testing.assert_allclose(alone, joint - log_weights, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", COVARIANCE_TYPES)
def test_many_blocks_are_one(monkeypatch, kind):
    parameters = random_parameters(kind)
    rows = random_rows(300, weighted=True, missing=0.1)
    at_once = e_step(parameters, rows)
    monkeypatch.setattr(kernels, "block_length", lambda *_, **__: 7)
    monkeypatch.setattr("skmdn.em.expectation.block_length", lambda *_, **__: 7)
    in_blocks = e_step(parameters, rows)
    torch.testing.assert_close(at_once[0], in_blocks[0])
    torch.testing.assert_close(at_once[1].scatters, in_blocks[1].scatters)


@pytest.mark.parametrize("kind", COVARIANCE_TYPES)
def test_whole_weights_are_repetitions(kind):
    parameters, rows = random_parameters(kind), random_rows(40)
    weights = torch.arange(40) % 4
    weighted = Rows(rows.columns, weights.double())
    repeated = Rows(rows.columns.repeat_interleave(weights, dim=1))
    first, second = e_step(parameters, weighted), e_step(parameters, repeated)
    torch.testing.assert_close(first[0], second[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(first[1].means, second[1].means, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(first[1].scatters, second[1].scatters)


@pytest.mark.parametrize("kind", COVARIANCE_TYPES)
def test_a_row_without_numbers_says_nothing(form, kind):
    parameters, rows = random_parameters(kind), random_rows(20)
    more = Rows(torch.cat([rows.columns, torch.full((2, 1), torch.nan)], 1).double())
    log_likelihood, statistics = e_step(parameters, more)
    torch.testing.assert_close(log_likelihood, e_step(parameters, rows)[0])
    extra = statistics.counts - e_step(parameters, rows)[1].counts
    torch.testing.assert_close(extra, parameters.log_weights.exp())


@pytest.mark.parametrize("kind", COVARIANCE_TYPES)
def test_only_allowed_components_get_rows(form, kind):
    parameters, rows = random_parameters(kind), random_rows(30, missing=0.1)
    table = tensor([[0.0, 0.0, 0.0], [-np.inf, 0.0, 0.0], [-np.inf, -np.inf, 0.0]])
    labels = torch.arange(30) % 3
    labelled = Rows(rows.columns, None, labels)
    share = responsibilities(parameters, labelled, table=table)
    assert (share[:, 0, labels > 0] < 1e-300).all()
    torch.testing.assert_close(share[:, 2, labels == 2], torch.ones(2, 10).double())
    joint = reference_joint(parameters, 0, rows.columns) + table.numpy()[labels].T
    log_likelihood, _ = e_step(parameters, labelled, table)
    expected = logsumexp(joint, axis=0).sum()
    np.testing.assert_allclose(log_likelihood[0], expected, rtol=1e-9)


@pytest.mark.parametrize("kind", ["full", "tied"])
def test_missing_numbers_are_regressed_within_each_component(form, kind):
    parameters = random_parameters(kind, n_runs=1, n_features=3)
    rows = random_rows(30, 3, missing=0.4)
    filled = impute(parameters, rows)
    _, means, covariances = dense(parameters, 0)
    share = responsibilities(parameters, rows)[0].numpy()
    for i, row in enumerate(rows.columns.T.numpy()):
        o, u = np.flatnonzero(~np.isnan(row)), np.flatnonzero(np.isnan(row))
        value = row.copy()
        value[u] = 0.0
        for k in range(3):
            B = covariances[k][np.ix_(u, o)] @ np.linalg.inv(
                covariances[k][np.ix_(o, o)]
            )
            value[u] += share[k, i] * (means[k][u] + B @ (row[o] - means[k][o]))
        np.testing.assert_allclose(filled[:, i], value, rtol=1e-8, atol=1e-9)


def test_missing_numbers_of_independent_features_are_means():
    parameters, rows = random_parameters("diag", n_runs=1), random_rows(30, missing=0.4)
    missing = rows.columns.isnan()
    expected = parameters.means[0].T @ responsibilities(parameters, rows)[0]
    torch.testing.assert_close(impute(parameters, rows)[missing], expected[missing])


@pytest.mark.parametrize("many", [1, 999])
def test_holes_lose_no_digits_where_features_hang_together(monkeypatch, many):
    # Two features differ by a millionth of what they are.
    monkeypatch.setattr(em_rows, "_MANY", many)
    root = np.array([[1.0, 0.0, 0.0], [1.0, 1e-6, 0.0], [30.0, 0.0, 2.0]])
    covariance, zeros = root @ root.T, torch.zeros(1, 1, 3).double()
    parameters, _ = Parameters.from_covariances(
        "full", zeros[..., 0], zeros, tensor(covariance[None, None])
    )
    values = root @ np.random.RandomState(0).normal(size=(3, 6))
    values[0, 0] = values[1, 1] = values[2, 2] = values[:2, 3] = np.nan
    rows = Rows(tensor(values))
    expected = [exact_log_density(row, covariance) for row in values.T]
    np.testing.assert_allclose(log_density(parameters, rows)[0], expected, atol=1e-10)
    filled = impute(parameters, rows)
    assert float(filled[0, 0] - rows.columns[1, 0]) == pytest.approx(0.0, abs=1e-5)
    assert float(filled[1, 1] - rows.columns[0, 1]) == pytest.approx(0.0, abs=1e-5)


def exact_log_density(row, covariance):
    """The density of what is there, with fifty digits."""
    o = np.flatnonzero(~np.isnan(row))
    with mpmath.workdps(50):
        matrix = mpmath.matrix(covariance[np.ix_(o, o)].tolist())
        x = mpmath.matrix(row[o].tolist())
        square = (x.T * mpmath.lu_solve(matrix, x))[0]
        log_det = mpmath.log(mpmath.det(matrix))
        return float(-0.5 * (square + log_det + len(o) * mpmath.log(2 * mpmath.pi)))


@pytest.mark.parametrize("matrices", [True, False])
def test_moments_of_an_assignment(matrices):
    rows = random_rows(50, 3, weighted=True)
    shares = torch.softmax(random_rows(50, 4, seed=1).columns, 0)
    statistics = moments_of(rows, shares, matrices=matrices)
    for k in range(4):
        weights = (shares[k] * rows.weights).numpy()
        values = rows.columns.numpy()
        covariance = np.cov(values, aweights=weights, ddof=0) * weights.sum()
        expected = covariance if matrices else np.diag(covariance)
        np.testing.assert_allclose(statistics.scatters[0, k], expected, rtol=1e-9)
        mean = np.average(values, axis=1, weights=weights)
        np.testing.assert_allclose(statistics.means[0, k], mean, rtol=1e-9)


def test_the_form_is_chosen_by_what_it_would_lose():
    parameters, rows = random_parameters("full"), random_rows()
    assert kernels.expanded_is_safe(parameters, rows.reach)
    assert not kernels.expanded_is_safe(parameters, 1e5 * rows.reach)


@pytest.mark.parametrize("kind", COVARIANCE_TYPES)
def test_far_from_all_components_nothing_is_lost(kind):
    parameters = random_parameters(kind, n_runs=1)
    rows = Rows(tensor([[1e8, 1e160, -1e300], [0.0, 0.0, 1e300]]))
    share = responsibilities(parameters, rows)
    assert share.isfinite().all()
    assert not log_density(parameters, rows).isnan().any()
    assert not (log_density(parameters, rows) > 0).any()
