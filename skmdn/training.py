"""The one optimisation loop: members side by side, each with its own early stop.

The loop knows parameters with a leading member axis and a function that returns
one loss per member; what is being fitted is not its concern. All parameters live
in one matrix ``(n_members, n_parameters)``, so that the optimiser, the clipping of
a member's gradient and the copy of its best state are single operations.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["History", "Settings", "minimise", "split_rows"]

Loss = Callable[[Tensor], Tensor]
Gradient = Callable[[Tensor, bool], Tensor | None]
OnEpoch = Callable[[int, float, float | None], bool]


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
    n_iter_no_change : int, default=10
        Epochs without a better held-out loss after which a member has stopped.
    tol : float, default=0.0
        What counts as better, in nats.
    max_norm : float, default=5.0
        A member's gradient is shortened to this length.
    max_recoveries : int, default=8
        Restarts from the last good state before the loop gives up.
    """

    max_iter: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.0
    warm_up: float = 0.1
    decay: bool = True
    n_iter_no_change: int = 10
    tol: float = 0.0
    max_norm: float = 5.0
    max_recoveries: int = 8


@dataclass
class History:
    """What happened, epoch by epoch.

    Attributes
    ----------
    loss : list of float
        Training loss, averaged over every eighth step of the epoch and the members.
    held_out : list of float
        Held-out loss, averaged over the members; empty without held-out rows.
    best : Tensor of shape (n_members,) or None
        Each member's best held-out loss.
    n_recoveries : int
        How often a state with numbers that are not finite was thrown away.
    gave_up : bool
        True if that happened too often, or left nothing to choose from.
    optimizer_state : dict of str to Tensor
        What a later call needs to go on where this one ended.
    """

    loss: list[float] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)
    best: Tensor | None = None
    n_recoveries: int = 0
    gave_up: bool = False
    optimizer_state: dict[str, Tensor] = field(default_factory=dict)


    @classmethod
    def joined(cls, histories: "Sequence[History]") -> "History":
        """Return the average of loops that ran one after the other.

        A loop that ended earlier keeps its last losses. States are not joined.
        """
        length = max(len(history.loss) for history in histories)

        def average(curves: list[list[float]]) -> list[float]:
            if not all(curves):
                return []
            padded = [curve + curve[-1:] * (length - len(curve)) for curve in curves]
            return [sum(values) / len(values) for values in zip(*padded, strict=True)]

        best = [history.best for history in histories if history.best is not None]
        return cls(
            average([history.loss for history in histories]),
            average([history.held_out for history in histories]),
            torch.cat(best) if best else None,
            sum(history.n_recoveries for history in histories),
            any(history.gave_up for history in histories),
        )


class _FlatParameters:
    """Parameters and gradients of all members as two matrices.

    The module's parameters become views of ``values`` while the loop runs.
    """

    def __init__(self, named: Iterable[tuple[str, Tensor]]) -> None:
        self.named = list(named)
        first = self.named[0][1]
        n_members = first.shape[0]
        sizes = [parameter[0].numel() for _, parameter in self.named]
        self.values = first.new_empty((n_members, sum(sizes)))
        self.gradients = torch.zeros_like(self.values)
        self.decayed = first.new_zeros(sum(sizes))
        ends = torch.tensor(sizes).cumsum(0).tolist()
        for (name, parameter), size, end in zip(self.named, sizes, ends, strict=True):
            span = slice(end - size, end)
            self.values[:, span] = parameter.detach().flatten(1)
            parameter.data = self.values[:, span].view(parameter.shape)
            self.decayed[span] = float(name.endswith("weight"))

    def gradient_views(self) -> dict[str, Tensor]:
        """Return the part of ``gradients`` that belongs to each parameter."""
        views, end = {}, 0
        for name, parameter in self.named:
            start, end = end, end + parameter[0].numel()
            views[name] = self.gradients[:, start:end].view(parameter.shape)
        return views

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


