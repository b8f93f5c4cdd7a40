r"""The density of codes: a Gaussian mixture for each group of their features.

.. math:: \log p(z) = \sum_b \log \sum_{k \in c_b} \pi_{bk} \,
    \mathcal{N}(z_b \mid \mu_{bk}, \Sigma_{bk})

The first group is the code that ``transform`` returns; each covariate has another one.
Where the class of a row is known, only the class's components are summed over.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from skmdn import em

__all__ = ["CodePrior", "LatentBlock", "Local"]

_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


@dataclass(frozen=True)
class Local:
    """A function of each row's code around a point, to second order.

    Attributes
    ----------
    value : Tensor of shape (n_rows,)
        The function.
    gradient : Tensor of shape (n_rows, n_latent)
        By the code.
    hessian : Tensor of shape (n_rows, n_latent, n_latent)
        Twice by the code.
    bound : Tensor of shape (n_rows, n_latent, n_latent)
        A positive definite matrix in its place, where it is not.
    """

    value: Tensor
    gradient: Tensor
    hessian: Tensor
    bound: Tensor


@dataclass(frozen=True)
class LatentBlock:
    """A mixture over some features of the code.

    Attributes
    ----------
    start, stop : int
        The features.
    parameters : em.Parameters
        One mixture.
    priors : em.Priors
        On its parameters, with the classes that components belong to, if there are any.
    """

    start: int
    stop: int
    parameters: em.Parameters
    priors: em.Priors

    @property
    def classes(self) -> em.Classes | None:
        """The classes that components belong to."""
        return self.priors.classes

    @cached_property
    def table(self) -> Tensor | None:
        """Which components a class allows; the last row is for one not known."""
        return None if self.classes is None else self.classes.table()

    def allowed(self, labels: Tensor | None) -> Tensor | None:
        """Return what is added to the components' log weights of each row."""
        if self.table is None or labels is None:
            return None
        return self.table[labels]

    def to(self, device: str) -> "LatentBlock":
        """Return the block on a device."""
        p = self.parameters
        tensors = (p.log_weights, p.means, p.covariances, p.whitening)
        moved = em.Parameters(p.covariance_type, *(part.to(device) for part in tensors))
        classes = self.classes
        if classes is not None:
            classes = replace(classes, member=classes.member.to(device))
        priors = replace(self.priors, classes=classes)
        return replace(self, parameters=moved, priors=priors)

    def widened(self) -> "LatentBlock":
        """Return one wide component that covers all of them, for classes unknown."""
        weights = self.parameters.log_weights[0].exp().unsqueeze(1)
        means = self.parameters.means[0]
        mean = (weights * means).sum(0)
        spread = (weights * (means - mean).square()).sum(0).mean()
        variance = spread + self.parameters.each_covariance().abs().amax()
        single, _ = em.Parameters.from_covariances(
            "spherical",
            torch.zeros_like(self.parameters.log_weights[:, :1]),
            mean.view(1, 1, -1),
            variance.view(1, 1),
        )
        return replace(self, parameters=single, priors=em.Priors())

    def extended(self, mean: Tensor) -> "LatentBlock":
        """Return the block with one more class of one component, at this mean.

        Its weight and covariance are the average ones of the others.
        """
        assert self.classes is not None
        old = self.parameters
        log_weights = old.log_weights[0]
        n_components = len(log_weights)
        weights = torch.cat([log_weights.exp(), log_weights.new_ones(1) / n_components])
        covariances = old.covariances
        if old.covariance_type != "tied":
            covariances = torch.cat([covariances, covariances.mean(1, keepdim=True)], 1)
        parameters, _ = em.Parameters.from_covariances(
            old.covariance_type,
            (weights / weights.sum()).log().unsqueeze(0),
            torch.cat([old.means, mean.view(1, 1, -1)], 1),
            covariances,
        )
        member, n_classes = self.classes.member, self.classes.n_classes
        longer = em.Classes(
            torch.cat([member, member.new_full((1,), n_classes)]), n_classes + 1
        )
        priors = replace(self.priors, classes=longer)
        return replace(self, parameters=parameters, priors=priors)

    def class_means(self) -> Tensor:
        """Return the mean of each class, and last that of all components."""
        assert self.table is not None
        weights = torch.softmax(self.parameters.log_weights[0] + self.table, 1)
        return weights @ self.parameters.means[0]

    def joint(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """Return the log of each component's weighted density, ``(n_rows, K)``."""
        return self._joint(self._pulls(z), labels)

    def _pulls(self, z: Tensor) -> Tensor:
        """Return whitened deviations from all means, ``(n_rows, K, n_features)``."""
        deviation = z[:, self.start : self.stop].unsqueeze(1) - self.parameters.means[0]
        whitening = self.parameters.each_whitening()[0]
        if self.parameters.matrices:
            return (whitening @ deviation.unsqueeze(-1)).squeeze(-1)
        return deviation * whitening

    def _joint(self, whitened: Tensor, labels: Tensor | None) -> Tensor:
        whitening = self.parameters.each_whitening()[0]
        if self.parameters.matrices:
            whitening = whitening.diagonal(dim1=-2, dim2=-1)
        constant = whitening.log().sum(-1) - whitening.shape[-1] * _LOG_SQRT_2PI
        logits = self.parameters.log_weights[0] + constant
        logits = logits - 0.5 * whitened.square().sum(-1)
        allowed = self.allowed(labels)
        return logits if allowed is None else logits + allowed

    def slope(self, z: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return minus the log density of codes, and its gradient."""
        whitened = self._pulls(z)
        joint = self._joint(whitened, labels)
        value = torch.logsumexp(joint, 1)
        share = (joint - value.unsqueeze(1)).exp()
        return -value, (share.unsqueeze(-1) * self._unwhitened(whitened)).sum(1)

    def _unwhitened(self, whitened: Tensor) -> Tensor:
        """Return precisions times deviations: the gradient of half their squares."""
        whitening = self.parameters.each_whitening()[0]
        if self.parameters.matrices:
            return (whitening.mT @ whitened.unsqueeze(-1)).squeeze(-1)
        return whitened * whitening

    def local(self, z: Tensor, labels: Tensor | None) -> Local:
        """Return minus the log density around codes, to second order."""
        whitened = self._pulls(z)
        joint = self._joint(whitened, labels)
        value = torch.logsumexp(joint, 1)
        share = (joint - value.unsqueeze(1)).exp()
        pull = self._unwhitened(whitened)
        whitening = self.parameters.each_whitening()[0]
        if self.parameters.matrices:
            precision = whitening.mT @ whitening
        else:
            precision = torch.diag_embed(whitening.square())
        gradient = (share.unsqueeze(-1) * pull).sum(1)
        bound = (share @ precision.flatten(1)).unflatten(1, precision.shape[1:])
        apart = (pull - gradient.unsqueeze(1)) * share.sqrt().unsqueeze(-1)
        return Local(-value, gradient, bound - apart.mT @ apart, bound)

    def stepped(self, z: Tensor, labels: Tensor | None) -> "LatentBlock":
        """Return the block after a step of EM on codes; itself if they collapse."""
        columns = z[:, self.start : self.stop].T.contiguous()
        table = None if labels is None else self.table
        if table is None:
            labels = None
        elif labels is not None:
            labels = torch.where(labels < 0, len(table) - 1, labels)
        rows = em.Rows(columns, labels=labels)
        _, statistics = em.e_step(self.parameters, rows, table)
        better, sound = em.m_step(statistics, self.parameters, self.priors)
        return replace(self, parameters=better) if bool(sound.all()) else self

    def log_prior(self) -> float:
        """Return the log density of the mixture's parameters."""
        return float(em.log_prior(self.parameters, self.priors)[0])


class CodePrior:
    """The density of whole codes: blocks that are independent.

    Parameters
    ----------
    blocks : sequence of LatentBlock
        The mixtures, over adjoining features.
    """

    def __init__(self, blocks: Sequence[LatentBlock]) -> None:
        self.blocks = list(blocks)
        self.n_latent = self.blocks[-1].stop

    def with_block(self, place: int, block: LatentBlock) -> "CodePrior":
        """Return the prior with one block replaced."""
        blocks = list(self.blocks)
        blocks[place] = block
        return CodePrior(blocks)

    def _labels(self, labels: Tensor | None) -> list[Tensor | None]:
        """Return the labels of each block, a column of ``labels`` for each."""
        if labels is None:
            return [None] * len(self.blocks)
        return list(labels.T)

    def log_prob(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the log density of codes.

        Parameters
        ----------
        z : Tensor of shape (n_rows, n_latent)
            Codes.
        labels : Tensor of shape (n_rows, n_blocks), optional
            The class of each row in each block, -1 where it is not known.
        """
        total = z.new_zeros(len(z))
        for block, known in zip(self.blocks, self._labels(labels), strict=True):
            total += torch.logsumexp(block.joint(z, known), 1)
        return total

    def slope(self, z: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return minus the log density of codes, and its gradient by them."""
        parts = [
            block.slope(z, known)
            for block, known in zip(self.blocks, self._labels(labels), strict=True)
        ]
        values, gradients = zip(*parts, strict=True)
        return torch.stack(values).sum(0), torch.cat(gradients, 1)

    def local(self, z: Tensor, labels: Tensor | None = None) -> Local:
        """Return minus the log density around codes, to second order."""
        parts = [
            block.local(z, known)
            for block, known in zip(self.blocks, self._labels(labels), strict=True)
        ]
        if len(parts) == 1:
            return parts[0]
        value = torch.stack([part.value for part in parts]).sum(0)
        hessian = z.new_zeros(len(z), self.n_latent, self.n_latent)
        bound = hessian.clone()
        for block, part in zip(self.blocks, parts, strict=True):
            own = slice(block.start, block.stop)
            hessian[:, own, own] = part.hessian
            bound[:, own, own] = part.bound
        return Local(
            value, torch.cat([part.gradient for part in parts], 1), hessian, bound
        )

    def stepped(self, z: Tensor, labels: Tensor | None = None) -> "CodePrior":
        """Return the prior after a step of EM of every block."""
        known = self._labels(labels)
        return CodePrior(
            [
                block.stepped(z, one)
                for block, one in zip(self.blocks, known, strict=True)
            ]
        )

    def log_prior(self) -> float:
        """Return the log density of all mixtures' parameters: counted once."""
        return sum(block.log_prior() for block in self.blocks)
