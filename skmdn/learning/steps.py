"""Steps of the optimisation loop: all parameters in one vector, gradients, AdamW.

The optimiser and the copy of a state are single operations then.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "Differentiator",
    "FlatParameters",
    "Gradient",
    "Loss",
    "Optimizer",
    "Settings",
    "fused_adam_step",
    "plain_adam_step",
]

Loss = Callable[[Tensor], Tensor]
Gradient = Callable[[Tensor, bool], Tensor | None]


@dataclass(frozen=True)
class Settings:
    """How to optimise.

    Parameters
    ----------
    max_iter : int
        Number of epochs.
    batch_size : int
        Rows per step and member; a batch is never much smaller.
    learning_rate : float
        The largest step of AdamW.
    weight_decay : float, default=0.0
        Decoupled decay of the parameters whose name ends in "weight".
    warm_up : float, default=0.1
        Share of the steps over which the rate rises linearly from 0.
    decay : bool, default=True
        Whether the rate then falls to 0 along a cosine; otherwise it stays.
    n_iter_no_change : int, optional
        Epochs without a better held-out loss after which a member has stopped; a
        quarter of all by default, but at least 30.
    tol : float, default=0.0
        What counts as better, in nats.
    max_norm : float, default=5.0
        A member's gradient is shortened to this length.
    max_recoveries : int, default=8
        Restarts from the last good state before the loop gives up.
    averaging : float, default=0.0
        Where it is positive, what is judged and kept is a running average of the
        parameters: a step takes this share of it over at most.
    warm_up_steps : int, default=0
        Steps over which the rate rises, counted from the first step of all runs.
    least_patience : int, optional
        Where it is given, a member that was best early waits only as many epochs as
        that took, but at least so many.
    """

    max_iter: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.0
    warm_up: float = 0.1
    decay: bool = True
    n_iter_no_change: int | None = None
    tol: float = 0.0
    max_norm: float = 5.0
    max_recoveries: int = 8
    averaging: float = 0.0
    warm_up_steps: int = 0
    least_patience: int | None = None

    def patience(self) -> int:
        """Return after how many epochs without progress a member has stopped."""
        return self.n_iter_no_change or max(30, self.max_iter // 4)


class FlatParameters:
    """Parameters and gradients of all members as two vectors.

    The module's parameters become views of ``values`` while the loop runs. A vector has
    few pieces, in which the numbers of a member are a row. The weights of a layer are a
    piece, since batched products are fast where what they write is contiguous; so that
    one product gives both gradients, a bias ``(n_members, 1, n_out)`` lies before their
    rows. All that is not a matrix shares the last piece.
    """

    def __init__(self, named: Iterable[tuple[str, Tensor]]) -> None:
        self.named = list(named)
        first = self.named[0][1]
        self.n_members = first.shape[0]
        self.pieces = _pieces(self.named)
        n_numbers = sum(parameter.numel() for _, parameter in self.named)
        self.values = first.new_empty(n_numbers)
        self.gradients = torch.zeros_like(self.values)
        self.decayed = torch.zeros_like(self.values)
        views, decayed = self._views(self.values), self._views(self.decayed)
        for name, parameter in self.named:
            parameter.data = views[name].copy_(parameter.detach())
            decayed[name].fill_(float(name.endswith("weight")))

    def by_member(self, vector: Tensor) -> list[Tensor]:
        """Return a vector's pieces as matrices with a row for each member."""
        sizes = [sum(parameter.numel() for _, parameter in p) for p in self.pieces]
        return [piece.view(self.n_members, -1) for piece in vector.split(sizes)]

    def _views(self, vector: Tensor) -> dict[str, Tensor]:
        """Return the part of a vector that belongs to each parameter."""
        views = {}
        for piece, rows in zip(self.pieces, self.by_member(vector), strict=True):
            widths = [parameter[0].numel() for _, parameter in piece]
            for (name, parameter), part in zip(
                piece, rows.split(widths, 1), strict=True
            ):
                views[name] = part.view(parameter.shape)
        return {name: views[name] for name, _ in self.named}

    def gradient_views(self) -> dict[str, Tensor]:
        """Return the part of ``gradients`` that belongs to each parameter."""
        return self._views(self.gradients)

    def copy_members(self, source: Tensor, target: Tensor, members: Tensor) -> None:
        """Copy what belongs to some members from one vector to another.

        Parameters
        ----------
        source, target : Tensor
            Vectors like ``values``.
        members : Tensor of shape (n_members,)
            True for these members.
        """
        if bool(members.all()):
            target.copy_(source)
        elif bool(members.any()):
            chosen = members.unsqueeze(1)
            for new, old in zip(
                self.by_member(source), self.by_member(target), strict=True
            ):
                old.copy_(torch.where(chosen, new, old))

    def differentiate(self, losses: Tensor) -> None:
        """Fill ``gradients``: each member's loss by its own parameters."""
        wanted = [name for name, p in self.named if p.requires_grad]
        leaves = [p for _, p in self.named if p.requires_grad]
        parts = torch.autograd.grad(losses.sum(), leaves)
        views = self.gradient_views()
        for name, part in zip(wanted, parts, strict=True):
            views[name].copy_(part)

    def release(self) -> None:
        """Give the parameters memory of their own again."""
        for _, parameter in self.named:
            parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)


