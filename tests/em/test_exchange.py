"""Components that move from where there are too many to where there are too few."""

import numpy as np
import pytest
import torch

from skmdn.em import Priors, Rows, exchanges, moments_of, run, start_step
from tests.helpers import tensor

CENTERS = np.array([[0.0, 0.0], [12.0, 0.0], [0.0, 12.0], [12.0, 16.0]])


def stuck(kind, weights=None):
    """A run with two components in the first group and one for the last two."""
    rng = np.random.RandomState(0)
    group = np.arange(400) % 4
    columns = tensor((CENTERS[group] + rng.normal(size=(400, 2))).T.copy())
    rows = Rows(columns, weights)
    owner = np.where(group == 0, rng.randint(2, size=400), np.maximum(group, 2))
    owner[group == 1] = 2
    owner[group >= 2] = 3
    shares = tensor(np.eye(4)[owner].T.copy())
    moments = moments_of(rows, shares, matrices=kind in ("full", "tied"))
    parameters, _ = start_step(kind, moments, Priors(reg_covar=1e-6), None)
    fit = run(parameters, rows, Priors(reg_covar=1e-6), tol=1e-6, max_iter=200)
    return rows, fit


@pytest.mark.parametrize("weighted", [False, True])
# With fixed variances small steps lead out.
@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_the_first_proposal_leads_out(kind, weighted):
    weights = 0.5 + tensor(np.arange(400) % 3) if weighted else None
    rows, fit = stuck(kind, weights)
    proposals = exchanges(fit.parameters, rows, 3)
    for shares in proposals:
        torch.testing.assert_close(shares.sum(0), torch.ones(400).double())
        assert (shares >= 0).all()
    moments = moments_of(rows, proposals[0], matrices=kind in ("full", "tied"))
    priors = Priors(reg_covar=1e-6)
    begun, _ = start_step(kind, moments, priors, None)
    better = run(begun, rows, priors, tol=1e-6, max_iter=200)
    assert better.bounds[0][-1] > fit.bounds[0][-1] + 0.1
    found = better.parameters.means[0].numpy()
    for center in CENTERS:
        assert np.linalg.norm(found - center, axis=1).min() < 0.5


def test_two_components_cannot_be_exchanged():
    rows, _ = stuck("diag")
    shares = tensor(np.eye(2)[np.arange(400) % 2].T.copy())
    moments = moments_of(rows, shares, matrices=False)
    parameters, _ = start_step("diag", moments, Priors(reg_covar=1e-6), None)
    assert exchanges(parameters, rows, 5) == []
