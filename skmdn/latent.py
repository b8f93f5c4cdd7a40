r"""Latent mixtures for networks of your own: torch modules with learnable parameters.

.. math:: p(z) = \sum_{k=1}^K \pi_k \, \mathcal{N}(z \mid \mu_k, \Sigma_k)

The names and the order of the arguments are those of multiDGD's latent modules, so that
one can take the place of the other; what the methods mean is said with each. A density
is a density here: the priors stand apart in :meth:`GaussianMixture.log_prior`, and a
loss counts them once, not once a row::

    loss = gmm(z).sum() - gmm.log_prior() * len(z) / n_rows
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from .blocks import Block
from .families import MultivariateNormal, Normal
from .mixture import Mixture
from .priors import Dirichlet, InverseWishart, LogNormalScale, Prior, Softball

__all__ = ["GaussianMixture", "RepresentationLayer", "SupervisedGaussianMixture"]

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
        self.n_mix_comp, self.dim = _count(n_mix_comp, "n_mix_comp"), _count(dim, "dim")
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
        self.mean = nn.Parameter(prior.sample(shape, generator).to(_dtype()))
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
        chance = torch.Generator()
        module = cls(*means.shape, covariance_type, **priors, generator=chance)
        module.to(means.dtype)
        module.mean.copy_(means)
        module.weight.copy_(weights.log().clamp_min(_NOTHING))
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


class SupervisedGaussianMixture(GaussianMixture):
    r"""A Gaussian mixture whose components belong to classes.

    .. math:: p(z, c) = \sum_{k \in c} \pi_k \, \mathcal{N}(z \mid \mu_k, \Sigma_k)

    Parameters
    ----------
    Nclass : int
        The number of classes.
    Ncompperclass : int
        The number of components of each: those of class c are c * Ncompperclass and
        the ones after it.
    dim : int
        The number of features of z.
    covariance_type : str, default="isotropic"
        See :class:`GaussianMixture`, as for the other parameters.
    mean_init : tuple of float, Softball or None, default=(1.0, "auto")
        The prior on the means.
    sd_init : tuple of float, Prior or None, default=(0.5, 1.0)
        The prior on the standard deviations.
    alpha : float, sequence of float, Dirichlet or None, default=1
        The prior on the weights of all components.
    generator : torch.Generator, optional
        The source of the first means; torch's own by default.

    Notes
    -----
    Labels are integers from 0 to Nclass - 1; -1 marks rows whose class is not known.

    Examples
    --------
    >>> import torch
    >>> from skmdn.latent import SupervisedGaussianMixture
    >>> gmm = SupervisedGaussianMixture(3, 2, 4)
    >>> gmm.log_prob(torch.zeros(2, 4), torch.tensor([1, -1])).shape
    torch.Size([2])
    """

    def __init__(
        self,
        Nclass: int,
        Ncompperclass: int,
        dim: int,
        covariance_type: str = "isotropic",
        mean_init: Any = (1.0, "auto"),
        sd_init: Any = (0.5, 1.0),
        alpha: Any = 1,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        self.Nclass = _count(Nclass, "Nclass")
        self.Ncpc = _count(Ncompperclass, "Ncompperclass")
        super().__init__(
            self.Nclass * self.Ncpc,
            dim,
            covariance_type,
            mean_init,
            sd_init,
            alpha,
            generator=generator,
        )

    def forward(self, x: Tensor, label: Any = None) -> Tensor:
        """Return the negative log density of every row with its label.

        Parameters
        ----------
        x : Tensor of shape (n_samples, dim)
            Points.
        label : Tensor or sequence of int of shape (n_samples,), optional
            Classes; -1, or none at all, where they are not known.

        Returns
        -------
        loss : Tensor of shape (n_samples,)
            In nats, without the priors.
        """
        return -self.log_prob(x, label)

    def log_prob(self, x: Tensor, label: Any = None) -> Tensor:
        """Return log p(x, label), or log p(x) where the label is not known.

        Parameters
        ----------
        x : Tensor of shape (n_samples, dim)
            Points.
        label : Tensor or sequence of int of shape (n_samples,), optional
            Classes; -1, or none at all, where they are not known.

        Returns
        -------
        log_prob : Tensor of shape (n_samples,)
            In nats.
        """
        if label is None:
            return super().log_prob(x)
        joint = self.log_class_joint(x)
        label = self._labels(label, unknown=True).expand(joint.shape[:-1])
        known = joint.gather(-1, label.clamp_min(0).unsqueeze(-1)).squeeze(-1)
        return torch.where(label < 0, torch.logsumexp(joint, -1), known)

    def log_class_joint(self, x: Tensor) -> Tensor:
        """Return log p(x, class) for every class.

        Parameters
        ----------
        x : Tensor of shape (n_samples, dim)
            Points.

        Returns
        -------
        log_joint : Tensor of shape (n_samples, Nclass)
            In nats.
        """
        joint = self.mixture().log_joint(x).unflatten(-1, (self.Nclass, self.Ncpc))
        return torch.logsumexp(joint, -1)

    def label_mixture_probs(self, label: Any) -> Tensor:
        """Return the weights of the components within classes.

        Parameters
        ----------
        label : int, Tensor or sequence of int
            Classes.

        Returns
        -------
        weights : Tensor of shape (..., Ncompperclass)
            With sum 1 for every class that was asked for.
        """
        weights = torch.softmax(self.weight.view(self.Nclass, self.Ncpc), -1)
        return weights[self._labels(label)]

    @torch.no_grad()
    def supervised_sampling(
        self,
        label: Any,
        sample_type: str = "random",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw one point from the class of every label.

        Parameters
        ----------
        label : Tensor or sequence of int of shape (n_samples,)
            Classes.
        sample_type : {"random", "mean"}, default="random"
            A draw from the class, or the mean of a component drawn within it.
        generator : torch.Generator, optional
            Their source; torch's own by default.

        Returns
        -------
        points : Tensor of shape (n_samples, dim)
            One for each label.
        """
        if sample_type not in ("random", "mean"):
            raise ValueError(
                f"sample_type={sample_type!r} is not known: use 'random' or 'mean'."
            )
        label = self._labels(label).reshape(-1)
        within = torch.multinomial(
            self.label_mixture_probs(label), 1, generator=generator
        ).squeeze(-1)
        component = label * self.Ncpc + within
        if sample_type == "mean":
            return self.mean.detach()[component]
        return self._draws(component, generator)

    def _labels(self, label: Any, *, unknown: bool = False) -> Tensor:
        """Return labels as a tensor, or say which is no class."""
        label = torch.as_tensor(label, device=self.weight.device)
        if label.is_floating_point() or label.is_complex():
            raise TypeError(f"label must hold integers, got {label.dtype}.")
        label = label.long()
        wrong = (label >= self.Nclass) | (label < (-1 if unknown else 0))
        if wrong.any():
            also = ", or -1 where it is not known" if unknown else ""
            raise ValueError(
                f"label must lie between 0 and {self.Nclass - 1}{also}; got "
                f"{int(label[wrong][0])}."
            )
        return label


