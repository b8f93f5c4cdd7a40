"""Checks of what a user says about a Gaussian mixture, and draws of its parameters."""

import numpy as np
import torch
from sklearn.utils import check_array

from skmdn import em
from skmdn.bridge import to_numpy, to_tensor
from skmdn.priors import InverseWishart, Softball

__all__ = [
    "checked_means",
    "checked_precisions",
    "checked_priors",
    "checked_weights",
    "given_parameters",
    "module_arguments",
    "module_parameters",
    "prior_draws",
]

MATRICES = ("full", "tied")


def checked_weights(weights, n_components):
    """Return weights as an array, or say what is wrong with them."""
    weights = check_array(weights, dtype=np.float64, ensure_2d=False)
    _expect_shape("weights", weights, (n_components,))
    low, high = weights.min(), weights.max()
    if low < 0.0 or high > 1.0:
        # The order is scikit-learn's, whose tests compare the sentence.
        raise ValueError(
            "The parameter 'weights' should be in the range [0, 1], but got max value "
            f"{low:.5f}, min value {high:.5f}"
        )
    if abs(weights.sum() - 1.0) > 1e-6:
        raise ValueError(
            "The parameter 'weights' should be normalized, but got sum(weights) = "
            f"{weights.sum():.5f}"
        )
    return weights / weights.sum()


def checked_means(means, n_components, n_features):
    """Return means as an array, or say what is wrong with them."""
    means = check_array(means, dtype=np.float64, ensure_2d=False)
    _expect_shape("means", means, (n_components, n_features))
    return means


def covariance_shape(kind, n_components, n_features):
    """Return the shape of the covariances of a type."""
    return {
        "full": (n_components, n_features, n_features),
        "tied": (n_features, n_features),
        "diag": (n_components, n_features),
    }.get(kind, (n_components,))


def checked_precisions(precisions, kind, n_components, n_features):
    """Return the covariances that precisions stand for, or say what is wrong."""
    precisions = _checked_spread(
        precisions, f"{kind} precision", kind, n_components, n_features
    )
    if kind in MATRICES:
        return np.linalg.inv(precisions)
    return 1.0 / precisions


def _checked_spread(values, name, kind, n_components, n_features):
    values = check_array(values, dtype=np.float64, ensure_2d=False, allow_nd=True)
    _expect_shape(name, values, covariance_shape(kind, n_components, n_features))
    if kind not in MATRICES:
        if (values <= 0.0).any():
            raise ValueError(f"'{name}' should be positive")
    else:
        symmetric = np.allclose(values, np.swapaxes(values, -1, -2))
        if not symmetric or (np.linalg.eigvalsh(values) <= 0.0).any():
            raise ValueError(f"'{name}' should be symmetric, positive-definite")
    return values


def _expect_shape(name, values, shape):
    if values.shape != shape:
        raise ValueError(
            f"The parameter '{name}' should have the shape of {shape}, but got "
            f"{values.shape}"
        )


def given_parameters(kind, weights, means, covariances):
    """Return checked parameters as one run.

    Parameters
    ----------
    kind : str
        The type of covariances.
    weights : array-like of shape (n_components,)
        Weights.
    means : ndarray of shape (n_components, n_features)
        Means.
    covariances : array-like
        Covariances.

    Returns
    -------
    parameters : em.Parameters
    """
    if kind not in em.COVARIANCE_TYPES:
        raise ValueError(
            f"covariance_type must be one of {em.COVARIANCE_TYPES}, got {kind!r}."
        )
    weights = checked_weights(weights, len(means))
    covariances = _checked_spread(covariances, "covariances", kind, *means.shape)
    parameters, _ = em.Parameters.from_covariances(
        kind,
        to_tensor(weights).log().unsqueeze(0),
        to_tensor(means).unsqueeze(0),
        to_tensor(covariances).unsqueeze(0),
    )
    return parameters


