r"""Latent mixtures for networks of your own: torch modules with learnable parameters.

.. math:: p(z) = \sum_{k=1}^K \pi_k \, \mathcal{N}(z \mid \mu_k, \Sigma_k)

The names and the order of the arguments are those of multiDGD's latent modules, so that
one can take the place of the other; what the methods mean is said with each. A density
is a density here: the priors stand apart in :meth:`GaussianMixture.log_prior`, and a
loss counts them once, not once a row::

    loss = gmm(z).sum() - gmm.log_prior() * len(z) / n_rows
"""

from .classes import SupervisedGaussianMixture
from .mixture import GaussianMixture
from .representation import RepresentationLayer

__all__ = ["GaussianMixture", "RepresentationLayer", "SupervisedGaussianMixture"]
