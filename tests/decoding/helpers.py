"""Small decoders with random parameters, and rows for them."""

import torch

from skmdn import em
from skmdn.decoding.laws import (
    Bernoulli,
    Categorical,
    Gaussian,
    NegativeBinomial,
    Poisson,
    SphericalGaussian,
)
from skmdn.decoding.network import DecoderNetwork
from skmdn.decoding.objective import Joint
from skmdn.decoding.prior import CodePrior, LatentBlock
from skmdn.decoding.table import Blocks

LAWS = {
    "bernoulli": lambda: Bernoulli(3),
    "categorical": lambda: Categorical([3, 2, 3]),
    "gaussian": lambda: Gaussian(3),
    "negative_binomial": lambda: NegativeBinomial(3),
    "poisson": lambda: Poisson(3),
    "spherical_gaussian": lambda: SphericalGaussian(3),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    values = torch.empty(shape, dtype=torch.float64)
    return values.normal_(generator=generator(seed))


def values_of(name, n_rows=5, seed=0):
    """Return values that a law allows."""
    noise = normal(n_rows, 3, seed=seed)
    if "gaussian" in name:
        return 2.0 + 3.0 * noise
    if name == "bernoulli":
        return (noise > 0).double()
    if name == "categorical":
        levels = torch.tensor([3.0, 2.0, 3.0], dtype=torch.float64)
        return (noise.abs() * 2.0).floor().minimum(levels - 1.0)
    return (3.0 * noise.abs()).floor()


def law_of(name):
    """Return a law that has seen rows, with a parameter that is not where it began."""
    law = LAWS[name]()
    law.start(torch.cat([values_of(name, 50), values_of(name, 5)]))
    for parameter in law.parameters():
        parameter.data.copy_(0.3 * normal(*parameter.shape, seed=7))
    return law


def mixture(kind="full", n_components=3, n_features=2, seed=0):
    """Return parameters of one mixture."""
    means = normal(1, n_components, n_features, seed=seed)
    root = normal(n_components, n_features, n_features, seed=seed + 1)
    matrices = root @ root.mT + 0.5 * torch.eye(n_features, dtype=torch.float64)
    variances = matrices.diagonal(dim1=-2, dim2=-1)
    covariances = {
        "full": matrices,
        "tied": matrices[0],
        "diag": variances,
        "spherical": variances[:, 0],
    }[kind]
    log_weights = torch.log_softmax(normal(1, n_components, seed=seed + 2), 1)
    parameters, sound = em.Parameters.from_covariances(
        kind, log_weights, means, covariances.unsqueeze(0)
    )
    assert bool(sound)
    return parameters


def latent_block(kind="full", start=0, classes=None, seed=0, n_components=3):
    parameters = mixture(kind, seed=seed, n_components=n_components)
    return LatentBlock(start, start + 2, parameters, em.Priors(classes=classes))


def joint_of(names=("gaussian",), kind="full", activation="silu", sizes=(5, 4)):
    """Return a model with blocks of three columns, and a table of rows."""
    laws = [law_of(name) for name in names]
    columns = [list(range(3 * i, 3 * i + 3)) for i in range(len(names))]
    blocks = Blocks(laws, columns)
    network = DecoderNetwork(
        2, sizes, sum(blocks.sizes), activation, generator=generator(3)
    )
    rows = torch.cat([values_of(name, seed=4) for name in names], 1)
    return Joint(network, blocks, CodePrior([latent_block(kind)])), blocks.table(rows)