class _Differentiator:
    """Fills the gradients of a batch: by hand where that is equal, else by autograd.

    Parameters
    ----------
    flat : _FlatParameters
        Where the gradients go.
    loss : callable
        What autograd differentiates.
    by_hand : callable, optional
        Takes the gradient's views by name and returns a function of the same rows
        that fills them; compared with autograd on the first batch.
    """

    def __init__(
        self,
        flat: _FlatParameters,
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
        self.compared = found is not None and _agree(
            torch.cat([self.flat.gradients, found.unsqueeze(1)], 1), expected
        )
        self.flat.gradients.copy_(expected[:, :-1])
        if not self.compared:
            self.by_hand = None


def _agree(found: Tensor, expected: Tensor) -> bool:
    """Tell whether two gradients differ by no more than rounding."""
    allowed = torch.finfo(expected.dtype).eps ** 0.75
    size = torch.linalg.vector_norm(expected, dim=1)
    return bool(
        (torch.linalg.vector_norm(found - expected, dim=1) <= allowed * size).all()
    )


class _Optimizer:
    """AdamW on the matrix, with warm-up, cosine decay and clipping.

    The kernel behind ``torch.optim.AdamW(fused=True)`` is called directly: making
    an object of ``torch.optim`` imports a compiler and
    changes the warning filters of the process.
    """

    def __init__(
        self,
        flat: _FlatParameters,
        settings: Settings,
        n_steps: int,
        state: dict[str, Tensor] | None,
    ) -> None:
        self.flat = flat
        self.settings = settings
        self.n_steps = n_steps
        self.n_done = 0
        self.factor = 1.0
        values = flat.values
        self.state = {
            "mean": torch.zeros_like(values),
            "square": torch.zeros_like(values),
            "count": torch.zeros((), dtype=torch.float32, device=values.device),
        }
        self.one = torch.ones_like(self.state["count"])
        for name, value in (state or {}).items():
            self.state[name].copy_(value)

    def rate(self) -> float:
        """Return the learning rate of the next step."""
        done = (self.n_done + 1) / self.n_steps
        peak = self.settings.learning_rate * self.factor
        warm_up = self.settings.warm_up
        if done < warm_up:
            return peak * done / warm_up
        if not self.settings.decay:
            return peak
        done = (done - warm_up) / (1.0 - warm_up)
        return peak * 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))

    def step(self) -> None:
        """Clip each member's gradient, decay the weights and move."""
        values, gradients = self.flat.values, self.flat.gradients
        norm = torch.linalg.vector_norm(gradients, dim=1)
        if max(norm.tolist()) > self.settings.max_norm:
            shorten = (self.settings.max_norm / norm).clamp_max_(1.0)
            gradients.mul_(shorten.unsqueeze(1))
        rate = self.rate()
        if self.settings.weight_decay:
            shrink = min(rate * self.settings.weight_decay, 1.0)
            values.addcmul_(values, self.flat.decayed, value=-shrink)
        self.state["count"].add_(self.one)
        adam_step(values, gradients, self.state, rate)
        self.n_done += 1

    def recover(self, members: Tensor) -> None:
        """Forget the momentum of these members and halve the step of all."""
        self.factor *= 0.5
        for name in ("mean", "square"):
            self.state[name][members] = 0.0


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


_BETAS = (0.9, 0.99)
_EPS = 1e-8

# The fused kernel has a private name, so it may go.
adam_step = fused_adam_step if hasattr(torch, "_fused_adamw_") else plain_adam_step


class _BestStates:
    """Each member's best parameters so far, and how long ago they were found."""

    def __init__(self, flat: _FlatParameters, settings: Settings) -> None:
        self.values = flat.values.clone()
        self.tol = settings.tol
        self.patience = settings.n_iter_no_change
        n_members = flat.values.shape[0]
        self.loss = flat.values.new_full((n_members,), math.inf)
        self.reference = self.loss.clone()
        self.waited = torch.zeros(n_members, dtype=torch.long, device=self.loss.device)

    def update(self, flat: _FlatParameters, held_out: Tensor) -> Tensor:
        """Keep the members that improved, unless their patience has run out.

        Returns the held-out losses; a member that has stopped stays at its best.
        """
        running = self.waited < self.patience
        better = (held_out < self.loss) & running
        self.values = torch.where(better.unsqueeze(1), flat.values, self.values)
        self.loss = torch.where(better, held_out, self.loss)
        clearly = (held_out < self.reference - self.tol) & running
        self.reference = torch.where(clearly, held_out, self.reference)
        self.waited = torch.where(clearly, 0, self.waited + running.long())
        return torch.where(running, held_out, self.loss)

    def all_stopped(self) -> bool:
        """Tell whether no member is running any more."""
        return bool((self.waited >= self.patience).all())


def _n_steps(rows: Tensor, settings: Settings) -> int:
    """Return the number of steps in an epoch."""
    return max(1, round(rows.shape[1] / settings.batch_size))


def _batches(
    rows: Tensor, settings: Settings, generator: torch.Generator
) -> Iterator[Tensor]:
    """Yield an epoch's batches: a shuffle per member, cut into equal parts.

    The few rows that do not fill the last batch sit out this epoch's shuffle.
    """
    n_rows = rows.shape[1]
    n_steps = _n_steps(rows, settings)
    if n_steps == 1:
        yield rows
        return
    device = rows.device
    shuffled = torch.stack(
        [
            member[torch.randperm(n_rows, generator=generator, device=device)]
            for member in rows
        ]
    )
    size = n_rows // n_steps
    for step in range(n_steps):
        yield shuffled[:, step * size : (step + 1) * size]


_MAX_HELD_OUT = 10_000