def _pieces(named: list[tuple[str, Tensor]]) -> list[list[tuple[str, Tensor]]]:
    """Return which parameters lie side by side."""
    left = dict(named)
    pieces = []
    for name, weight in named:
        if weight.ndim == 3 and weight.shape[1] > 1:
            piece = [(name, left.pop(name))]
            bias = name.removesuffix("weight") + "bias"
            if bias in left and left[bias].shape == weight[:, :1].shape:
                piece.insert(0, (bias, left.pop(bias)))
            pieces.append(piece)
    return [*pieces, list(left.items())] if left else pieces


class Differentiator:
    """Fills the gradients of a batch: by hand where that is equal, else by autograd.

    Parameters
    ----------
    flat : FlatParameters
        Where the gradients go.
    loss : callable
        What autograd differentiates.
    by_hand : callable, optional
        Takes the gradient's views by name and returns a function of the same rows
        that fills them; compared with autograd on the first batch.
    """

    def __init__(
        self,
        flat: FlatParameters,
        loss: Loss,
        by_hand: Callable[[dict[str, Tensor]], Gradient] | None,
    ) -> None:
        self.flat = flat
        self.loss = loss
        self.by_hand = by_hand(flat.gradient_views()) if by_hand else None
        self.compared = False

    def mode(self) -> AbstractContextManager[Any]:
        """Return the context of an epoch: without a graph or traces of one.

        Autograd cannot work with tensors made in inference mode, which is faster.
        """
        by_hand = self.by_hand is not None and self.compared
        return torch.inference_mode() if by_hand else torch.no_grad()

    def __call__(self, rows: Tensor, with_loss: bool) -> Tensor | None:
        """Fill the gradients; return the members' losses if they are asked for."""
        if self.by_hand is not None and self.compared:
            return self.by_hand(rows, with_loss)
        with torch.enable_grad():
            losses = self.loss(rows)
            self.flat.differentiate(losses)
        losses = losses.detach()
        if self.by_hand is not None:
            self._compare(rows, losses)
        return losses

    def _compare(self, rows: Tensor, losses: Tensor) -> None:
        """Keep the gradient by hand if it and the losses agree with autograd."""
        assert self.by_hand is not None
        gradients = self.flat.gradients
        expected = gradients.clone()
        gradients.zero_()
        found = self.by_hand(rows, True)
        self.compared = found is not None and _agree(
            [*self.flat.by_member(gradients), found.unsqueeze(1)],
            [*self.flat.by_member(expected), losses.unsqueeze(1)],
        )
        gradients.copy_(expected)
        if not self.compared:
            self.by_hand = None


def _agree(found: list[Tensor], expected: list[Tensor]) -> bool:
    """Tell whether two gradients of each member differ by no more than rounding."""
    allowed = torch.finfo(expected[0].dtype).eps ** 0.6
    apart = _norms([a - b for a, b in zip(found, expected, strict=True)])
    return bool((apart <= allowed * _norms(expected)).all())


def _norms(parts: list[Tensor]) -> Tensor:
    """Return the length of each member's vector, given in parts."""
    norms = [torch.linalg.vector_norm(part, dim=1) for part in parts]
    return torch.linalg.vector_norm(torch.stack(norms), dim=0)


