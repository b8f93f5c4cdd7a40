"""Components that belong to classes."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Classes"]


@dataclass(frozen=True)
class Classes:
    """Which class each component belongs to, and what is known of the classes.

    Attributes
    ----------
    member : Tensor of shape (n_components,)
        The class of each component, as a number below ``n_classes``.
    n_classes : int
        The number of classes; each has a component.
    shares : Tensor of shape (n_classes,) or None
        The weights of the classes if they are given; None lets them be learned.
    """

    member: Tensor
    n_classes: int
    shares: Tensor | None = None

    @property
    def belongs(self) -> Tensor:
        """Whether a class has a component, ``(n_classes, n_components)``."""
        classes = torch.arange(self.n_classes, device=self.member.device)
        return self.member == classes.unsqueeze(-1)

    def table(self) -> Tensor:
        """Return which components a label allows, as ``em.e_step`` wants it.

        Returns
        -------
        table : Tensor of shape (n_classes + 1, n_components)
            0 where a component is allowed, otherwise -inf; the last line, of rows
            without label, allows all.
        """
        everything = torch.ones_like(self.member, dtype=torch.bool)
        allowed = torch.cat([self.belongs, everything.unsqueeze(0)])
        table = torch.zeros(
            allowed.shape, dtype=torch.float64, device=self.member.device
        )
        return table.masked_fill(~allowed, -torch.inf)

    def each(self) -> list[Tensor]:
        """Return the numbers of the components of each class."""
        return [(self.member == c).nonzero().view(-1) for c in range(self.n_classes)]

    def log_sums(self, values: Tensor) -> Tensor:
        """Add up what components have, in logarithms.

        Parameters
        ----------
        values : Tensor of shape (n_components, ...)
            Logarithms.

        Returns
        -------
        sums : Tensor of shape (n_classes, ...)
            Those of the classes.
        """
        return torch.stack([torch.logsumexp(values[k], 0) for k in self.each()])

    def log_weights(self, mass: Tensor) -> Tensor:
        """Return normalised weights: within classes if these have given shares.

        Parameters
        ----------
        mass : Tensor of shape (n_runs, n_components)
            What weights are proportional to.

        Returns
        -------
        log_weights : Tensor of shape (n_runs, n_components)
            Their logarithms.
        """
        if self.shares is None:
            return mass.log() - mass.sum(-1, keepdim=True).log()
        total = mass @ self.belongs.to(mass).T / self.shares
        return mass.log() - total.log()[:, self.member]
