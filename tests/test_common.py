"""scikit-learn's own checks: those it yields for the estimators, and the others."""

import numpy as np
import pytest
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from skmdn import (
    AmortizedPosterior,
    DeepGenerativeDecoder,
    MixtureDensityRegressor,
)
from skmdn.calibration import CalibratedDensityRegressor
from skmdn.families import (
    FAMILIES,
    Beta,
    Normal,
    PointMass,
    StudentT,
    Transformed,
    TruncatedNormal,
)
from skmdn.gaussian_classifier import GaussianMixtureClassifier
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


class DiscreteTarget(MixtureDensityRegressor):
    """The same estimator; numeric targets become counts before it sees them."""

    def fit(self, X, y, sample_weight=None):
        return super().fit(X, self.on_support(y), sample_weight)

    def partial_fit(self, X, y, sample_weight=None):
        return super().partial_fit(X, self.on_support(y), sample_weight)

    def log_prob(self, X, y):
        return super().log_prob(X, self.on_support(y))

    def on_support(self, y):
        values = np.asarray(y)
        if y is None or values.dtype.kind not in "biufO":
            return y
        try:
            counts = np.rint(np.abs(values.astype(float)))
        except (TypeError, ValueError):
            return y
        with np.errstate(invalid="ignore"):
            return counts % 2.0 if self.family == "bernoulli" else counts


POSITIVE = ("exponential", "gamma", "lognormal", "weibull")
DISCRETE = ("bernoulli", "negative_binomial", "poisson")
# Every name, the interval wide enough for the checks' targets, and mixtures.
KINDS = {
    **{name: name for name in FAMILIES if name != "normal"},
    "beta": Beta(-1e3, 1e3),
    "truncated_normal": TruncatedNormal(-1e3, 1e3),
    "transformed": Transformed(Normal(), -1e3, 1e3),
    "with a mass": ["normal", PointMass(0.0)],
    "three families": {
        "bulk": "normal",
        "far__out": StudentT(df=3.0),
        "one": PointMass(1.0),
    },
}
PRIORS = {
    "weights_prior": Dirichlet(2.0),
    "means_prior": Softball(5.0),
    "scales_prior": InverseGamma(),
}
REPRESENTATIVE = ("gamma", "negative_binomial", "three families")


def instances():
    """Return the estimators to check: defaults, but for fewer iterations."""
    regressors = [
        MixtureDensityRegressor(covariance_type=kind, max_iter=4, random_state=0)
        for kind in COVARIANCE_TYPES
    ]
    columns = [
        ColumnTarget(covariance_type=kind, max_iter=4, random_state=0)
        for kind in ("diag", "full")
    ]
    posteriors = [AmortizedPosterior(max_iter=4, n_estimators=2, random_state=0)]
    others = mixtures() + classifiers() + calibrated() + decoders()
    return regressors + columns + others + posteriors


def other_instances():
    """Return what resembles those: for the slow tests."""
    return [
        ColumnTarget(covariance_type=kind, max_iter=4, random_state=0)
        for kind in ("spherical", "tied")
    ]


def mixtures():
    """Return Gaussian mixtures: the defaults, with priors, and in batches."""
    return [
        *[MAPGaussianMixture(covariance_type=kind) for kind in MIXTURE_TYPES],
        *[
            MAPGaussianMixture(covariance_type=kind, **PRIORS)
            for kind in ("full", "diag")
        ],
        MAPGaussianMixture(
            covariance_type="tied", batch_size=8, scales_prior=InverseGamma()
        ),
    ]


def classifiers():
    """Return classes as Gaussian mixtures: the defaults, and with priors."""
    return [
        *[GaussianMixtureClassifier(covariance_type=kind) for kind in COVARIANCE_TYPES],
        *[
            GaussianMixtureClassifier(covariance_type=kind, **PRIORS)
            for kind in ("full", "diag")
        ],
    ]


def decoders():
    """Return the defaults, but for fewer passes."""
    return [DeepGenerativeDecoder(max_iter=4, random_state=0)]


def calibrated(methods=("isotonic",)):
    """Return calibrated networks that are quickly fitted."""
    network = MixtureDensityRegressor(
        2,
        hidden_layer_sizes=8,
        embedding="none",
        n_estimators=1,
        max_iter=4,
        early_stopping=False,
        random_state=0,
    )
    return [
        CalibratedDensityRegressor(network, method=method, cv=2, random_state=0)
        for method in methods
    ]


def of_families(names):
    """Return a small estimator for each of these families."""
    small = {"n_estimators": 2, "embedding": "none", "max_iter": 4, "random_state": 0}
    return [
        (DiscreteTarget if name in DISCRETE else MixtureDensityRegressor)(
            2, family=KINDS[name], **small
        )
        for name in names
    ]


def beside_the_tag(estimator):
    """Name the check that does not read the tag for positive targets."""
    if estimator.family not in POSITIVE:
        return {}
    return {"check_regressor_multioutput": "its targets are negative for all"}


@pytest.mark.draws_from_numpy
@parametrize_with_checks(instances(), xfail_strict=True)
def test_scikit_learn_check(estimator, check):
    check(estimator)


@pytest.mark.slow
@pytest.mark.draws_from_numpy
@parametrize_with_checks(other_instances(), xfail_strict=True)
def test_scikit_learn_check_of_others(estimator, check):
    check(estimator)


