"""scikit-learn's own checks: those it yields for the estimators, and the others."""

import numpy as np
import pytest
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from skmdn import MixtureDensityRegressor
from skmdn.gaussian_mixture import MAPGaussianMixture
from skmdn.priors import Dirichlet, InverseGamma, Softball

COVARIANCE_TYPES = ("diag", "full", "spherical", "tied")
MIXTURE_TYPES = (*COVARIANCE_TYPES, "fixed")


class ColumnTarget(MixtureDensityRegressor):
    """The same estimator, declared so that the checks hand it two-dimensional y."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.single_output = False
        return tags


def instances():
    """Return the estimators to check: defaults, but for fewer iterations."""
    regressors = [
        kind(covariance_type=covariance_type, max_iter=4, random_state=0)
        for kind in (MixtureDensityRegressor, ColumnTarget)
        for covariance_type in COVARIANCE_TYPES
    ]
    return regressors + mixtures()


def mixtures():
    """Return Gaussian mixtures: the defaults, with priors, and in batches."""
    priors = {
        "weights_prior": Dirichlet(2.0),
        "means_prior": Softball(5.0),
        "scales_prior": InverseGamma(),
    }
    return [
        *[MAPGaussianMixture(covariance_type=kind) for kind in MIXTURE_TYPES],
        *[
            MAPGaussianMixture(covariance_type=kind, **priors)
            for kind in ("full", "diag")
        ],
        MAPGaussianMixture(
            covariance_type="tied", batch_size=8, scales_prior=InverseGamma()
        ),
    ]


@pytest.mark.draws_from_numpy
@parametrize_with_checks(instances(), xfail_strict=True)
def test_scikit_learn_check(estimator, check):
    check(estimator)


@pytest.mark.draws_from_numpy
@pytest.mark.parametrize(
    "check",
    [
        estimator_checks.check_param_validation,
        estimator_checks.check_dataframe_column_names_consistency,
        estimator_checks.check_inplace_ensure_writeable,
    ],
)
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_check_that_scikit_learn_does_not_yield(check, covariance_type):
    estimator = MixtureDensityRegressor(covariance_type=covariance_type, max_iter=5)
    check("MixtureDensityRegressor", estimator)


@pytest.mark.draws_from_numpy
@pytest.mark.parametrize(
    "check",
    [
        estimator_checks.check_param_validation,
        estimator_checks.check_dataframe_column_names_consistency,
        estimator_checks.check_inplace_ensure_writeable,
    ],
)
@pytest.mark.parametrize("covariance_type", MIXTURE_TYPES)
def test_check_of_mixtures_that_scikit_learn_does_not_yield(check, covariance_type):
    estimator = MAPGaussianMixture(covariance_type=covariance_type, random_state=0)
    check("MAPGaussianMixture", estimator)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("n_outputs", [1, 2])
def test_weights_equal_repetition_at_the_default_number_of_passes(
    covariance_type, n_outputs
):
    rng = np.random.RandomState(42)
    X = rng.rand(15, 30)
    y = rng.randint(0, 3, size=(15, n_outputs)).astype(float)
    y = y[:, 0] if n_outputs == 1 else y
    weights = rng.randint(0, 5, size=15)
    model = MixtureDensityRegressor(covariance_type=covariance_type, random_state=0)
    weighted = model.fit(X, y, sample_weight=weights).predict(X)
    repeated = model.fit(np.repeat(X, weights, 0), np.repeat(y, weights, 0)).predict(X)
    np.testing.assert_allclose(weighted, repeated, rtol=0, atol=1e-7)
