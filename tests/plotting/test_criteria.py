"""The display of criteria over the number of components."""

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from skmdn import MAPGaussianMixture
from skmdn.plotting import InformationCriterionDisplay
from skmdn.priors import Dirichlet, LogNormalScale, Softball


@pytest.fixture(scope="module")
def three_groups():
    rng = np.random.RandomState(0)
    return np.concatenate([c + rng.normal(size=(60, 2)) for c in (0.0, 6.0, 12.0)])


def test_criteria_are_those_of_the_estimators(three_groups):
    X = three_groups
    model = MAPGaussianMixture(covariance_type="diag", random_state=0)
    display = InformationCriterionDisplay.from_estimator(
        model, X, n_components=[1, 2, 3, 5], criteria=["bic", "icl", "aic"]
    )
    assert not hasattr(model, "weights_")
    assert display.n_components == [1, 2, 3, 5]
    fitted = MAPGaussianMixture(3, covariance_type="diag", random_state=0).fit(X)
    for name in ("bic", "icl", "aic"):
        assert display.values[name][2] == pytest.approx(getattr(fitted, name)(X))
    assert display.best("bic") == display.best("icl") == 3
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert labels[:2] == ["BIC: 3", "ICL: 3"]


def test_log_posteriors_and_other_estimators(three_groups):
    X = three_groups
    models = [
        MAPGaussianMixture(
            n,
            covariance_type="diag",
            random_state=0,
            weights_prior=Dirichlet(2.0),
            means_prior=Softball(20.0),
            scales_prior=LogNormalScale(1.0),
        ).fit(X)
        for n in (1, 2, 3, 4)
    ]
    display = InformationCriterionDisplay.from_estimators(
        models, X, criteria=["log_posterior"]
    )
    expected = [-2.0 * model.log_posterior_ for model in models]
    np.testing.assert_allclose(display.values["log_posterior"], expected)
    assert display.best("log_posterior") == 3
    theirs = InformationCriterionDisplay.from_estimator(
        GaussianMixture(random_state=0), X, n_components=(1, 3), criteria=["bic"]
    )
    assert theirs.best("bic") == 3
    with pytest.raises(ValueError, match="'dic' is not one of"):
        InformationCriterionDisplay.from_estimators(models, X, criteria=["dic"])