@pytest.mark.draws_from_numpy
@parametrize_with_checks(
    of_families(REPRESENTATIVE),
    expected_failed_checks=beside_the_tag,
    xfail_strict=True,
)
def test_scikit_learn_check_of_a_family(estimator, check):
    check(estimator)


@pytest.mark.slow
@pytest.mark.draws_from_numpy
@parametrize_with_checks(calibrated(["conformal", "temperature"]), xfail_strict=True)
def test_scikit_learn_check_of_another_calibration(estimator, check):
    check(estimator)


@pytest.mark.slow
@pytest.mark.draws_from_numpy
@parametrize_with_checks(
    of_families(name for name in KINDS if name not in REPRESENTATIVE),
    expected_failed_checks=beside_the_tag,
    xfail_strict=True,
)
def test_scikit_learn_check_of_another_family(estimator, check):
    check(estimator)


@pytest.mark.parametrize("family", POSITIVE)
def test_positive_families_take_several_outputs(family):
    class AbsoluteTarget(MixtureDensityRegressor):
        def fit(self, X, y, sample_weight=None):
            return super().fit(X, np.abs(y), sample_weight)

    model = AbsoluteTarget(family=family, max_iter=4, random_state=0)
    estimator_checks.check_regressor_multioutput("AbsoluteTarget", model)


@pytest.mark.parametrize(
    ("family", "positive"),
    [
        *((name, name in (*POSITIVE, *DISCRETE, "beta")) for name in FAMILIES),
        (Beta(-2.0, 1.0), False),
        (["gamma", PointMass(0.0)], True),
        (["gamma", "normal"], False),
        ({"a": "poisson", "b": "negative_binomial"}, True),
        ("normall", False),
        ([], False),
        (["gamma", "gama"], False),
        ([["gamma"]], False),
        (None, False),
        (3, False),
    ],
    ids=str,
)
def test_the_tag_for_positive_targets_follows_the_family(family, positive):
    tags = MixtureDensityRegressor("no number", family=family).__sklearn_tags__()
    assert tags.target_tags.positive_only is positive


@pytest.mark.parametrize(
    ("support", "positive"),
    [(None, False), ((0.0, None), True), ((-9.0, 9.0), False), ("positive", False)],
)
def test_the_tag_for_positive_targets_follows_the_support(support, positive):
    tags = MixtureDensityRegressor(support=support).__sklearn_tags__()
    assert tags.target_tags.positive_only is positive


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
@pytest.mark.parametrize(
    ("kind", "covariance_type"),
    [
        *((MAPGaussianMixture, name) for name in MIXTURE_TYPES),
        *((GaussianMixtureClassifier, name) for name in COVARIANCE_TYPES),
    ],
)
def test_check_of_mixtures_that_scikit_learn_does_not_yield(
    check, kind, covariance_type
):
    estimator = kind(covariance_type=covariance_type, random_state=0)
    check(kind.__name__, estimator)


@pytest.mark.draws_from_numpy
@pytest.mark.parametrize(
    "check",
    [
        estimator_checks.check_param_validation,
        estimator_checks.check_dataframe_column_names_consistency,
        estimator_checks.check_inplace_ensure_writeable,
    ],
)
def test_check_of_calibration_that_scikit_learn_does_not_yield(check):
    (estimator,) = calibrated()
    check("CalibratedDensityRegressor", estimator)


@pytest.mark.draws_from_numpy
@pytest.mark.parametrize(
    "check",
    [
        estimator_checks.check_param_validation,
        estimator_checks.check_dataframe_column_names_consistency,
        estimator_checks.check_inplace_ensure_writeable,
    ],
)
def test_check_of_decoders_that_scikit_learn_does_not_yield(check):
    (estimator,) = decoders()
    check("DeepGenerativeDecoder", estimator)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("n_outputs", [1, 2])
def test_weights_equal_repetition_at_the_default_number_of_passes(
    covariance_type, n_outputs
):
    rng = np.random.RandomState(42)
    X = rng.rand(15, 30)
    y = rng.randint(0, 3, size=(15, n_outputs)).astype(float)
    y = y[:, 0] if n_outputs == 1 else y
    model = MixtureDensityRegressor(covariance_type=covariance_type, random_state=0)
    # Rounding grows with the passes: from 1e-14 after ten to 1e-12 after 50 and 3e-7
    # after 200 of them.
    check_weights_equal_repetition(model, X, y, rng, 1e-5)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in REPRESENTATIVE else pytest.mark.slow)
        for name in KINDS
    ],
)
def test_weights_equal_repetition_for_every_family(name):
    rng = np.random.RandomState(42)
    X = rng.rand(15, 30)
    y = rng.randint(0, 2, size=15).astype(float) + (name in POSITIVE)
    narrow = {"beta": Beta(-1.0, 2.0), "transformed": Transformed(Normal(), -1.0, 2.0)}
    family = narrow.get(name, KINDS[name])
    model = MixtureDensityRegressor(2, family=family, random_state=0)
    # A narrow beta law has a + b up to 1e7, and so many digits less.
    check_weights_equal_repetition(model, X, y, rng, 1e-5 if name == "beta" else 1e-7)


def check_weights_equal_repetition(model, X, y, rng, atol=1e-7):
    weights = rng.randint(0, 5, size=len(X))
    weighted = model.fit(X, y, sample_weight=weights).predict(X)
    repeated = model.fit(np.repeat(X, weights, 0), np.repeat(y, weights, 0)).predict(X)
    np.testing.assert_allclose(weighted, repeated, rtol=0, atol=atol)
