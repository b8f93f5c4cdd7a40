"""Toy data with a known conditional density."""

import numpy as np
from scipy import special
from sklearn.utils import check_random_state

__all__ = ["branches_log_prob", "make_branches", "make_cardioid", "make_inverse_sine"]


def make_branches(n_samples=1000, *, noise=0.1, random_state=None):
    r"""Make data whose target sits on one of two branches of a root.

    .. math:: x \sim U(0, 1), \quad y = \pm 2 \sqrt{x} + \varepsilon, \quad
        \varepsilon \sim \mathcal{N}(0, \text{noise}^2)

    Parameters
    ----------
    n_samples : int, default=1000
        Number of rows.
    noise : float, default=0.1
        Standard deviation around the branch.
    random_state : int, RandomState instance or None, default=None
        Determines the draws.

    Returns
    -------
    X : ndarray of shape (n_samples, 1)
        Features.
    y : ndarray of shape (n_samples,)
        Targets; their mean given x is 0 everywhere.

    See Also
    --------
    branches_log_prob : The true density.

    Examples
    --------
    >>> from skmdn.datasets import make_branches
    >>> X, y = make_branches(5, random_state=0)
    >>> X.shape, y.shape
    ((5, 1), (5,))
    """
    rng = check_random_state(random_state)
    x = rng.uniform(size=n_samples)
    sign = rng.choice([-1.0, 1.0], size=n_samples)
    y = sign * 2.0 * np.sqrt(x) + noise * rng.normal(size=n_samples)
    return x[:, None], y


def branches_log_prob(X, y, *, noise=0.1):
    """Return the true log density of :func:`make_branches`, in nats.

    Parameters
    ----------
    X : array-like of shape (n_samples, 1)
        Features.
    y : array-like of shape (n_samples,)
        Targets.
    noise : float, default=0.1
        As it was when the data were made.

    Returns
    -------
    log_prob : ndarray of shape (n_samples,)
        Logarithm of p(y | x) for each row.

    Examples
    --------
    >>> from skmdn.datasets import branches_log_prob
    >>> branches_log_prob([[1.0]], [2.0]).round(2)
    array([0.69])
    """
    branch = 2.0 * np.sqrt(np.asarray(X)[:, 0])
    z = (np.asarray(y) - np.stack([branch, -branch])) / noise
    log_norm = np.log(2.0 * noise * np.sqrt(2.0 * np.pi))
    return special.logsumexp(-0.5 * z**2, axis=0) - log_norm


def make_cardioid(n_samples=2000, *, noise=0.1, random_state=None):
    r"""Make a heart: up to four values of y for one x.

    .. math:: t \sim U(-\pi, \pi), \quad r = 2 (1 - \cos t), \quad
        x = r \sin t + \varepsilon_1, \quad y = r \cos t + \varepsilon_2

    Parameters
    ----------
    n_samples : int, default=2000
        Number of rows.
    noise : float, default=0.1
        Standard deviation of both errors.
    random_state : int, RandomState instance or None, default=None
        Determines the draws.

    Returns
    -------
    X : ndarray of shape (n_samples, 1)
        The abscissa.
    y : ndarray of shape (n_samples,)
        The ordinate.

    Examples
    --------
    >>> from skmdn.datasets import make_cardioid
    >>> X, y = make_cardioid(3, random_state=0)
    >>> X.shape, y.shape
    ((3, 1), (3,))
    """
    rng = check_random_state(random_state)
    t = rng.uniform(-np.pi, np.pi, size=n_samples)
    r = 2.0 * (1.0 - np.cos(t))
    x = r * np.sin(t) + noise * rng.normal(size=n_samples)
    y = r * np.cos(t) + noise * rng.normal(size=n_samples)
    return x[:, None], y


def make_inverse_sine(n_samples=1000, *, noise=0.05, random_state=None):
    r"""Make the classical inverse problem: several causes for one effect.

    .. math:: y \sim U(0, 1), \quad x = y + 0.3 \sin(2 \pi y) + \varepsilon, \quad
        \varepsilon \sim \mathcal{N}(0, \text{noise}^2)

    Predicting x from y is easy; predicting y from x has up to three answers.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of rows.
    noise : float, default=0.05
        Standard deviation of the effect's error.
    random_state : int, RandomState instance or None, default=None
        Determines the draws.

    Returns
    -------
    X : ndarray of shape (n_samples, 1)
        The effect.
    y : ndarray of shape (n_samples,)
        The cause.

    References
    ----------
    .. [1] C. M. Bishop, "Mixture density networks", Technical report
       NCRG/94/004, Aston University, 1994, section 5.

    Examples
    --------
    >>> from skmdn.datasets import make_inverse_sine
    >>> X, y = make_inverse_sine(3, random_state=0)
    >>> bool((y >= 0).all() and (y <= 1).all())
    True
    """
    rng = check_random_state(random_state)
    y = rng.uniform(size=n_samples)
    x = y + 0.3 * np.sin(2.0 * np.pi * y) + noise * rng.normal(size=n_samples)
    return x[:, None], y
