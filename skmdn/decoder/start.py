"""Where a decoder's fit begins: blocks of columns, classes, codes and mixtures."""

import math
from dataclasses import replace
from numbers import Real

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.utils import check_array
from sklearn.utils.extmath import randomized_svd, svd_flip

from skmdn import em
from skmdn.bridge import to_numpy, to_tensor
from skmdn.decoding.laws import LIKELIHOODS
from skmdn.decoding.prior import LatentBlock
from skmdn.decoding.table import Blocks
from skmdn.priors import Dirichlet, LogNormalScale, Softball

__all__ = [
    "column_blocks",
    "component_classes",
    "default_scale",
    "first_codes",
    "first_mixture",
    "principal_axes",
    "resolved_priors",
]

# Rounds in which missing values are filled from the principal components.
_FILLING_ROUNDS = 10
# Principal components from which codes are guessed.
_MOST_AXES = 50
# Codes beyond the rank of the data begin at noise of this size.
_NOISE = 0.1


def column_blocks(likelihood, n_features, names, X, size_factors):
    """Return the laws of all columns with their columns, or say what is wrong.

    Parameters
    ----------
    likelihood : str or list of (str, columns, str)
        As users give it.
    n_features : int
        The number of columns.
    names : ndarray of str or None
        Their names.
    X : ndarray of shape (n_samples, n_features)
        The rows; categories are counted in them.
    size_factors : str
        "total" if the rows of counts have a size.

    Returns
    -------
    blocks : Blocks
        With one law for each block.
    names : list of str
        The blocks' names.
    """
    if isinstance(likelihood, str):
        likelihood = [(likelihood, slice(None), likelihood)]
    laws, columns, block_names = [], [], []
    for entry in likelihood:
        if not isinstance(entry, list | tuple) or len(entry) != 3:
            raise ValueError(
                "likelihood must be a name or a list of (name, columns, name of a "
                f"likelihood), got the entry {entry!r}."
            )
        name, chosen, law = entry
        if law not in LIKELIHOODS:
            raise ValueError(
                f"likelihood={law!r} is not known: use one of {sorted(LIKELIHOODS)}."
            )
        places = _places(chosen, n_features, names, name)
        laws.append(_law(law, X[:, places], size_factors == "total"))
        columns.append(places)
        block_names.append(str(name))
    _expect_partition(columns, n_features)
    return Blocks(laws, columns), block_names


def _places(chosen, n_features, names, block):
    """Return the numbers of the columns that a user means."""
    if isinstance(chosen, slice):
        return list(range(n_features))[chosen]
    chosen = np.asarray(chosen)
    if chosen.dtype.kind in "US" or chosen.dtype == object:
        known = {} if names is None else {name: i for i, name in enumerate(names)}
        unknown = [name for name in chosen.ravel().tolist() if name not in known]
        if unknown:
            raise ValueError(
                f"The block {block!r} of likelihood names the column {unknown[0]!r}, "
                "which X does not have."
            )
        return [known[name] for name in chosen.ravel()]
    if chosen.dtype == bool:
        if chosen.shape != (n_features,):
            raise ValueError(
                f"The mask of the block {block!r} of likelihood has the shape "
                f"{chosen.shape} for {n_features} features."
            )
        return np.flatnonzero(chosen).tolist()
    try:
        return np.arange(n_features)[chosen.ravel()].tolist()
    except IndexError as error:
        raise ValueError(
            f"The columns {chosen!r} of the block {block!r} of likelihood are not "
            f"among the {n_features} features."
        ) from error


def _expect_partition(columns, n_features):
    count = np.bincount(
        [place for block in columns for place in block], minlength=n_features
    )
    if (count != 1).any() or not all(columns):
        wrong = np.flatnonzero(count != 1)
        which = f"feature {wrong[0]} is in {count[wrong[0]]}" if len(wrong) else "empty"
        raise ValueError(
            "likelihood must put every feature into one block, and something into "
            f"every block: {which}."
        )


def _law(name, values, sized):
    law = LIKELIHOODS[name]
    if name == "categorical":
        if not np.isfinite(values).any(axis=0).all() or np.nanmin(values) < 0:
            return law([1] * values.shape[1])
        return law((np.nanmax(values, axis=0) + 1).astype(int).tolist())
    if law.counts:
        return law(values.shape[1], sized)
    return law(values.shape[1])


def default_scale(n_components, n_latent):
    """Return the standard deviation of components that fill a ball together.

    In L dimensions K balls of the radius s have the volume of one of radius 1 if
    ``K s^L = 1``.
    """
    return n_components ** (-1.0 / n_latent)


def resolved_priors(estimator, n_components, n_latent, n_samples, member=None):
    """Return the priors on a mixture over codes; "auto" is spelled out.

    ``member`` has the class of each component, if there are classes.

    Codes begin with the variance 1 in each direction. A uniform ball of radius
    ``sqrt(L + 2)`` has it, too.
    """
    weights, means = estimator.weights_prior, estimator.means_prior
    scales = estimator.scales_prior
    if isinstance(weights, str):
        weights = Dirichlet(2.0)
    if isinstance(means, str):
        means = Softball(math.sqrt(n_latent + 2.0))
    if estimator.covariance_type == "fixed":
        if not (scales is None or isinstance(scales, str)):
            raise ValueError(
                "scales_prior must be 'auto' or None with covariance_type='fixed', "
                "whose scales are not learned."
            )
        scales = None
    elif isinstance(scales, str):
        scales = LogNormalScale(
            default_scale(n_components, n_latent),
            2.0 * math.sqrt(n_components / n_samples),
        )
    classes = None
    if member is not None:
        member = to_tensor(member, dtype=torch.int64)
        classes = em.Classes(member, int(member.max()) + 1)
    return em.Priors(weights, means, scales, 0.0, classes)


