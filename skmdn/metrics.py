"""Proper scores and calibration of fitted estimators, pipelines and searches."""

import numpy as np
from sklearn.utils.validation import check_array, check_consistent_length

from ._sklearn import _check_sample_weight

__all__ = ["interval_coverage", "mean_crps", "neg_crps_scorer", "predict_distribution"]


def predict_distribution(estimator, X):
    """Return the predictive distribution, also through a pipeline or a search.

    ``Pipeline`` and ``GridSearchCV`` pass on the methods scikit-learn knows, and
    ``predict_distribution`` is not one of them.

    Parameters
    ----------
    estimator : estimator
        A fitted estimator with ``predict_distribution``, or a pipeline that ends in
        one, or a search over either.
    X : array-like of shape (n_samples, n_features)
        Features, as the outermost estimator takes them.

    Returns
    -------
    dist : PredictiveDistribution
        The distribution of each row.

    Raises
    ------
    TypeError
        If no part of the estimator predicts distributions.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skmdn import MixtureDensityRegressor
    >>> from skmdn.datasets import make_branches
    >>> from skmdn.metrics import predict_distribution
    >>> X, y = make_branches(200, random_state=0)
    >>> model = MixtureDensityRegressor(2, max_iter=20, random_state=0)
    >>> pipe = make_pipeline(StandardScaler(), model).fit(X, y)
    >>> predict_distribution(pipe, X[:3])
    PredictiveDistribution(n_samples=3, n_outputs=1, n_components=24)
    """
    if hasattr(estimator, "predict_distribution"):
        return estimator.predict_distribution(X)
    if hasattr(estimator, "best_estimator_"):
        return predict_distribution(estimator.best_estimator_, X)
    if hasattr(estimator, "named_steps"):
        head = estimator[:-1]
        return predict_distribution(
            estimator[-1], head.transform(X) if len(head) else X
        )
    raise TypeError(
        f"{type(estimator).__name__} does not predict distributions; give a fitted "
        "MixtureDensityRegressor, or a Pipeline or search that ends in one."
    )


def mean_crps(estimator, X, y, sample_weight=None):
    """Return the mean continuous ranked probability score; lower is better.

    Parameters
    ----------
    estimator : estimator
        As in :func:`predict_distribution`.
    X : array-like of shape (n_samples, n_features)
        Features.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Targets; several outputs are averaged.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights.

    Returns
    -------
    crps : float
        In the units of y.

    Examples
    --------
    >>> from skmdn import MixtureDensityRegressor
    >>> from skmdn.datasets import make_branches
    >>> from skmdn.metrics import mean_crps
    >>> X, y = make_branches(300, random_state=0)
    >>> model = MixtureDensityRegressor(2, max_iter=50, random_state=0).fit(X, y)
    >>> mean_crps(model, X, y) < 0.7
    True
    """
    dist = predict_distribution(estimator, X)
    crps = dist.crps(_targets(dist, y)).reshape(len(dist), -1).mean(1)
    weights = _check_sample_weight(sample_weight, crps, ensure_non_negative=True)
    return float(np.average(crps, weights=weights))


def neg_crps_scorer(estimator, X, y, sample_weight=None):
    """Score by the negative mean CRPS: for ``scoring=`` in a search.

    Parameters
    ----------
    estimator : estimator
        As in :func:`predict_distribution`.
    X : array-like of shape (n_samples, n_features)
        Features.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Targets.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights.

    Returns
    -------
    score : float
        Higher is better.
    """
    return -mean_crps(estimator, X, y, sample_weight)


def interval_coverage(estimator, X, y, coverage=0.9):
    """Return the share of targets inside their central prediction interval.

    Parameters
    ----------
    estimator : estimator
        As in :func:`predict_distribution`.
    X : array-like of shape (n_samples, n_features)
        Features.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Targets; several outputs are pooled.
    coverage : float, default=0.9
        The share that a calibrated model attains.

    Returns
    -------
    share : float
        Between 0 and 1.
    """
    if not 0.0 < coverage < 1.0:
        raise ValueError(f"coverage must lie between 0 and 1, got {coverage!r}.")
    dist = predict_distribution(estimator, X)
    pit = dist.pit(_targets(dist, y))
    return float(np.mean(np.abs(pit - 0.5) <= 0.5 * coverage))


def _targets(dist, y):
    """Return targets in the form that the distribution expects."""
    y = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
    check_consistent_length(dist, y)
    return y.reshape(len(y)) if dist.univariate else y.reshape(len(y), dist.n_outputs)
