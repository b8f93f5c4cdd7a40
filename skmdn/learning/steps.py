"""Steps of the optimisation loop: all parameters in one matrix, gradients, AdamW.

A row of the matrix holds a member's parameters, so that the optimiser, the clipping of
a member's gradient and the copy of its best state are single operations.
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
    "agree",
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
    """Parameters and gradients of all members as two matrices.

    The module's parameters become views of ``values`` while the loop runs. In a
    member's row the bias of a layer lies before its weights, if it has as many numbers
    as a row of them: one product can give the gradients of both.
    """

    def __init__(self, named: Iterable[tuple[str, Tensor]]) -> None:
        self.named = list(named)
        first = self.named[0][1]
        n_numbers = sum(parameter[0].numel() for _, parameter in self.named)
        self.values = first.new_empty((first.shape[0], n_numbers))
        self.gradients = torch.zeros_like(self.values)
        self.decayed = first.new_zeros(n_numbers)
        for name, span in self._spans().items():
            self.decayed[span] = float(name.endswith("weight"))
        views = self._views(self.values)
        for name, parameter in self.named:
            parameter.data = views[name].copy_(parameter.detach())

    def _spans(self) -> dict[str, slice]:
        """Return where in a row the numbers of each parameter are."""
        left, ordered = dict(self.named), []
        for name, parameter in self.named:
            bias = name.removesuffix("weight") + "bias"
            if bias in left and left[bias].shape == parameter[:, :1].shape:
                ordered.append((bias, left.pop(bias)))
            if name in left:
                ordered.append((name, left.pop(name)))
        spans, end = {}, 0
        for name, parameter in ordered:
            start, end = end, end + parameter[0].numel()
            spans[name] = slice(start, end)
        return spans

    def _views(self, matrix: Tensor) -> dict[str, Tensor]:
        """Return the part of a matrix that belongs to each parameter."""
        spans = self._spans()
        return {
            name: matrix[:, spans[name]].view(parameter.shape)
            for name, parameter in self.named
        }

    def gradient_views(self) -> dict[str, Tensor]:
        """Return the part of ``gradients`` that belongs to each parameter."""
        return self._views(self.gradients)

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
        expected = torch.cat([self.flat.gradients, losses.unsqueeze(1)], 1)
        self.flat.gradients.zero_()
        found = self.by_hand(rows, True)
        self.compared = found is not None and agree(
            torch.cat([self.flat.gradients, found.unsqueeze(1)], 1), expected
        )
        self.flat.gradients.copy_(expected[:, :-1])
        if not self.compared:
            self.by_hand = None


def agree(found: Tensor, expected: Tensor) -> bool:
    """Tell whether the members' numbers in two tensors differ by rounding only."""
    allowed = torch.finfo(expected.dtype).eps ** 0.6
    found, expected = found.flatten(1), expected.flatten(1)
    size = torch.linalg.vector_norm(expected, dim=1)
    apart = torch.linalg.vector_norm(found - expected, dim=1)
    return bool((apart <= allowed * size).all())


class Optimizer:
    """AdamW on the matrix, with warm-up, cosine decay and clipping.

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
        self.norm = values.new_empty((len(values), 1))
        self.max_norm = values.new_tensor(settings.max_norm)
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
        values, gradients = self.flat.values, self.flat.gradients
        # Nearly all gradients are too long: it would not pay to look first.
        torch.linalg.vector_norm(gradients, dim=1, keepdim=True, out=self.norm)
        torch.div(self.max_norm, self.norm, out=self.norm)
        gradients.mul_(self.norm.clamp_max_(1.0))
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
        for name in ("mean", "square"):
            self.state[name][members] = 0.0
        if self.settings.averaging:
            self.state["average"][members] = self.flat.values[members]


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