class Optimizer:
    """AdamW on the vector, with warm-up, cosine decay and clipping.

    The kernel behind ``torch.optim.AdamW(fused=True)`` is called directly: making
    an object of ``torch.optim`` imports a compiler and
    changes the warning filters of the process.
    """

    def __init__(
        self,
        flat: FlatParameters,
        settings: Settings,
        n_steps: int,
        state: dict[str, Tensor] | None,
    ) -> None:
        self.flat = flat
        self.settings = settings
        self.n_steps = n_steps
        self.n_done = 0
        self.factor = 1.0
        self.owed = 0.0
        values = flat.values
        self.state = {
            "mean": torch.zeros_like(values),
            "square": torch.zeros_like(values),
            "count": torch.zeros((), dtype=torch.float32, device=values.device),
        }
        self.one = torch.ones_like(self.state["count"])
        self.gradients = flat.by_member(flat.gradients)
        self.norms = values.new_empty((len(self.gradients), flat.n_members))
        if settings.averaging:
            self.state |= {"average": values.clone(), "values": values}
        for name, value in (state or {}).items():
            self.state[name].copy_(value)
        self.n_before = int(self.state["count"])

    def rate(self) -> float:
        """Return the learning rate of the next step."""
        done = (self.n_done + 1) / self.n_steps
        peak = self.settings.learning_rate * self.factor
        if self.settings.warm_up_steps:
            n_steps = self.n_before + self.n_done + 1
            peak *= min(1.0, n_steps / self.settings.warm_up_steps)
        warm_up = self.settings.warm_up
        if done < warm_up:
            return peak * done / warm_up
        if not self.settings.decay:
            return peak
        done = (done - warm_up) / (1.0 - warm_up)
        return peak * 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))

    def step(self) -> None:
        """Clip each member's gradient and move."""
        self._clip()
        values, gradients = self.flat.values, self.flat.gradients
        rate = self.rate()
        self.owed += rate * self.settings.weight_decay
        self.state["count"].add_(self.one)
        adam_step(values, gradients, self.state, rate)
        self.n_done += 1
        if self.n_done % _DECAY_EVERY == 0:
            self.settle()
        if self.settings.averaging:
            n = self.n_before + self.n_done
            kept = min(self.settings.averaging, n / (n + 9.0))
            self.state["average"].lerp_(values, 1.0 - kept)

    def _clip(self) -> None:
        """Shorten the gradients of members that are too long."""
        for part, norm in zip(self.gradients, self.norms, strict=True):
            torch.linalg.vector_norm(part, dim=1, out=norm)
        norms = torch.linalg.vector_norm(self.norms, dim=0)
        if max(norms.tolist()) > self.settings.max_norm:
            shorten = (self.settings.max_norm / norms).clamp_max_(1.0).unsqueeze_(1)
            for part in self.gradients:
                part.mul_(shorten)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the parameters be their running average for a while."""
        if not self.settings.averaging:
            yield
            return
        own = self.flat.values.clone()
        self.flat.values.copy_(self.state["average"])
        yield
        self.flat.values.copy_(own)

    def left_state(self) -> dict[str, Tensor]:
        """Return what a later run needs to go on here."""
        state = dict(self.state)
        if self.settings.averaging:
            state["values"] = self.flat.values.clone()
        return state

    def settle(self) -> None:
        """Decay the weights as the last steps owe it: at once, to save time."""
        if self.owed:
            shrink = min(self.owed, 1.0)
            values = self.flat.values
            values.addcmul_(values, self.flat.decayed, value=-shrink)
            self.owed = 0.0

    def recover(self, members: Tensor) -> None:
        """Forget the momentum of these members and halve the step of all."""
        self.factor *= 0.5
        zeros = torch.zeros_like(self.flat.values)
        for name in ("mean", "square"):
            self.flat.copy_members(zeros, self.state[name], members)
        if self.settings.averaging:
            self.flat.copy_members(self.flat.values, self.state["average"], members)


def plain_adam_step(
    values: Tensor, gradients: Tensor, state: dict[str, Tensor], rate: float
) -> None:
    """Move ``values`` by a step of Adam [1]_ in public in-place operations.

    References
    ----------
    .. [1] D. P. Kingma and J. Ba, "Adam: a method for stochastic optimization",
       International Conference on Learning Representations, 2015, algorithm 1.
    """
    beta1, beta2 = _BETAS
    count = float(state["count"])
    state["mean"].lerp_(gradients, 1.0 - beta1)
    state["square"].mul_(beta2).addcmul_(gradients, gradients, value=1.0 - beta2)
    root = (state["square"] / (1.0 - beta2**count)).sqrt_().add_(_EPS)
    values.addcdiv_(state["mean"], root, value=-rate / (1.0 - beta1**count))


def fused_adam_step(
    values: Tensor, gradients: Tensor, state: dict[str, Tensor], rate: float
) -> None:
    """Do the same in one kernel."""
    torch._fused_adamw_(
        [values],
        [gradients],
        [state["mean"]],
        [state["square"]],
        [],
        [state["count"]],
        lr=rate,
        beta1=_BETAS[0],
        beta2=_BETAS[1],
        weight_decay=0.0,
        eps=_EPS,
        amsgrad=False,
        maximize=False,
    )


# Steps between two decays.
_DECAY_EVERY = 8

_BETAS = (0.9, 0.99)
_EPS = 1e-8

# The fused kernel has a private name, so it may go.
adam_step = fused_adam_step if hasattr(torch, "_fused_adamw_") else plain_adam_step