def principal_axes(features, rng):
    """Return mean, principal axes and features without missing values.

    Missing values are filled in rounds by what the components say of them.

    Parameters
    ----------
    features : Tensor of shape (n_samples, n_inputs)
        NaN is missing.
    rng : RandomState
        The source of chance of the decomposition.
    """
    features = to_numpy(features)
    missing = np.isnan(features)
    seen = np.maximum((~missing).sum(axis=0), 1)
    center = np.where(missing, 0.0, features).sum(axis=0) / seen
    filled = np.where(missing, center, features)
    n_axes = min(_MOST_AXES, *features.shape)
    for _ in range(_FILLING_ROUNDS if missing.any() else 1):
        mean = filled.mean(axis=0)
        u, s, axes = randomized_svd(
            filled - mean, n_axes, power_iteration_normalizer="QR", random_state=rng
        )
        u, axes = svd_flip(u, axes, u_based_decision=False)
        few = max(1, n_axes // 5)
        guess = mean + (u[:, :few] * s[:few]) @ axes[:few]
        filled = np.where(missing, guess, filled)
    return mean, axes, filled


def first_codes(init, n_latent, filled, mean, axes, rng):
    """Return the codes with which the fit begins, ``(n_samples, n_latent)``."""
    n_samples = len(filled)
    if isinstance(init, str) and init == "random":
        return rng.standard_normal((n_samples, n_latent))
    if isinstance(init, str) and init == "zero":
        return np.zeros((n_samples, n_latent))
    if isinstance(init, Real):
        return np.full((n_samples, n_latent), float(init))
    if not isinstance(init, str):
        codes = check_array(init, dtype=np.float64, input_name="init", copy=True)
        if codes.shape != (n_samples, n_latent):
            raise ValueError(
                f"init has the shape {codes.shape}; expected {(n_samples, n_latent)}, "
                "a code for every row."
            )
        return codes
    scores = (filled - mean) @ axes[:n_latent].T
    spread = scores.std(axis=0)
    codes = _NOISE * rng.standard_normal((n_samples, n_latent))
    kept = np.flatnonzero(spread > 1e-9 * max(spread.max(initial=0.0), 1e-300))
    codes[:, kept] = scores[:, kept] / spread[kept]
    return codes


def first_mixture(codes, start, n_components, kind, scale, priors, rng, labels=None):
    """Return the mixture with which the fit begins, from k-means on the codes.

    Parameters
    ----------
    codes : ndarray of shape (n_samples, n_features)
        The codes' features that it is over.
    start : int
        The first of them.
    n_components : int
        The number of components.
    kind : str
        The type of covariances.
    scale : float
        The standard deviation of components that is fixed.
    priors : em.Priors
        On the parameters.
    rng : RandomState
        The source of chance.
    labels : ndarray of shape (n_samples,), optional
        Classes; those of the components are in the priors.
    """
    n_samples, n_features = codes.shape
    shares = np.zeros((n_components, n_samples))
    if labels is None:
        _share_out(shares, codes, np.arange(n_samples), np.arange(n_components), rng)
    else:
        for place, components in enumerate(priors.classes.each()):
            rows = np.flatnonzero(labels == place)
            _share_out(shares, codes, rows, to_numpy(components), rng)
    rows = em.Rows(to_tensor(codes.T))
    matrices = kind in ("full", "tied")
    moments = em.moments_of(rows, to_tensor(shares), matrices=matrices)
    fixed = to_tensor(np.full(n_components, scale**2))
    known = priors if kind == "fixed" or priors.scales else _with_floor(priors)
    parameters, _ = em.start_step(kind, moments, known, fixed)
    return LatentBlock(start, start + n_features, parameters, known)


def component_classes(n_classes, n_components):
    """Return the class of each component, class by class, of about as many each."""
    n_each, n_more = divmod(max(n_components, n_classes), n_classes)
    return np.repeat(np.arange(n_classes), n_each + (np.arange(n_classes) < n_more))


def _with_floor(priors):
    """Return flat priors on scales with something that keeps them positive."""
    return replace(priors, reg_covar=1e-6)


def _share_out(shares, codes, rows, components, rng):
    """Give each of the rows to one of the components, by k-means where they differ."""
    n_groups = min(len(components), len(np.unique(codes[rows], axis=0)))
    if n_groups > 1:
        model = KMeans(n_groups, n_init=5, random_state=rng).fit(codes[rows])
        groups = model.labels_
    else:
        groups = np.zeros(len(rows), dtype=int)
    shares[components[groups], rows] = 1.0
    for component in components[n_groups:]:
        # Fewer different codes than components: chance sets these apart.
        shares[component, rng.choice(rows)] = 1e-6
