"""The one optimisation loop: members side by side, each with its own early stop.

The loop knows parameters with a leading member axis and a function that returns
one loss per member; what is being fitted is not its concern. All parameters live
in one matrix ``(n_members, n_parameters)``, so that the optimiser, the clipping of
a member's gradient and the copy of its best state are single operations.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from .steps import Differentiator, FlatParameters, Gradient, Loss, Optimizer, Settings

__all__ = ["Descent", "History", "Settings", "split_rows"]

OnEpoch = Callable[[int, float, float | None], bool]
OnStep = Callable[[float], None]


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
    best_epoch : Tensor of shape (n_members,) or None
        When it was found; 0 is before the first epoch.
    n_recoveries : int
        How often a state with numbers that are not finite was thrown away.
    gave_up : bool
        True if that happened too often, or left nothing to choose from.
    max_iter : int
        How many epochs there were to be.
    optimizer_state : dict of str to Tensor
        What a later call needs to go on where this one ended.
    """

    loss: list[float] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)
    best: Tensor | None = None
    best_epoch: Tensor | None = None
    n_recoveries: int = 0
    gave_up: bool = False
    max_iter: int = 0
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
        epochs = [h.best_epoch for h in histories if h.best_epoch is not None]
        return cls(
            average([history.loss for history in histories]),
            average([history.held_out for history in histories]),
            torch.cat(best) if best else None,
            torch.cat(epochs) if epochs else None,
            sum(history.n_recoveries for history in histories),
            any(history.gave_up for history in histories),
            max(history.max_iter for history in histories),
        )


class _BestStates:
    """Each member's best parameters so far, and when they were found.

    Parameters
    ----------
    flat : FlatParameters
        The parameters.
    settings : Settings
        Tells what counts as better and how long to wait for it.
    loss : callable
        Returns the members' losses on their held-out rows.
    optimizer : Optimizer
        Has the parameters' running average, if that is what counts.
    """

    def __init__(
        self,
        flat: FlatParameters,
        settings: Settings,
        loss: Callable[[], Tensor],
        optimizer: Optimizer,
    ) -> None:
        self.flat = flat
        self.optimizer = optimizer
        self.held_out_loss = loss
        self.values = flat.values.clone()
        self.tol = settings.tol
        self.patience = settings.patience()
        self.least_patience = settings.least_patience
        # Plain numbers: there are few, and to compare them takes a dozen operations.
        n_members = len(flat.values)
        self.loss = [math.inf] * n_members
        self.reference = list(self.loss)
        self.current = self.loss
        self.improved = [0] * n_members

    def judge(self, epoch: int) -> None:
        """Keep the members that improved, unless their patience has run out.

        A member that has stopped stays at its best.
        """
        with torch.no_grad(), self.optimizer.averaged():
            held_out = self.held_out_loss().tolist()
            running = [self._runs(member, epoch) for member in range(len(held_out))]
            better = [
                member
                for member, loss in enumerate(held_out)
                if running[member] and loss < self.loss[member]
            ]
            if len(better) == len(held_out):
                self.values.copy_(self.flat.values)
            else:
                for member in better:
                    self.values[member].copy_(self.flat.values[member])
        for member in better:
            self.loss[member] = held_out[member]
        for member, loss in enumerate(held_out):
            if running[member] and loss < self.reference[member] - self.tol:
                self.reference[member] = loss
                self.improved[member] = epoch
        self.current = [
            loss if runs else best
            for loss, runs, best in zip(held_out, running, self.loss, strict=True)
        ]

    def all_stopped(self, epoch: int) -> bool:
        """Tell whether no member is running any more."""
        return not any(self._runs(member, epoch) for member in range(len(self.loss)))

    def _runs(self, member: int, epoch: int) -> bool:
        """Tell whether a member's patience has not run out."""
        allowed = self.patience
        if self.least_patience is not None:
            allowed = min(allowed, max(self.least_patience, self.improved[member]))
        return epoch - self.improved[member] < allowed


def _n_steps(rows: Tensor, settings: Settings) -> int:
    """Return the number of steps in an epoch."""
    return max(1, round(rows.shape[1] / settings.batch_size))


def _batches(
    rows: Tensor, generator: torch.Generator, shuffled: Tensor
) -> list[Tensor]:
    """Return an epoch's batches: a shuffle per member, cut into equal parts.

    The few rows that do not fill the last batch sit out this epoch's shuffle. The
    batches are the parts of ``shuffled``, which the next epoch overwrites.
    """
    n_rows = rows.shape[1]
    if len(shuffled) == 1:
        return [rows]
    for member, target in zip(rows, shuffled.unbind(1), strict=True):
        chosen = _shuffle(n_rows, generator)[: target.numel()]
        target.copy_(member.index_select(0, chosen).view(target.shape))
    return list(shuffled.unbind(0))


