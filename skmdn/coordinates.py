r"""Coordinates in which a prior is about standard normal.

.. math:: \theta = g(t), \qquad t = b + R u, \qquad u \sim \mathcal{N}(0, I)

with a link g for every parameter: the identity on the line, an exponential on a
half-line and the normal distribution function on an interval. A uniform law on a box,
a normal law with any covariance and a log-normal law are standard normal in u exactly.
A parameter about which nothing is learned is then a single normal component.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Coordinates"]

_SQRT_2 = math.sqrt(2.0)
_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


@dataclass(frozen=True)
class Coordinates:
    """A map from R^d onto the support of a prior, one to one.

    Parameters
    ----------
    low, high : Tensor of shape (n_features,)
        The ends of the support, which may be infinite.
    shift : Tensor of shape (n_features,)
        Where the links are at u = 0.
    root : Tensor of shape (n_features, n_features)
        Lower triangular with a positive diagonal.

    Examples
    --------
    >>> import torch
    >>> from skmdn.coordinates import Coordinates
    >>> box = Coordinates.standard(torch.tensor([0.0]), torch.tensor([4.0]))
    >>> box.forward(torch.zeros(1, 1))
    tensor([[2.]])
    """

    low: Tensor
    high: Tensor
    shift: Tensor
    root: Tensor

    @classmethod
    def standard(
        cls, low: Tensor, high: Tensor, spread: Tensor | None = None
    ) -> "Coordinates":
        """Return coordinates whose shift is 0, of this spread or 1 before the links."""
        spread = torch.ones_like(low) if spread is None else spread
        return cls(low, high, torch.zeros_like(low), torch.diag(spread))

    @classmethod
    def from_quantiles(
        cls, low: Tensor, high: Tensor, quantiles: Tensor
    ) -> "Coordinates":
        r"""Match the median and the levels of plus and minus one standard deviation.

        Parameters
        ----------
        low, high : Tensor of shape (n_features,)
            The ends of the support.
        quantiles : Tensor of shape (3, n_features)
            Those of the prior at the levels :math:`\Phi(-1), \Phi(0), \Phi(1)`.
        """
        links = cls.standard(low, high)
        below, middle, above = links.inverse(quantiles)
        return cls(low, high, middle, torch.diag(0.5 * (above - below)))

    @property
    def n_features(self) -> int:
        """The number of parameters."""
        return len(self.shift)

    def equals(self, other: "Coordinates") -> bool:
        """Tell whether both are the same map."""
        names = ("low", "high", "shift", "root")
        pairs = [(getattr(self, name), getattr(other, name)) for name in names]
        return all(torch.equal(first, second) for first, second in pairs)

    @property
    def _boxes(self) -> Tensor:
        return self.low.isfinite() & self.high.isfinite()

    @property
    def _above(self) -> Tensor:
        return self.low.isfinite() & ~self.high.isfinite()

    @property
    def _below(self) -> Tensor:
        return ~self.low.isfinite() & self.high.isfinite()

    @property
    def bounded(self) -> Tensor:
        """Which parameters have a link other than the identity."""
        return self.low.isfinite() | self.high.isfinite()

    def forward(self, u: Tensor) -> Tensor:
        """Return the parameters at coordinates ``(..., n_features)``."""
        return self.link(self.linear(u))

    def linear(self, u: Tensor) -> Tensor:
        """Return t, what the links are applied to."""
        return self.shift + u @ self.root.mT

    def link(self, t: Tensor) -> Tensor:
        """Apply the links."""
        if not bool(self.bounded.any()):
            return t
        theta = t.clone()
        for where, function in (
            (self._boxes, self._from_box),
            (self._above, lambda t, low, high: low + t.exp()),
            (self._below, lambda t, low, high: high - (-t).exp()),
        ):
            if bool(where.any()):
                ends = self.low[where], self.high[where]
                theta[..., where] = function(t[..., where], *ends)
        return torch.where(t.isfinite(), theta.clamp(*self._innermost()), theta)

    def _innermost(self) -> tuple[Tensor, Tensor]:
        """Return the first and the last numbers inside."""
        return self.low.nextafter(self.high), self.high.nextafter(self.low)

    @staticmethod
    def _from_box(t: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Measure from the nearer end, so that no digits are lost beside it."""
        nearer = (high - low) * 0.5 * torch.special.erfc(t.abs() / _SQRT_2)
        return torch.where(t < 0, low + nearer, high - nearer)

    def inverse(self, theta: Tensor) -> Tensor:
        """Return the coordinates; NaN outside of the support."""
        t = theta.clone()
        boxes, above, below = self._boxes, self._above, self._below
        if bool(boxes.any()):
            low, high = self.low[boxes], self.high[boxes]
            part = theta[..., boxes]
            left = torch.special.ndtri((part - low) / (high - low))
            right = -torch.special.ndtri((high - part) / (high - low))
            t[..., boxes] = torch.where(part - low < high - part, left, right)
        t[..., above] = (theta[..., above] - self.low[above]).log()
        t[..., below] = -(self.high[below] - theta[..., below]).log()
        column = (t - self.shift).unsqueeze(-1)
        return torch.linalg.solve_triangular(self.root, column, upper=False).squeeze(-1)

    def log_jacobian(self, u: Tensor) -> Tensor:
        r"""Return :math:`\log |\partial \theta / \partial u|`, shape ``(...)``."""
        log_det = self.root.diagonal().log().sum()
        if not bool(self.bounded.any()):
            return log_det.expand(u.shape[:-1])
        t = self.linear(u)
        boxes, above, below = self._boxes, self._above, self._below
        widths = (self.high[boxes] - self.low[boxes]).log() - _LOG_SQRT_2PI
        of_boxes = (widths - 0.5 * t[..., boxes].square()).sum(-1)
        return log_det + of_boxes + t[..., above].sum(-1) - t[..., below].sum(-1)

    def contains(self, theta: Tensor) -> Tensor:
        """Tell for each point whether it lies inside of the support."""
        inside = (theta > self.low) & (theta < self.high) & theta.isfinite()
        return inside.all(-1)

    def map(self, function) -> "Coordinates":  # type: ignore[no-untyped-def]
        """Apply a function (a cast, a copy) to every tensor."""
        return Coordinates(*map(function, (self.low, self.high, self.shift, self.root)))
