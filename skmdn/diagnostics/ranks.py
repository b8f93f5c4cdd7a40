"""Ranks of parameters among posterior draws, and what is made of draws alone."""

import numpy as np
from sklearn.utils import check_random_state

__all__ = ["checked_draws", "sample_crps", "simulation_ranks", "tarp_values"]


def checked_draws(draws, theta):
    """Return draws of shape (n, S, d) and parameters of shape (n, d)."""
    draws, theta = np.asarray(draws, dtype=float), np.asarray(theta, dtype=float)
    if theta.ndim == 1:
        theta = theta[:, None]
    if draws.ndim == 2:
        draws = draws[..., None]
    if theta.ndim != 2 or draws.ndim != 3 or len(draws) != len(theta):
        raise ValueError(
            "draws must have the shape (n_simulations, n_draws, n_parameters) and "
            f"theta (n_simulations, n_parameters), got {draws.shape} and {theta.shape}."
        )
    if draws.shape[2] != theta.shape[1]:
        raise ValueError(
            f"draws have {draws.shape[2]} parameters, theta has {theta.shape[1]}."
        )
    for name, values in (("draws", draws), ("theta", theta)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name} contains NaN or infinity.")
    if draws.shape[1] < 2:
        raise ValueError("At least two draws for each simulation are needed.")
    return draws, theta


def simulation_ranks(draws, theta, *, random_state=None):
    """Return the rank of each parameter among its posterior draws.

    Under the exact posterior the ranks are uniform on 0, ..., n_draws. Ties, as
    discrete parameters have them, are broken at random.

    Parameters
    ----------
    draws : array-like of shape (n_simulations, n_draws[, n_parameters])
        Posterior draws given the data of each simulation.
    theta : array-like of shape (n_simulations[, n_parameters])
        The parameters that the data were simulated with.
    random_state : int, RandomState instance or None, default=None
        Breaks ties.

    Returns
    -------
    ranks : ndarray of shape (n_simulations, n_parameters)
        How many draws are smaller.

    Examples
    --------
    >>> from skmdn.diagnostics import simulation_ranks
    >>> simulation_ranks([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], [2.5, 0.0])
    array([[2],
           [0]])
    """
    draws, theta = checked_draws(draws, theta)
    smaller = (draws < theta[:, None]).sum(1)
    ties = (draws == theta[:, None]).sum(1)
    if ties.any():
        rng = check_random_state(random_state)
        smaller = smaller + rng.randint(0, ties + 1)
    return smaller


def sample_crps(draws, theta):
    r"""Return the continuous ranked probability score of draws; lower is better.

    .. math:: \frac1S \sum_s |\theta_s - \theta|
        - \frac1{2 S (S - 1)} \sum_{s, t} |\theta_s - \theta_t|

    It is an unbiased estimate of the score of the distribution drawn from, and the
    score is proper: on average nothing scores better than the exact posterior.

    Parameters
    ----------
    draws : array-like of shape (n_simulations, n_draws[, n_parameters])
        Posterior draws.
    theta : array-like of shape (n_simulations[, n_parameters])
        True parameters.

    Returns
    -------
    crps : ndarray of shape (n_simulations, n_parameters)
        In the units of the parameters.

    Examples
    --------
    >>> from skmdn.diagnostics import sample_crps
    >>> sample_crps([[0.0, 2.0]], [1.0])
    array([[0.]])
    """
    draws, theta = checked_draws(draws, theta)
    n_draws = draws.shape[1]
    distance = np.abs(draws - theta[:, None]).mean(1)
    place = 2.0 * np.arange(1, n_draws + 1) - n_draws - 1.0
    spread = np.einsum("s,nsd->nd", place, np.sort(draws, axis=1))
    return distance - spread / (n_draws * (n_draws - 1.0))


def prior_crps(theta):
    """Return the score of each parameter under all the others, as prior draws."""
    n = len(theta)
    order = np.argsort(theta, axis=0)
    ordered = np.take_along_axis(theta, order, 0)
    place = np.arange(n)[:, None]
    sums = np.cumsum(ordered, axis=0)
    # Sums of distances to the smaller and to the larger ones.
    total = ordered * (2 * place + 2 - n) - 2 * sums + sums[-1]
    distance = np.empty_like(theta)
    np.put_along_axis(distance, order, total / (n - 1.0), 0)
    return distance - 0.5 * distance.mean(0)


def tarp_values(draws, theta, *, references=None, random_state=None):
    r"""Return the credibility at which each parameter vector is covered.

    .. math:: u_i = P\bigl(d(\theta', r_i) < d(\theta_i, r_i)\bigr), \quad
        \theta' \sim q(\theta \mid x_i)

    Under the exact posterior it is uniform whatever the reference points
    :math:`r_i` are, as long as they do not know :math:`\theta_i`. It looks at all
    parameters at once.

    Parameters
    ----------
    draws : array-like of shape (n_simulations, n_draws[, n_parameters])
        Posterior draws.
    theta : array-like of shape (n_simulations[, n_parameters])
        True parameters.
    references : array-like of shape (n_simulations, n_parameters), default=None
        The points; by default the parameters of other simulations, drawn at
        random. Points that depend on the data can also see a posterior that
        ignores the data.
    random_state : int, RandomState instance or None, default=None
        Determines the points and breaks ties.

    Returns
    -------
    values : ndarray of shape (n_simulations,)
        Between 0 and 1.

    References
    ----------
    .. [1] P. Lemos, A. Coogan, Y. Hezaveh and L. Perreault-Levasseur,
       "Sampling-based accuracy testing of posterior estimators for general
       inference", ICML 2023.

    Examples
    --------
    >>> import numpy as np
    >>> from skmdn.diagnostics import tarp_values, uniformity_test
    >>> rng = np.random.default_rng(0)
    >>> theta, draws = rng.normal(size=(200, 2)), rng.normal(size=(200, 99, 2))
    >>> uniformity_test(tarp_values(draws, theta, random_state=0))[0] > 0
    True
    """
    draws, theta = checked_draws(draws, theta)
    rng = check_random_state(random_state)
    n = len(theta)
    if references is None:
        if n < 2:
            raise ValueError("A single simulation needs references.")
        # Never the simulation's own parameters.
        references = theta[(np.arange(n) + rng.randint(1, n, size=n)) % n]
    references = np.asarray(references, dtype=float).reshape(theta.shape)
    scale = theta.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    far = np.square((draws - references[:, None]) / scale).sum(2)
    own = np.square((theta - references) / scale).sum(1)
    return randomized(simulation_ranks(far, own, random_state=rng), draws, rng)[:, 0]


def randomized(ranks, draws, rng):
    """Spread each rank over its interval: then uniform is uniform on [0, 1]."""
    return (ranks + rng.uniform(size=ranks.shape)) / (draws.shape[1] + 1)
