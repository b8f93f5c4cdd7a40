"""Calibration of predictive distributions by rows that were not trained on."""

import numbers
import warnings

import numpy as np
from sklearn.base import (
    BaseEstimator,
    MetaEstimatorMixin,
    MultiOutputMixin,
    RegressorMixin,
    clone,
)
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import KFold, check_cv
from sklearn.utils import check_random_state, get_tags, indexable
from sklearn.utils.validation import (
    check_array,
    check_consistent_length,
    check_is_fitted,
    has_fit_parameter,
)

from ._sklearn import (
    HasMethods,
    StrOptions,
    _check_sample_weight,
    _fit_context,
    _safe_indexing,
)
from .base import unchanged_on_error
from .calibrators import (
    HeldOut,
    ScoreCalibrator,
    TemperatureCalibrator,
    check_support,
    counted,
)
from .metrics import predict_distribution
from .predictive import PredictiveQueries, row_chunks
from .regression import MixtureDensityRegressor

__all__ = ["CalibratedDensityRegressor"]

_METHODS = ("temperature", "isotonic", "conformal")


class CalibratedDensityRegressor(
    PredictiveQueries,
    MultiOutputMixin,
    RegressorMixin,
    MetaEstimatorMixin,
    BaseEstimator,
):
    """Calibrate the predictive distributions of an estimator.

    Rows that the estimator was not trained on tell where its distributions are too
    narrow, too wide or askew, and a calibrator learned from them repairs that. The
    answers are distributions again. With a single split or a
    :class:`~sklearn.frozen.FrozenEstimator`, intervals of the conformal method cover
    new targets as often as they promise, whatever the estimator does.

    Parameters
    ----------
    estimator : estimator, default=None
        Whatever :func:`skmdn.metrics.predict_distribution` understands: an estimator
        with ``predict_distribution``, a pipeline that ends in one or a search over
        either. None stands for ``MixtureDensityRegressor()`` with this
        ``random_state``. A :class:`~sklearn.frozen.FrozenEstimator` is not fitted
        again, and all rows given to :meth:`fit` calibrate it.
    method : {"isotonic", "conformal", "temperature"}, default="isotonic"
        What is learned:

        - "temperature": one factor for all scales and one temperature for all
          weights, by maximum likelihood. The result stays a mixture.
        - "isotonic": a smooth monotone map of the distribution function.
        - "conformal": the monotone map through the ranks of the calibration rows,
          with intervals that keep their coverage.
    cv : int, cross-validation generator, iterable or None, default=5
        Which rows calibrate. An int is the number of shuffled folds, None means 5.
        With a single split, as of ``ShuffleSplit(1)``, the estimator fitted to its
        training part is kept; with several, out-of-fold predictions calibrate and the
        estimator is fitted again to all rows.
    random_state : int, RandomState instance or None, default=None
        Determines the folds, and what is drawn for discrete targets; and the draws of
        :meth:`sample` unless it is given its own.

    Attributes
    ----------
    estimator_ : estimator
        The fitted estimator.
    calibrator_ : TemperatureCalibrator or ScoreCalibrator
        What was learned: ``scale_factor`` and ``temperature``, or ``maps``.
    n_outputs_ : int
        Number of outputs.
    n_features_in_ : int
        Number of features seen in fit, if the estimator tells.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, if they are all strings and the estimator tells.

    See Also
    --------
    sklearn.calibration.CalibratedClassifierCV : The same for probabilities of classes.
    skmdn.plotting.PredictiveCalibrationDisplay : Shows what there is to repair.

    Notes
    -----
    The maps are those of normal scores z, the normal quantiles of F(y); see
    :class:`skmdn.calibrated.CalibratedDistribution`. Each output has its own. Discrete
    targets have a score drawn uniformly from where F jumps.

    A row of weight 2 counts as two rows, and weights that sum to less than the number
    of rows are scaled up to it. The conformal guarantee is one of equal weights. A row
    that several splits hold out shares its weight among them.

    A monotone map moves what the distribution function tells apart: it cannot put
    probability into a gap between two narrow peaks, where F is level.

    References
    ----------
    .. [1] V. Kuleshov, N. Fenner and S. Ermon, "Accurate uncertainties for deep
       learning using calibrated regression", ICML 2018.
    .. [2] V. Vovk, J. Shen, V. Manokhin and M. Xie, "Nonparametric predictive
       distributions based on conformal prediction", Machine Learning 108, 2019.

    Examples
    --------
    >>> from sklearn.model_selection import ShuffleSplit
    >>> from skmdn import MixtureDensityRegressor
    >>> from skmdn.calibration import CalibratedDensityRegressor
    >>> from skmdn.datasets import make_branches
    >>> from skmdn.metrics import interval_coverage
    >>> X, y = make_branches(1200, random_state=0)
    >>> model = MixtureDensityRegressor(2, n_estimators=1, max_iter=20, random_state=0)
    >>> split = ShuffleSplit(1, test_size=0.3, random_state=0)
    >>> calibrated = CalibratedDensityRegressor(model, method="conformal", cv=split)
    >>> calibrated = calibrated.fit(X[:600], y[:600])
    >>> bool(abs(interval_coverage(calibrated, X[600:], y[600:], 0.9) - 0.9) < 0.06)
    True
    """

    _parameter_constraints: dict = {
        "estimator": [HasMethods("fit"), None],
        "method": [StrOptions(set(_METHODS))],
        "cv": ["cv_object"],
        "random_state": ["random_state"],
    }

    def __init__(self, estimator=None, *, method="isotonic", cv=5, random_state=None):
        self.estimator = estimator
        self.method = method
        self.cv = cv
        self.random_state = random_state

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        inner = get_tags(self._inner())
        tags.input_tags = inner.input_tags
        tags.target_tags = inner.target_tags
        tags.regressor_tags.poor_score = True
        return tags

    def _inner(self):
        """Return the estimator, or what None stands for."""
        if self.estimator is None:
            return MixtureDensityRegressor(random_state=self.random_state)
        return self.estimator

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, sample_weight=None):
        """Fit the estimator and the calibrator.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features, in any form that the estimator takes.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets. An output that is missing (NaN) in a row is calibrated by others.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights, for the calibrator and for an estimator that takes them.

        Returns
        -------
        self : CalibratedDensityRegressor
            The fitted estimator.

        Raises
        ------
        ValueError
            If the data cannot be used; the estimator is then what it was before.
        """
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is "
                "None."
            )
        X, y = indexable(X, y)
        several = np.ndim(y) == 2 and np.shape(y)[1] > 1
        check_array(
            y,
            ensure_2d=False,
            dtype=np.float64,
            # Of several outputs, some may be missing.
            ensure_all_finite="allow-nan" if several else True,
            input_name="y",
        )
        weights = _check_sample_weight(
            sample_weight, X, dtype=np.float64, ensure_non_negative=True
        )
        with unchanged_on_error(self):
            self.estimator_, groups = self._held_out(
                X, y, weights, given=sample_weight is not None
            )
            self.n_outputs_ = groups[0].dist.n_outputs
            for name in ("n_features_in_", "feature_names_in_"):
                vars(self).pop(name, None)
                if hasattr(self.estimator_, name):
                    setattr(self, name, getattr(self.estimator_, name))
            self.calibrator_ = self._calibrator(groups)
        return self

    def _held_out(self, X, y, weights, *, given):
        """Return the estimator to keep, and what others say of rows not seen."""
        inner = self._inner()
        if isinstance(inner, FrozenEstimator):
            everything = np.arange(len(weights))
            return inner, [_judged(inner, X, y, everything, weights)]
        takes_weights = given and has_fit_parameter(inner, "sample_weight")
        if given and not takes_weights:
            warnings.warn(
                f"{type(inner).__name__}.fit takes no sample_weight: the weights are "
                "used for the calibration only.",
                UserWarning,
                stacklevel=4,
            )

        def fitted(rows):
            parts = [_safe_indexing(values, rows) for values in (X, y)]
            extra = {"sample_weight": weights[rows]} if takes_weights else {}
            return clone(inner).fit(*parts, **extra)

        splits = self._splits(X, y, len(weights))
        n_times = np.zeros(len(weights))
        for _, test in splits:
            n_times[test] += 1.0
        shared = weights / np.maximum(n_times, 1.0)
        models = (fitted(train) for train, _ in splits)
        groups = []
        for model, (_, test) in zip(models, splits, strict=True):
            groups.append(_judged(model, X, y, test, shared))
        if len(splits) > 1:
            model = fitted(np.arange(len(weights)))
        return model, groups

    def _splits(self, X, y, n_rows):
        """Return pairs of training and test rows, as numbers."""
        cv = 5 if self.cv is None else self.cv
        if isinstance(cv, numbers.Integral):
            cv = KFold(cv, shuffle=True, random_state=self.random_state)
        rows = np.arange(n_rows)
        return [(rows[train], rows[test]) for train, test in check_cv(cv).split(X, y)]

    def _calibrator(self, groups):
        """Learn what the method says."""
        groups = counted(groups)
        check_support(groups)
        if self.method == "temperature":
            return TemperatureCalibrator.fit(groups)
        dist = groups[0].dist
        discrete = any(block.family.discrete for block in dist.mixture.blocks)
        if discrete and dist.n_outputs > 1:
            raise ValueError(
                f"method={self.method!r} calibrates several outputs of continuous "
                "components only; use method='temperature'."
            )
        rng = check_random_state(self.random_state)
        return ScoreCalibrator.fit(groups, self.method, rng)

    # Queries; the others are inherited.

    def _checked_X(self, X):
        check_is_fitted(self, "estimator_")
        return X if hasattr(X, "shape") else np.asarray(X)

    def _distribution(self, X):
        return self.calibrator_(predict_distribution(self.estimator_, X))

    def predict_distribution(self, X):
        """Return the calibrated conditional distribution.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.

        Returns
        -------
        dist : CalibratedDistribution or PredictiveDistribution
            The latter for ``method="temperature"``.
        """
        return self._distribution(self._checked_X(X))

    def log_prob(self, X, y):
        """Return the log density of each target, in nats.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.

        Returns
        -------
        log_prob : ndarray of shape (n_samples,)
            Log densities in the units of y.

        Raises
        ------
        ValueError
            If the data cannot be used.
        """
        X = self._checked_X(X)
        y = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
        check_consistent_length(X, y)
        columns = y.reshape(len(y), -1)
        if columns.shape[1] != self.n_outputs_:
            raise ValueError(
                f"y has shape {y.shape}, but the estimator was fitted with "
                f"{self.n_outputs_} output(s)."
            )
        parts = []
        for rows in row_chunks(len(y)):
            dist = self._distribution(X[rows])
            known = columns[rows, 0] if dist.univariate else columns[rows]
            parts.append(dist.log_prob(known))
        return np.concatenate(parts)


def _judged(model, X, y, rows, weights):
    """Return what a model says of some rows, beside the targets and weights."""
    dist = predict_distribution(model, _safe_indexing(X, rows))
    y = np.asarray(_safe_indexing(y, rows), dtype=np.float64)
    return HeldOut(dist, y.reshape(len(y), dist.n_outputs), weights[rows])