def split_rows(
    n_members: int, n_rows: int, hold_out: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return each member's training and held-out rows, a random share of all.

    A member never holds out more rows than it takes to judge it.
    """
    if hold_out == 0.0:
        rows = torch.arange(n_rows, device=generator.device).expand(n_members, n_rows)
        return rows, rows[:, :0]
    n_held_out = min(max(1, round(hold_out * n_rows)), n_rows - 1, _MAX_HELD_OUT)
    device = generator.device
    order = torch.stack(
        [
            torch.randperm(n_rows, generator=generator, device=device)
            for _ in range(n_members)
        ]
    )
    return order[:, n_held_out:], order[:, :n_held_out]


def minimise(
    named_parameters: Iterable[tuple[str, Tensor]],
    training_loss: Loss,
    held_out_loss: Loss,
    rows: tuple[Tensor, Tensor],
    settings: Settings,
    generator: torch.Generator,
    *,
    by_hand: Callable[[dict[str, Tensor]], Gradient] | None = None,
    optimizer_state: dict[str, Tensor] | None = None,
    on_epoch: OnEpoch | None = None,
) -> History:
    """Minimise every member's loss, in place.

    Parameters
    ----------
    named_parameters : iterable of (str, Tensor)
        Leaf tensors ``(n_members, ...)``.
    training_loss, held_out_loss : callable
        Map row indices ``(n_members, n_batch)`` to losses ``(n_members,)``. The
        first is differentiated; the second judges a state.
    rows : tuple of Tensor
        Each member's training rows ``(n_members, n)`` and its held-out rows. Without
        any of the latter there is no early stopping and the last state counts.
    settings : Settings
        How to optimise.
    generator : torch.Generator
        The source of shuffles.
    by_hand : callable, optional
        Makes a faster way to the gradient from the tensors that take it, by name:
        a function of the rows and of whether the losses are wanted. It is used if
        it agrees with autograd on the first batch.
    optimizer_state : dict of str to Tensor, optional
        From the history of an earlier call.
    on_epoch : callable, optional
        Called with the epoch's number (from 1), loss and held-out loss after
        every epoch; a true value stops the loop.

    Returns
    -------
    history : History
        What happened.
    """
    flat = _FlatParameters(named_parameters)
    training_rows, held_out_rows = rows
    n_steps = _n_steps(training_rows, settings) * settings.max_iter
    optimizer = _Optimizer(flat, settings, n_steps, optimizer_state)
    differentiate = _Differentiator(flat, training_loss, by_hand)
    history = History()
    best = _BestStates(flat, settings) if held_out_rows.shape[1] else None
    good = flat.values.clone()

    def judge() -> Tensor:
        with torch.no_grad():
            return held_out_loss(held_out_rows)

    try:
        if best is not None:
            best.update(flat, judge())
        for epoch in range(1, settings.max_iter + 1):
            losses = _run_epoch(
                optimizer, differentiate, training_rows, settings, generator
            )
            history.loss.append(_mean(losses))
            if best is not None:
                history.held_out.append(_mean(best.update(flat, judge())))
            if _rescue(flat, good, losses, optimizer):
                history.n_recoveries += 1
                if history.n_recoveries > settings.max_recoveries:
                    history.gave_up = True
                    break
            good.copy_(flat.values)
            shown = history.held_out[-1] if best is not None else None
            if on_epoch is not None and on_epoch(epoch, history.loss[-1], shown):
                break
            if best is not None and best.all_stopped():
                break
        if best is not None:
            flat.values.copy_(best.values)
            history.best = best.loss
            history.gave_up |= not bool(best.loss.isfinite().all())
    finally:
        history.optimizer_state = optimizer.state
        flat.release()
    return history


def _run_epoch(
    optimizer: _Optimizer,
    differentiate: _Differentiator,
    rows: Tensor,
    settings: Settings,
    generator: torch.Generator,
) -> Tensor:
    """Take an epoch's steps and return the members' average losses.

    The average is over every eighth step: the gradient does not need the loss.
    """
    values = []
    with differentiate.mode():
        for step, batch in enumerate(_batches(rows, settings, generator)):
            with_loss = step % _LOSS_EVERY == 0
            losses = differentiate(batch, with_loss)
            optimizer.step()
            if losses is not None and with_loss:
                values.append(losses)
        return torch.stack(values).mean(0)


_LOSS_EVERY = 8


def _rescue(
    flat: _FlatParameters, good: Tensor, losses: Tensor, optimizer: _Optimizer
) -> bool:
    """Take members that are no longer finite back to their last good state."""
    lost = ~(flat.values.isfinite().all(1) & losses.isfinite())
    if not bool(lost.any()):
        return False
    flat.values[lost] = good[lost]
    optimizer.recover(lost)
    return True


def _mean(losses: Tensor) -> float:
    """Average the members whose loss is a number; infinite if none is."""
    finite = losses[losses.isfinite()]
    return float(finite.mean()) if len(finite) else math.inf
