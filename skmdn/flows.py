r"""Densities of real vectors that a network bends out of simpler ones.

.. math:: q(u \mid c) = \frac{q_0(t \mid c)}{|\det S|}, \qquad u = m + S t

with a distribution :math:`q_0` that a torch module makes, of a context c or of nothing,
as the flows of zuko do. Shift and root put it where some draws are.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ._extras import import_extra

__all__ = ["FLOWS", "REACH", "Flow", "lent", "make_flow"]

FLOWS = ("maf", "nsf", "naf", "unaf", "nice", "sospf", "gf")
# What the random numbers of a gaussianisation are multiplied by: its components and
# rotations begin alike, and must not stay alike.
_JITTER = 0.05
# Networks of one variable, which are asked at every step of a search for an inverse.
_MONOTONIC = {"signal": 8, "network": {"hidden_features": [24, 24]}}
# How far their inverses are looked for.
_FARTHEST = 100.0
# Draws lie within as many units of t: most flows are flexible up to 5 only, and some
# can be inverted up to 10 only.
REACH = 4.0


@contextmanager
def lent(generator: torch.Generator) -> Iterator[None]:
    """Put a generator in the place of torch's global one, and back again.

    Modules and distributions of torch draw from the global one and from no other.
    """
    with torch.random.fork_rng(devices=[]):
        torch.random.set_rng_state(generator.get_state())
        yield
        generator.set_state(torch.random.get_rng_state())


class Flow(nn.Module):
    """A density of vectors, made by a module and moved to where it is needed.

    Parameters
    ----------
    module : Module
        Called with a context, or with nothing, it returns a distribution of torch over
        vectors, with ``log_prob`` and ``rsample``; ``rsample_and_log_prob`` is used
        where there is one.
    shift : Tensor of shape (n_features,)
        Where t = 0 is.
    root : Tensor of shape (n_features, n_features)
        Lower triangular with a positive diagonal.
    """

    shift: Tensor
    root: Tensor

    def __init__(self, module: nn.Module, shift: Tensor, root: Tensor) -> None:
        super().__init__()
        self.module = module
        self.register_buffer("shift", shift)
        self.register_buffer("root", root)

    @staticmethod
    def frame(draws: Tensor) -> tuple[Tensor, Tensor]:
        """Return shift and root that put draws into the reach of a flow.

        Parameters
        ----------
        draws : Tensor of shape (n_draws, n_features)
            More of them than features.
        """
        shift = draws.mean(0)
        root = torch.linalg.cholesky(torch.cov(draws.mT).reshape(2 * shift.shape))
        t = torch.linalg.solve_triangular(root, (draws - shift).mT, upper=False)
        return shift, root * max(1.0, float(t.abs().max()) / REACH)

    @property
    def n_features(self) -> int:
        """The dimension."""
        return len(self.shift)

    def forward(self, u: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the log density of points ``(..., n_features)``."""
        column = (u - self.shift).unsqueeze(-1)
        t = torch.linalg.solve_triangular(self.root, column, upper=False).squeeze(-1)
        return self._distribution(context).log_prob(t) - self._log_determinant()

    log_prob = forward

    def held_log_prob(self, u: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the same, as a function of the points only."""
        held = {name: value.detach() for name, value in self.named_parameters()}
        result: Tensor = torch.func.functional_call(self, held, (u, context))
        return result

    def rsample_and_log_prob(
        self,
        n_draws: int,
        generator: torch.Generator,
        context: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return draws through which gradients flow, and their log densities.

        Parameters
        ----------
        n_draws : int
            How many, for each row of the context.
        generator : torch.Generator
            For the draws.
        context : Tensor of shape (n_rows, n_context), optional
            Rows.

        Returns
        -------
        u : Tensor of shape (n_draws, [n_rows,] n_features)
            The draws.
        log_prob : Tensor of shape (n_draws, [n_rows])
            Their log densities.
        """
        distribution = self._distribution(context)
        with lent(generator):
            if hasattr(distribution, "rsample_and_log_prob"):
                t, log_prob = distribution.rsample_and_log_prob((n_draws,))
            else:
                t = distribution.rsample((n_draws,))
                log_prob = distribution.log_prob(t)
        return self.shift + t @ self.root.mT, log_prob - self._log_determinant()

    def draw(
        self,
        n_draws: int,
        generator: torch.Generator,
        context: Tensor | None = None,
    ) -> Tensor:
        """Return draws."""
        with torch.no_grad(), lent(generator):
            t = self._distribution(context).sample((n_draws,))
            return self.shift + t @ self.root.mT

    def _distribution(self, context: Tensor | None) -> Any:
        return self.module() if context is None else self.module(context)

    def _log_determinant(self) -> Tensor:
        return self.root.diagonal().log().sum()


def make_flow(
    name: str,
    n_features: int,
    n_context: int = 0,
    *,
    n_transforms: int,
    hidden_layer_sizes: Sequence[int],
    activation: type[nn.Module] = nn.ReLU,
    generator: torch.Generator,
) -> Any:
    """Make a flow of zuko whose transforms are about the identity.

    Those of maf, nsf, nice and unaf are so exactly.

    Parameters
    ----------
    name : {"maf", "nsf", "naf", "unaf", "nice", "sospf", "gf"}
        Its family.
    n_features, n_context : int
        The dimension of the vectors, and that of what they are conditioned on.
    n_transforms : int
        How many transforms follow each other.
    hidden_layer_sizes : sequence of int
        Widths of the layers of each transform's network.
    activation : type, default=ReLU
        The module between these layers.
    generator : torch.Generator
        For the weights.

    Returns
    -------
    flow : zuko.flows.Flow
        Over a standard normal law, in double precision.

    Raises
    ------
    ImportError
        If zuko is not installed.
    """
    zuko = _zuko(f"The flow {name!r}")
    options: dict[str, Any] = {"transforms": n_transforms}
    # Without a context and without other features there is nothing for a network.
    if n_context or (name != "gf" and n_features > 1):
        options["hidden_features"] = list(hidden_layer_sizes)
        options["activation"] = activation
    if name in ("naf", "unaf"):
        options.update(_MONOTONIC)
    with lent(generator):
        flow = getattr(zuko.flows, name.upper())(n_features, n_context, **options)
    flow = flow.double()
    with torch.no_grad():
        for module in flow.modules():
            _calm(module, _JITTER if name == "gf" else 0.0)
    if name in ("naf", "unaf"):
        _unclip(flow, residual=name == "naf")
    return flow


def _zuko(user: str) -> ModuleType:
    """Import zuko, which switches off the checks of torch's distributions for all."""
    checked = Distribution._validate_args
    try:
        return import_extra("zuko", "flows", user)
    finally:
        Distribution._validate_args = checked


class _Unbounded(nn.Module):
    """A monotonic network of zuko that reaches every number.

    Parameters
    ----------
    network : Module
        Makes a transform of one variable out of a signal.
    residual : bool
        Whether the identity is added: the network alone may be bounded.
    """

    def __init__(self, network: nn.Module, residual: bool) -> None:
        super().__init__()
        self.network = network
        self.residual = residual

    def forward(self, *signal: Tensor) -> Any:
        transform = self.network(*signal)
        searched = getattr(transform, "transforms", [transform])[0]
        searched.bound = _FARTHEST
        if self.residual:
            rest = searched.f
            searched.f = lambda x: x + rest(x)
        return transform


def _unclip(flow: Any, residual: bool) -> None:
    """Take away the maps onto an interval between transforms.

    Between them the range of the next transform has ends, and mass beyond is lost.
    """
    kept = [t for t in flow.transform.transforms if hasattr(t, "univariate")]
    for transform in kept:
        transform.univariate = _Unbounded(transform.univariate, residual)
    flow.transform.transforms = nn.ModuleList(kept)


def _calm(module: nn.Module, jitter: float) -> None:
    """Bring what a module of zuko draws at random close to the identity."""
    for name, factor in (("hyper", 0.0), ("integrand", 0.0), ("network", _JITTER)):
        layers = getattr(module, name, None)
        if isinstance(layers, nn.Sequential):
            for value in layers[-1].parameters():
                value.mul_(factor)
    if isinstance(getattr(module, "phi", None), nn.ParameterList):
        for value in module.phi:  # type: ignore[union-attr]
            value.mul_(jitter)
    if isinstance(getattr(module, "A", None), nn.Parameter):
        module.A.mul_(jitter)  # type: ignore[operator]