def _shuffle(n_rows: int, generator: torch.Generator) -> Tensor:
    """Return numbers of rows in random order, in half the memory where it suffices."""
    return torch.randperm(
        n_rows, generator=generator, device=generator.device, dtype=_row_type(n_rows)
    )


def _row_type(n_rows: int) -> torch.dtype:
    return torch.int32 if n_rows < 2**31 else torch.int64


_MAX_HELD_OUT = 10_000


def split_rows(
    n_members: int,
    n_rows: int,
    hold_out: float,
    generator: torch.Generator,
    *,
    shared: float = 0.0,
    n_groups: int = 1,
) -> tuple[Tensor, Tensor]:
    """Return each member's training and held-out rows, a random share of all.

    A member never holds out more rows than it takes to judge it.

    Parameters
    ----------
    n_members, n_rows : int
        The number of members and of rows.
    hold_out : float
        The share of the rows that is held out; with 0 members train on all.
    generator : torch.Generator
        The source of the choice.
    shared : float, default=0.0
        The share of a member's held-out rows that its group holds out together; they
        come first.
    n_groups : int, default=1
        The number of groups, to which the members belong in turn.

    Returns
    -------
    rows, held_out : Tensor of shape (n_members, ...)
    """
    device = generator.device
    if hold_out == 0.0:
        rows = torch.arange(n_rows, device=device, dtype=_row_type(n_rows))
        rows = rows.expand(n_members, n_rows)
        return rows, rows[:, :0]
    n_held_out = min(max(1, round(hold_out * n_rows)), n_rows - 1, _MAX_HELD_OUT)
    n_shared = min(round(shared * n_held_out), n_rows // n_groups)
    order = _shuffle(n_rows, generator)
    members = order.new_empty((n_members, n_rows))
    for member, target in enumerate(members):
        start = member % n_groups * n_shared
        target[:n_shared] = order[start : start + n_shared]
        others = torch.cat([order[:start], order[start + n_shared :]])
        shuffle = _shuffle(len(others), generator)
        torch.index_select(others, 0, shuffle, out=target[n_shared:])
    return members[:, n_held_out:], members[:, :n_held_out]


class Descent:
    """Minimise every member's loss, in place: a run that can be interrupted.

    Parameters
    ----------
    named_parameters : iterable of (str, Tensor)
        Leaf tensors ``(n_members, ...)``. They share memory until :meth:`end`.
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
        From the history of an earlier run.
    on_epoch : callable, optional
        Called with the epoch's number (from 1), loss and held-out loss after
        every epoch; a true value stops the run.
    on_step : callable, optional
        Called before every step with the share of the steps, as planned at first, that
        are done.
    """

    def __init__(
        self,
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
        on_step: OnStep | None = None,
    ) -> None:
        self.flat = FlatParameters(named_parameters)
        self.rows, held_out_rows = rows
        self.settings = settings
        self.generator = generator
        self.on_epoch, self.on_step = on_epoch, on_step
        n_steps = _n_steps(self.rows, settings) * settings.max_iter
        self.n_planned = n_steps
        self.optimizer = Optimizer(self.flat, settings, n_steps, optimizer_state)
        self.differentiate = Differentiator(self.flat, training_loss, by_hand)
        self.history = History()
        self.best = None
        if held_out_rows.shape[1]:
            judge = partial(held_out_loss, held_out_rows)
            self.best = _BestStates(self.flat, settings, judge, self.optimizer)
            self.best.judge(0)
        self.good = self.flat.values.clone()
        n_members, n_rows = self.rows.shape
        n_batches = _n_steps(self.rows, settings)
        self.shuffled = self.rows.new_empty((n_batches, n_members, n_rows // n_batches))
        self.epoch = 0
        self.ended = False

    def run(self, until: int | None = None) -> None:
        """Go on until the end, or until an epoch's number at the latest."""
        until = self.settings.max_iter if until is None else until
        while self.epoch < until and not self.ended:
            self.epoch += 1
            self.ended = self._run_epoch()

    def prolong(self, max_iter: int) -> None:
        """Run for more epochs; the rate falls accordingly later."""
        self.settings = replace(self.settings, max_iter=max_iter)
        if self.best is not None:
            self.best.patience = self.settings.patience()
        self.optimizer.n_steps = _n_steps(self.rows, self.settings) * max_iter

    def best_loss(self) -> float:
        """Return the average of the members' best held-out losses so far."""
        assert self.best is not None
        return _mean(self.best.loss)

    def end(self) -> History:
        """Leave each member's best state and return what happened."""
        history, best = self.history, self.best
        self.optimizer.settle()
        history.max_iter = self.settings.max_iter
        history.optimizer_state = self.optimizer.left_state()
        if best is None and self.settings.averaging:
            self.flat.values.copy_(history.optimizer_state["average"])
        if best is not None:
            self.flat.values.copy_(best.values)
            history.best = self.flat.values.new_tensor(best.loss)
            history.best_epoch = torch.tensor(best.improved)
            history.gave_up |= not all(map(math.isfinite, best.loss))
        self.flat.release()
        return history

    def _before_step(self) -> None:
        if self.on_step is not None:
            self.on_step(self.optimizer.n_done / self.n_planned)

    def _run_epoch(self) -> bool:
        """Run an epoch and tell whether it was the last."""
        best, history = self.best, self.history
        batches = _batches(self.rows, self.generator, self.shuffled)
        total = self.flat.values.new_zeros(len(self.rows))
        n_losses = 0
        for part in _parts(batches, self.settings.max_iter):
            n_losses += _take_steps(
                self.optimizer, self.differentiate, part, total, self._before_step
            )
            if best is not None and _is_judged(self.epoch, self.settings):
                best.judge(self.epoch)
        mean_loss = total / n_losses
        history.loss.append(_mean(mean_loss.tolist()))
        if best is not None:
            history.held_out.append(_mean(best.current))
        if _rescue(self.flat, self.good, mean_loss, self.optimizer):
            history.n_recoveries += 1
            if history.n_recoveries > self.settings.max_recoveries:
                history.gave_up = True
                return True
        self.good.copy_(self.flat.values)
        shown = history.held_out[-1] if best is not None else None
        if self.on_epoch and self.on_epoch(self.epoch, history.loss[-1], shown):
            return True
        return best is not None and best.all_stopped(self.epoch)


def _parts(batches: list[Tensor], max_iter: int) -> Iterator[list[Tensor]]:
    """Cut an epoch where held-out rows judge it: few epochs are judged more often."""
    n_parts = min(len(batches), max(1, _N_JUDGED // max_iter))
    bounds = [round(i * len(batches) / n_parts) for i in range(n_parts + 1)]
    for start, stop in itertools.pairwise(bounds):
        yield batches[start:stop]


def _is_judged(epoch: int, settings: Settings) -> bool:
    """Tell whether held-out rows judge this epoch: not every one of very many.

    A member is judged again before its patience has run out.
    """
    max_iter = settings.max_iter
    least = settings.least_patience or settings.patience()
    every = max(1, min(max_iter // _N_JUDGED, settings.patience() // 2, least // 2))
    return epoch <= _N_EARLY or epoch % every == 0 or epoch == max_iter


# About how often a loop is judged, and after how many epochs in any case: a network
# that overfits does so in the first few.
_N_JUDGED = 40
_N_EARLY = 20


def _take_steps(
    optimizer: Optimizer,
    differentiate: Differentiator,
    batches: list[Tensor],
    total: Tensor,
    before_step: Callable[[], None],
) -> int:
    """Take a step for each batch, add up the losses of every eighth and count them.

    The gradient does not need the loss. Losses that were kept one by one would lie
    between larger tensors in memory, which could then not be used again as a whole.
    """
    n_losses = 0
    with differentiate.mode():
        for step, batch in enumerate(batches):
            before_step()
            with_loss = step % _LOSS_EVERY == 0
            losses = differentiate(batch, with_loss)
            optimizer.step()
            if losses is not None and with_loss:
                total.add_(losses)
                n_losses += 1
        optimizer.settle()
    return n_losses


_LOSS_EVERY = 8


def _rescue(
    flat: FlatParameters, good: Tensor, losses: Tensor, optimizer: Optimizer
) -> bool:
    """Take members that are no longer finite back to their last good state."""
    lost = ~(flat.values.sum(1) + losses).isfinite()
    if not bool(lost.any()):
        return False
    flat.values[lost] = good[lost]
    optimizer.recover(lost)
    return True


def _mean(losses: list[float]) -> float:
    """Average the members whose loss is a number; infinite if none is."""
    finite = [loss for loss in losses if math.isfinite(loss)]
    return sum(finite) / len(finite) if finite else math.inf
