"""A Gaussian mixture as a torch module."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from skmdn.families import MultivariateNormal, Normal
from skmdn.mixture import Mixture
from skmdn.priors import Dirichlet, InverseWishart, LogNormalScale, Prior, Softball
from skmdn.queries.blocks import Block

from .checks import checked_count, default_dtype

__all__ = ["GaussianMixture"]

_NAMES = {"diagonal": "diag", "isotropic": "spherical"}
_MATRICES = ("full", "tied")
_COVARIANCES = (*_MATRICES, "diag", "spherical", "fixed")

# Logits this far below the largest are weights of 0.
_NOTHING = -700.0


class GaussianMixture(nn.Module):
    r"""A Gaussian mixture to be trained with the network around it.

    Parameters
    ----------
    n_mix_comp : int
        The number of components K.
    dim : int
        The number of features of z.
    covariance_type : str, default="diagonal"
        "diagonal" (or "diag"), "isotropic" ("spherical"), "fixed" (isotropic and not
        learned), "full" or "tied".
    mean_init : tuple of float, Softball or None, default=(1.0, "auto")
        The prior on the means, by radius and sharpness; None is a flat one.
    sd_init : tuple of float, Prior or None, default=(0.5, 1.0)
        The prior on the standard deviations, by their median and the standard
        deviation of the log variances; with "full" and "tied" on the principal ones.
        None is flat.
    weight_alpha : float, sequence of float, Dirichlet or None, default=1
        The prior on the weights, by concentration. None is flat.
    generator : torch.Generator, optional
        The source of the first means, which are draws from their prior; torch's own by
        default.

    Attributes
    ----------
    mean : Parameter of shape (n_mix_comp, dim)
        The means.
    neglogvar : Tensor
        Minus the logarithms of the variances, ``(n_mix_comp, dim)``, or with one column
        where the variance is the same in all directions; what is left of each feature
        after those before it where features are correlated.
    weight : Parameter of shape (n_mix_comp,)
        Logits of the weights.

    Examples
    --------
    >>> import torch
    >>> from skmdn.latent import GaussianMixture
    >>> gmm = GaussianMixture(3, 2, mean_init=(2.0, 10.0))
    >>> z = torch.zeros(5, 2, requires_grad=True)
    >>> loss = gmm(z).sum() - gmm.log_prior()
    >>> loss.backward()
    >>> gmm.clustering(z).shape
    torch.Size([5])
    """

    def __init__(
        self,
        n_mix_comp: int,
        dim: int,
        covariance_type: str = "diagonal",
        mean_init: Any = (1.0, "auto"),
        sd_init: Any = (0.5, 1.0),
        weight_alpha: Any = 1,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_mix_comp, self.dim = (
            checked_count(n_mix_comp, "n_mix_comp"),
            checked_count(dim, "dim"),
        )
        self.covariance_type = _NAMES.get(covariance_type, covariance_type)
        if self.covariance_type not in _COVARIANCES:
            raise ValueError(
                f"covariance_type={covariance_type!r} is not known: use 'diagonal', "
                "'isotropic', 'fixed', 'full' or 'tied'."
            )
        self.means_prior = _prior(mean_init, Softball)
        self.scales_prior = _prior(sd_init, LogNormalScale)
        self.weights_prior = _prior(weight_alpha, Dirichlet)
        self._make_parameters(generator)

    def _make_parameters(self, generator: torch.Generator | None) -> None:
        """Draw the means from their prior; put the scales at its median."""
        shape = (self.n_mix_comp, self.dim)
        prior = self.means_prior or Softball()
        self.mean = nn.Parameter(prior.sample(shape, generator).to(default_dtype()))
        self.weight = nn.Parameter(torch.zeros(self.n_mix_comp))
        median = getattr(self.scales_prior, "sd_mean", 1.0)
        n_sets = 1 if self.covariance_type == "tied" else self.n_mix_comp
        isotropic = self.covariance_type in ("spherical", "fixed")
        neglogvar = torch.full(
            (n_sets, 1 if isotropic else self.dim), -2.0 * math.log(median)
        )
        if self.covariance_type == "fixed":
            self.register_buffer("neglogvar", neglogvar)
        else:
            self.neglogvar = nn.Parameter(neglogvar)
        if self.covariance_type in _MATRICES:
            n_lower = self.dim * (self.dim - 1) // 2
            self.lower = nn.Parameter(torch.zeros(n_sets, n_lower))

    @classmethod
    @torch.no_grad()
    def from_params(
        cls,
        weights: Tensor,
        means: Tensor,
        covariances: Tensor,
        covariance_type: str = "full",
        **priors: Any,
    ) -> "GaussianMixture":
        """Make a module with given parameters, which are copied.

        Parameters
        ----------
        weights : Tensor of shape (n_mix_comp,)
            Weights.
        means : Tensor of shape (n_mix_comp, dim)
            Means.
        covariances : Tensor
            ``(n_mix_comp, dim, dim)`` if "full", ``(dim, dim)`` if "tied",
            ``(n_mix_comp, dim)`` if "diagonal", otherwise ``(n_mix_comp,)``.
        covariance_type : str, default="full"
            As in the class.
        **priors : dict
            The arguments ``mean_init``, ``sd_init`` and ``weight_alpha``.

        Returns
        -------
        module : GaussianMixture
            In the precision of the means.
        """
        make: Any = cls
        # One number for all components, or classes and components of each.
        sizes = (*weights.shape, means.shape[-1])
        chance = torch.Generator()
        module = make(*sizes, covariance_type, generator=chance, **priors)
        module.to(means.dtype)
        module.mean.copy_(means)
        module.weight.copy_(weights.log().flatten().clamp_min(_NOTHING))
        if module.covariance_type in _MATRICES:
            root = torch.linalg.cholesky(covariances)
            scale = root.diagonal(dim1=-2, dim2=-1)
            row, column = torch.tril_indices(module.dim, module.dim, -1)
            rescaled = scale.unsqueeze(-1) * torch.linalg.inv(root)
            module.lower.copy_(-rescaled[..., row, column])
            module.neglogvar.copy_(-2.0 * scale.log())
        else:
            module.neglogvar.copy_(-covariances.log().view(module.neglogvar.shape))
        return module

    def mixture(self) -> Mixture:
        """Return the mixture itself, with all its queries.

        Returns
        -------
        mixture : Mixture
            Its tensors have gradients with respect to the parameters.
        """
        scale = (-0.5 * self.neglogvar).exp()
        family: Any
        if self.covariance_type in _MATRICES:
            family = MultivariateNormal(self.covariance_type)
            params = family.assembled(self.mean, scale, self.lower)
        else:
            family = Normal("diag" if scale.shape[-1] == self.dim else "spherical")
            params = {"mean": self.mean, "scale": scale}
        block = Block(family, params, self.n_mix_comp)
        return Mixture.from_logits(self.weight, [block])

    # Densities.

    def forward(self, x: Tensor) -> Tensor:
        """Return the negative log density of every row, without the priors.

        Parameters
        ----------
        x : Tensor of shape (n_samples, dim)
            Points.

        Returns
        -------
        loss : Tensor of shape (n_samples,)
            In nats.
        """
        return -self.log_prob(x)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log density of every row.

        Parameters
        ----------
        x : Tensor of shape (n_samples, dim)
            Points.

        Returns
        -------
        log_prob : Tensor of shape (n_samples,)
            In nats; exponentials integrate to 1.
        """
        return self.mixture().log_prob(x)

    def log_prior(self) -> Tensor:
        """Return the log density of the parameters under their priors.

        Returns
        -------
        log_prior : Tensor of shape ()
            The sum over means, scales and weights, to be counted once.
        """
        total = self.mean.new_zeros(())
        if self.means_prior is not None:
            total = total + self.means_prior.log_prob(self.mean).sum()
        if self.scales_prior is not None:
            total = total + self.scales_prior.log_prob(self._scales()).sum()
        if self.weights_prior is not None:
            log_weights = torch.log_softmax(self.weight, -1)
            total = total + self.weights_prior.log_prob(log_weights)
        return total

    def _scales(self) -> Tensor:
        """Return what the prior on scales is about."""
        if self.covariance_type not in _MATRICES:
            return (-0.5 * self.neglogvar).exp()
        covariance = self.covariance
        if self.covariance_type == "tied":
            covariance = covariance[:1]
        if isinstance(self.scales_prior, InverseWishart):
            return covariance
        return torch.linalg.eigvalsh(covariance).sqrt()

    def responsibilities(self, x: Tensor) -> Tensor:
        """Return p(component | x).

        Parameters
        ----------
        x : Tensor of shape (n_samples, dim)
            Points.

        Returns
        -------
        responsibilities : Tensor of shape (n_samples, n_mix_comp)
            Rows sum to 1, however far out the point is.
        """
        return self.mixture().responsibilities(x)

    def sample_probs(self, x: Tensor) -> Tensor:
        """Return the weighted density of every component at every row.

        Parameters
        ----------
        x : Tensor of shape (n_samples, dim)
            Points.

        Returns
        -------
        densities : Tensor of shape (n_samples, n_mix_comp)
            They underflow far out, which :meth:`responsibilities` do not.
        """
        return self.mixture().log_joint(x).exp()

    def clustering(self, x: Tensor) -> Tensor:
        """Return the likeliest component of every row.

        Parameters
        ----------
        x : Tensor of shape (n_samples, dim)
            Points.

        Returns
        -------
        component : Tensor of shape (n_samples,)
            Of 64-bit integers.
        """
        return self.mixture().log_joint(x).argmax(-1)

    # Parameters as they are used.

    def mixture_probs(self) -> Tensor:
        """Return the weights.

        Returns
        -------
        weights : Tensor of shape (n_mix_comp,)
            With sum 1.
        """
        return torch.softmax(self.weight, -1)

    @property
    def covariance(self) -> Tensor:
        """The variances ``(n_mix_comp, dim)``; matrices with "full" and "tied"."""
        mixture = self.mixture()
        if self.covariance_type in _MATRICES:
            return mixture.component_covariances()
        return mixture.component_stds().square()

    @property
    def stddev(self) -> Tensor:
        """The standard deviations ``(n_mix_comp, dim)``."""
        return self.mixture().component_stds()

    # Draws, without gradients.

    @torch.no_grad()
    def sample(self, n_sample: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw from the mixture.

        Parameters
        ----------
        n_sample : int
            The number of draws.
        generator : torch.Generator, optional
            Their source; torch's own by default.

        Returns
        -------
        draws : Tensor of shape (n_sample, dim)
            Points.
        """
        return self.mixture().sample(n_sample, generator)

    @torch.no_grad()
    def component_sample(
        self, n_sample: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw from every component.

        Parameters
        ----------
        n_sample : int
            The number of draws from each.
        generator : torch.Generator, optional
            Their source; torch's own by default.

        Returns
        -------
        draws : Tensor of shape (n_sample, n_mix_comp, dim)
            Points.
        """
        components = torch.arange(self.n_mix_comp, device=self.mean.device)
        return self._draws(components.expand(n_sample, -1), generator)

    def _draws(self, components: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw one point from each of these components."""
        (block,) = self.mixture().blocks
        draws: Tensor = block.family.draw(block.take(components), generator)
        return draws

    @torch.no_grad()
    def sample_new_points(
        self,
        resample_type: str = "mean",
        n_new_samples: int = 1,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return points at which a search for a representation can start.

        Parameters
        ----------
        resample_type : {"mean", "sample"}, default="mean"
            The means, or draws from every component.
        n_new_samples : int, default=1
            The number of draws from each.
        generator : torch.Generator, optional
            Their source; torch's own by default.

        Returns
        -------
        points : Tensor of shape (n_mix_comp, dim) or (n_new_samples * n_mix_comp, dim)
            The draws come in rounds through all components.
        """
        if resample_type == "mean":
            return self.mean.detach().clone()
        if resample_type != "sample":
            raise ValueError(
                f"resample_type={resample_type!r} is not known: use 'mean' or 'sample'."
            )
        return self.component_sample(n_new_samples, generator).flatten(0, 1)


def _prior(value: Any, kind: type[Prior]) -> Any:
    """Return a prior that is given as an object, by its numbers, or not at all."""
    if value is None or isinstance(value, Prior):
        return value
    if isinstance(value, tuple) and kind is not Dirichlet:
        return kind(*value)
    return kind(value)  # type: ignore[call-arg]
