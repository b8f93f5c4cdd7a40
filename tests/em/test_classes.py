"""Components that belong to classes."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax
from scipy.stats import dirichlet

from skmdn.em import Classes, Priors, log_prior, m_step
from skmdn.em.statistics import Statistics
from skmdn.priors import Dirichlet
from tests.em.helpers import random_parameters
from tests.helpers import randn, tensor

MEMBER = torch.tensor([0, 0, 1])
SHARES = tensor([0.3, 0.7])


def statistics(counts):
    counts = tensor(counts)
    return Statistics(counts, randn(*counts.shape, 2), torch.ones(*counts.shape, 2))


def weights_after(counts, prior, shares=None):
    parameters = random_parameters("diag", n_runs=len(counts))
    priors = Priors(prior, None, None, 1.0, Classes(MEMBER, 2, shares))
    return m_step(statistics(counts), parameters, priors)[0].log_weights.exp().numpy()


def test_the_table_and_sums():
    classes = Classes(MEMBER, 2)
    assert classes.table().exp().tolist() == [[1, 1, 0], [0, 0, 1], [1, 1, 1]]
    values = randn(3, 4)
    expected = [logsumexp(values[:2], axis=0), values[2]]
    np.testing.assert_allclose(classes.log_sums(values), np.stack(expected))


@pytest.mark.parametrize("concentration", [1.0, 3.0, [1.5, 2.0, 4.0]])
@pytest.mark.parametrize("shares", [None, SHARES])
def test_weights_maximise(concentration, shares):
    counts = np.array([4.0, 1.5, 8.0])
    (found,) = weights_after(counts[None], Dirichlet(concentration), shares)
    mass = counts + np.array(Dirichlet(concentration).excess(3))

    def weights(free):
        if shares is None:
            return softmax([*free, 0.0])
        within = softmax([free[0], 0.0])
        return np.array([*(0.3 * within), 0.7])

    best = minimize(lambda free: -mass @ np.log(weights(free)), np.zeros(2), tol=1e-12)
    np.testing.assert_allclose(found, weights(best.x), atol=1e-6)


def test_no_class_loses_its_last_component():
    for shares in (None, SHARES):
        found = weights_after(
            [[0.2, 0.1, 40.0], [30.0, 0.1, 0.3]], Dirichlet(0.2), shares
        )
        assert (found[0] > 0).tolist() == [True, False, True]
        assert (found[1] > 0).tolist() == [True, False, True]
        np.testing.assert_allclose(found.sum(1), 1.0)


def test_given_weights_of_classes_leave_the_law_within_them():
    parameters = random_parameters("diag", n_runs=1)
    log_weights = torch.cat(
        [
            torch.log_softmax(randn(1, 2), -1) + SHARES[0].log(),
            SHARES[1:].log().unsqueeze(0),
        ],
        dim=-1,
    )
    parameters, _ = type(parameters).from_covariances(
        "diag", log_weights, parameters.means, parameters.covariances
    )
    weights = log_weights[0].exp().numpy()
    prior = Dirichlet([2.0, 3.0, 4.0])
    given = log_prior(parameters, Priors(prior, classes=Classes(MEMBER, 2, SHARES)))
    expected = dirichlet.logpdf(weights[:2] / 0.3, [2.0, 3.0])
    assert given.item() == pytest.approx(expected)
    learned = log_prior(parameters, Priors(prior, classes=Classes(MEMBER, 2)))
    assert learned.item() == pytest.approx(dirichlet.logpdf(weights, [2.0, 3.0, 4.0]))
