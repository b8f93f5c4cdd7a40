"""Whether two samples come from one distribution."""

from dataclasses import dataclass

import numpy as np
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import KFold, cross_val_score
from sklearn.neural_network import MLPClassifier
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array

__all__ = ["MisspecificationTest", "c2st", "misspecification_test", "squared_mmd"]


def c2st(draws, reference, *, classifier="mlp", n_folds=5, random_state=0):
    """Return how well a classifier tells draws from reference draws.

    The accuracy on held-out draws: 0.5 if they cannot be told apart, 1 if always.
    It rises with the number of draws and depends on the classifier, so that only
    equal settings can be compared.

    Parameters
    ----------
    draws : array-like of shape (n_draws, n_parameters)
        From the posterior to be judged.
    reference : array-like of shape (n_reference, n_parameters)
        From the exact one. It sets the location and scale of both; of the larger
        sample a random part of the size of the smaller is used.
    classifier : {"mlp", "forest"} or classifier, default="mlp"
        A network of two layers of ten units per parameter [1]_, a random forest,
        or any classifier of scikit-learn.
    n_folds : int, default=5
        Number of folds of the cross-validation.
    random_state : int, RandomState instance or None, default=0
        Determines folds, parts and the built-in classifiers.

    Returns
    -------
    accuracy : float
        Mean over the folds.

    References
    ----------
    .. [1] J.-M. Lueckmann, J. Boelts, D. Greenberg, P. Gonçalves and J. Macke,
       "Benchmarking simulation-based inference", AISTATS 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from skmdn.diagnostics import c2st
    >>> rng = np.random.default_rng(0)
    >>> a, b = rng.normal(size=(2, 300, 2))
    >>> bool(abs(c2st(a, b) - 0.5) < 0.1), c2st(a, b + 5.0)
    (True, 1.0)
    """
    draws, reference = _two_samples(draws, reference)
    rng = check_random_state(random_state)
    n = min(len(draws), len(reference))
    if n < n_folds:
        raise ValueError(f"{n} draws are too few for {n_folds} folds.")
    draws = draws[rng.permutation(len(draws))[:n]]
    reference = reference[rng.permutation(len(reference))[:n]]
    center, scale = reference.mean(0), reference.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    X = (np.concatenate([draws, reference]) - center) / scale
    y = np.repeat([0, 1], n)
    seed = rng.randint(np.iinfo(np.int32).max)
    n_units = 10 * X.shape[1]
    if isinstance(classifier, str):
        known = {
            "mlp": MLPClassifier(
                (n_units, n_units), max_iter=10_000, random_state=seed
            ),
            "forest": RandomForestClassifier(random_state=seed),
        }
        if classifier not in known:
            raise ValueError(
                f"classifier must be one of {sorted(known)} or a classifier, got "
                f"{classifier!r}."
            )
        classifier = known[classifier]
    folds = KFold(n_folds, shuffle=True, random_state=seed)
    return float(cross_val_score(clone(classifier), X, y, cv=folds).mean())


def squared_mmd(a, b, *, bandwidth=None):
    r"""Return the unbiased estimate of the squared maximum mean discrepancy.

    .. math:: \frac{1}{m (m - 1)} \sum_{i \ne j} k(a_i, a_j)
        + \frac{1}{n (n - 1)} \sum_{i \ne j} k(b_i, b_j)
        - \frac{2}{m n} \sum_{i, j} k(a_i, b_j)

    with :math:`k(a, b) = \exp(-|a - b|^2 / 2 h^2)`. Its mean is 0 if both samples come
    from one distribution, so that it can be negative.

    Parameters
    ----------
    a : array-like of shape (m, n_features)
        A sample. The first sum is left out if it has a single row.
    b : array-like of shape (n, n_features)
        Another sample.
    bandwidth : float, default=None
        The width h; by default the median distance within ``b``.

    Returns
    -------
    mmd : float
        The estimate.

    References
    ----------
    .. [1] A. Gretton, K. Borgwardt, M. Rasch, B. Schölkopf and A. Smola, "A kernel
       two-sample test", JMLR 13, 2012, equation 3.

    Examples
    --------
    >>> from skmdn.diagnostics import squared_mmd
    >>> round(squared_mmd([[0.0], [1.0]], [[0.0], [1.0]], bandwidth=1.0), 3)
    -0.393
    """
    a, b = _two_samples(a, b)
    if len(b) < 2:
        raise ValueError("The second sample needs at least two rows.")
    kernel = _kernel(np.concatenate([a, b]), len(a), bandwidth)
    return float(_mmd(kernel, np.arange(len(a)), np.arange(len(a), len(kernel))))


@dataclass(frozen=True)
class MisspecificationTest:
    """What :func:`misspecification_test` found.

    Parameters
    ----------
    statistic : float
        The squared discrepancy of the observed summaries.
    null : ndarray of shape (n_null,)
        Those of simulated summaries.
    p_value : float
        How often simulations are as discrepant.

    Examples
    --------
    >>> import numpy as np
    >>> from skmdn.diagnostics import MisspecificationTest
    >>> MisspecificationTest(0.5, np.zeros(99), 0.01).p_value
    0.01
    """

    statistic: float
    null: np.ndarray
    p_value: float