class RepresentationLayer(nn.Module):
    """One learnable vector per row of the data.

    Parameters
    ----------
    n_rep : int
        The number of features of a representation.
    n_sample : int
        The number of rows.
    value_init : "zero", float, Tensor or array of shape (n_sample, n_rep)
        Where the representations begin. Tensors and arrays are copied.

    Attributes
    ----------
    z : Parameter of shape (n_sample, n_rep)
        The representations.

    Examples
    --------
    >>> import torch
    >>> from skmdn.latent import RepresentationLayer
    >>> layer = RepresentationLayer(2, 10, value_init=torch.randn(10, 2))
    >>> layer(torch.tensor([3, 4])).shape
    torch.Size([2, 2])
    """

    def __init__(self, n_rep: int, n_sample: int, value_init: Any = "zero") -> None:
        super().__init__()
        self.n_rep, self.n_sample = _count(n_rep, "n_rep"), _count(n_sample, "n_sample")
        shape = (self.n_sample, self.n_rep)
        if isinstance(value_init, str):
            if value_init != "zero":
                raise ValueError(
                    f"value_init={value_init!r} is not known: use 'zero', a number or "
                    f"a tensor of shape {shape}."
                )
            value_init = 0.0
        values = torch.as_tensor(value_init).detach()
        if not values.is_floating_point():
            values = values.to(_dtype())
        if values.ndim and values.shape != shape:
            raise ValueError(
                f"value_init has shape {tuple(values.shape)}; expected {shape}."
            )
        self.z = nn.Parameter(values.expand(shape).clone())

    def forward(self, idx: Any = None) -> Tensor:
        """Return the representations of some rows.

        Parameters
        ----------
        idx : Tensor or sequence of int, optional
            Rows; all of them by default.

        Returns
        -------
        z : Tensor of shape (len(idx), n_rep)
            With gradients.
        """
        return self.z if idx is None else self.z[idx]


def _count(value: Any, name: str) -> int:
    """Return a number that has to be a positive integer."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}.")
    return value


def _prior(value: Any, kind: type[Prior]) -> Any:
    """Return a prior that is given as an object, by its numbers, or not at all."""
    if value is None or isinstance(value, Prior):
        return value
    if isinstance(value, tuple) and kind is not Dirichlet:
        return kind(*value)
    return kind(value)  # type: ignore[call-arg]


def _dtype() -> torch.dtype:
    return torch.get_default_dtype()