def checked_priors(estimator, offset, n_components):
    """Return an estimator's priors, relative to an offset of the data.

    Parameters
    ----------
    estimator : estimator
        With ``weights_prior``, ``means_prior``, ``scales_prior`` and what they are
        about.
    offset : ndarray of shape (n_features,)
        Where the origin is moved to.
    n_components : int
        The number of all components.

    Returns
    -------
    priors : em.Priors
        Their parameters are known to be sound.
    """
    kind, n_features = estimator.covariance_type, len(offset)
    scales = estimator.scales_prior
    if scales is not None and kind == "fixed":
        raise ValueError(
            "scales_prior must be None with covariance_type='fixed', whose scales are "
            "not learned."
        )
    if isinstance(scales, InverseWishart):
        if kind not in MATRICES:
            raise ValueError(
                "scales_prior=InverseWishart(...) needs covariance_type 'full' or "
                f"'tied', got {kind!r}; InverseGamma is its counterpart."
            )
        scales.log_prob(torch.eye(n_features, dtype=torch.float64))
    elif scales is not None:
        scales.log_prob(torch.ones(1, dtype=torch.float64))
    if estimator.weights_prior is not None:
        estimator.weights_prior.log_normalizer(n_components)
    means = estimator.means_prior
    if means is not None:
        center = to_numpy(means.center_like(to_tensor(offset))) - offset
        means = Softball(means.radius, means.sharpness, center.tolist())
        means.log_normalizer(n_features)
    return em.Priors(estimator.weights_prior, means, scales, float(estimator.reg_covar))


def module_parameters(module):
    """Return what a torch module says about a mixture, for an estimator.

    Parameters
    ----------
    module : skmdn.latent.GaussianMixture
        The module.

    Returns
    -------
    parameters : tuple of ndarray
        Its weights, means and covariances.
    params : dict
        Its type of covariances and its priors, as parameters of an estimator.
    """
    kind = module.covariance_type
    covariances = to_numpy(module.covariance)
    if kind in ("spherical", "fixed"):
        covariances = covariances[:, 0]
    elif kind == "tied":
        covariances = covariances[0]
    params = {
        "covariance_type": kind,
        "weights_prior": module.weights_prior,
        "means_prior": module.means_prior,
        "scales_prior": None if kind == "fixed" else module.scales_prior,
    }
    weights, means = to_numpy(module.mixture_probs()), to_numpy(module.mean)
    return (weights, means, covariances), params


def module_arguments(estimator):
    """Return what a fitted estimator says to ``from_params`` of a torch module.

    Parameters
    ----------
    estimator : estimator
        Fitted.

    Returns
    -------
    arguments : dict
        By name, with copies of the parameters in double precision.
    """
    return {
        "weights": to_tensor(estimator.weights_),
        "means": to_tensor(estimator.means_),
        "covariances": to_tensor(estimator.covariances_),
        "covariance_type": estimator.covariance_type,
        "mean_init": estimator.means_prior,
        "sd_init": estimator.scales_prior,
        "weight_alpha": estimator.weights_prior,
    }


def prior_draws(estimator, n_samples, n_features, generator):
    """Draw parameters of mixtures from an estimator's priors.

    Parameters
    ----------
    estimator : estimator
        As in :func:`checked_priors`.
    n_samples : int
        How many mixtures.
    n_features : int
        Their number of features.
    generator : torch.Generator
        The source of chance.

    Returns
    -------
    weights, means, covariances : ndarray
        With a first axis of mixtures.
    """
    kind, n_components = estimator.covariance_type, estimator.n_components
    checked_priors(estimator, np.zeros(n_features), n_components)
    for name in ("weights_prior", "means_prior", "scales_prior"):
        if getattr(estimator, name) is None and (name, kind) != (
            "scales_prior",
            "fixed",
        ):
            raise ValueError(
                f"{name} is None: nothing can be drawn from a flat prior. Give all "
                "three priors."
            )
    shape = (n_samples, n_components)
    weights = estimator.weights_prior.sample(shape, generator).exp()
    means = estimator.means_prior.sample((*shape, n_features), generator)
    spread = (n_samples, *covariance_shape(kind, n_components, n_features))
    if kind == "fixed":
        covariances = to_tensor(estimator.covariances_).expand(spread)
    elif isinstance(estimator.scales_prior, InverseWishart):
        covariances = estimator.scales_prior.sample(spread, generator)
    elif kind not in MATRICES:
        covariances = estimator.scales_prior.sample(spread, generator).square()
    else:
        scales = estimator.scales_prior.sample(spread[:-1], generator)
        noise = torch.empty_like(scales.unsqueeze(-1).expand(spread)).contiguous()
        # The axes of the principal scales have no preferred direction.
        axes, _ = torch.linalg.qr(noise.normal_(generator=generator))
        covariances = (axes * scales.square().unsqueeze(-2)) @ axes.mT
    return tuple(to_numpy(values) for values in (weights, means, covariances))