def misspecification_test(
    observed,
    simulated,
    *,
    n_null=500,
    bandwidth=None,
    max_simulated=1000,
    random_state=None,
):
    """Test whether observed data look like anything that the simulator makes.

    An amortized posterior is trained on simulations and says nothing about data
    unlike them. The statistic is :func:`squared_mmd` between the observed and the
    simulated summaries; its null distribution comes from groups of simulations as
    large as the observed one, each against all other simulations.

    Parameters
    ----------
    observed : array-like of shape (n_observed, n_features)
        Summaries of what was observed; one row for a single data set.
    simulated : array-like of shape (n_simulated, n_features)
        Summaries of simulations. They set the scales of the features.
    n_null : int, default=500
        Number of groups.
    bandwidth : float, default=None
        Width of the kernel, in standard deviations of the simulated summaries.
    max_simulated : int, default=1000
        At most so many simulations are used.
    random_state : int, RandomState instance or None, default=None
        Determines the groups.

    Returns
    -------
    result : MisspecificationTest
        With ``p_value``, ``statistic`` and ``null``.

    References
    ----------
    .. [1] M. Schmitt, P.-C. Bürkner, U. Köthe and S. Radev, "Detecting model
       misspecification in amortized Bayesian inference with neural networks",
       GCPR 2023.

    Examples
    --------
    >>> import numpy as np
    >>> from skmdn.diagnostics import misspecification_test
    >>> simulated = np.random.default_rng(0).normal(size=(500, 2))
    >>> misspecification_test([[6.0, 0.0]], simulated, random_state=0).p_value < 0.01
    True
    >>> misspecification_test([[0.5, 0.0]], simulated, random_state=0).p_value > 0.1
    True
    """
    observed, simulated = _two_samples(observed, simulated)
    rng = check_random_state(random_state)
    simulated = simulated[rng.permutation(len(simulated))[:max_simulated]]
    m, n = len(observed), len(simulated)
    if n < 2 * m or n < 20:
        raise ValueError(
            f"{n} simulations are too few for {m} observed rows: at least 20 and "
            "twice as many are needed."
        )
    scale = simulated.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    kernel = _kernel(np.concatenate([observed, simulated]) / scale, m, bandwidth)
    inner = kernel[m:, m:]
    sums, null = inner.sum(1), np.empty(n_null)
    for i in range(n_null):
        null[i] = _mmd_of_part(inner, sums, rng.permutation(n)[:m])
    # Against as many simulations as the groups of the null.
    statistic = _mmd(kernel, np.arange(m), np.arange(2 * m, m + n))
    p_value = (1.0 + (null >= statistic).sum()) / (1.0 + n_null)
    return MisspecificationTest(float(statistic), null, float(p_value))


def _two_samples(a, b):
    """Return two samples as finite arrays with the same number of columns."""
    a = check_array(a, dtype=np.float64, input_name="first sample")
    b = check_array(b, dtype=np.float64, input_name="second sample")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"The samples have {a.shape[1]} and {b.shape[1]} columns.")
    return a, b


def _kernel(rows, m, bandwidth):
    """Return the Gaussian kernel between all rows."""
    squares = np.square(rows).sum(1)
    distance = np.maximum(squares[:, None] + squares - 2.0 * rows @ rows.T, 0.0)
    np.fill_diagonal(distance, 0.0)
    if bandwidth is None:
        within = distance[m:, m:][np.triu_indices(len(rows) - m, 1)]
        bandwidth = np.sqrt(np.median(within)) or 1.0
    elif not bandwidth > 0:
        raise ValueError(f"bandwidth must be positive, got {bandwidth!r}.")
    return np.exp(-0.5 * distance / bandwidth**2)


def _mmd(kernel, first, second):
    """Return the unbiased estimate from a kernel matrix and two sets of rows."""
    within = kernel[np.ix_(second, second)].sum()
    cross = kernel[np.ix_(first, second)].sum()
    return _estimate(
        kernel[np.ix_(first, first)].sum(), within, cross, len(first), len(second)
    )


def _mmd_of_part(kernel, sums, part):
    """Return the same of some rows against all others, from the sums of all rows."""
    own = kernel[np.ix_(part, part)].sum()
    of_part = sums[part].sum()
    within = sums.sum() - 2.0 * of_part + own
    return _estimate(own, within, of_part - own, len(part), len(kernel) - len(part))


def _estimate(first, second, cross, m, n):
    """Return the estimate from sums of the kernel, whose diagonal is 1."""
    mmd = (second - n) / (n * (n - 1.0)) - 2.0 * cross / (m * n)
    return mmd + (first - m) / (m * (m - 1.0)) if m > 1 else mmd
