"""scikit-learn's own tests of GaussianMixture, of those that need no private name."""

import numpy as np
import pytest
from sklearn.mixture.tests import test_gaussian_mixture as theirs

from skmdn.gaussian_mixture import MAPGaussianMixture

pytestmark = [
    pytest.mark.draws_from_numpy,
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]

PUBLIC = [
    "attributes",
    "estimate_log_prob_resp",
    "predict_predict_proba",
    "fit_predict",
    "fit_predict_n_init",
    "fit",
    "fit_best_params",
    "fit_convergence_warning",
    "verbose",
    "setting_best_params",
    "single_component_stable",
    "n_parameters",
    "aic_bic",
    "precisions_init_diag",
]
PLAIN = [
    "check_weights",
    "check_means",
    "check_precisions",
    "multiple_init",
    "bic_1d_1component",
    "warm_start",
    "convergence_detected_with_warm_start",
    "score",
    "score_samples",
    "monotonic_likelihood",
    "regularisation",
    "fitted_precision_covariance_concistency",
    "sample",
    "init",
    "init_means_not_duplicated",
    "means_for_all_inits",
    "max_iter_zero",
]


class GaussianMixture(MAPGaussianMixture):
    """Ours, by the name that messages have."""


@pytest.fixture(autouse=True)
def _substituted(monkeypatch):
    monkeypatch.setattr(theirs, "GaussianMixture", GaussianMixture)


@pytest.fixture(params=[np.float64, np.float32])
def global_dtype(request):
    return request.param


@pytest.fixture(params=[0, 42])
def global_random_seed(request):
    return request.param


for _name in [f"gaussian_mixture_{name}" for name in PUBLIC] + PLAIN:
    # Older versions have fewer.
    if hasattr(theirs, f"test_{_name}"):
        globals()[f"test_{_name}"] = getattr(theirs, f"test_{_name}")


def test_all_public_tests_are_here():
    names = [name for name in globals() if name.startswith("test_")]
    # The 28 that need the public interface only, and three that we pass beside.
    assert sum(hasattr(theirs, name) for name in names) >= 28
