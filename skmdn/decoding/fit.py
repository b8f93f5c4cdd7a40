r"""The joint fit of decoder, codes and the mixtures over codes.

.. math:: \max \; \sum_i \log p(x_i \mid z_i) + \log p(z_i) + \log p(\text{mixture})

The decoder takes a step of AdamW for each batch, and the batch's codes one of Adam,
whose moments are those of their rows. After every epoch the mixtures take an exact step
of EM on the codes as they are. Rows that are held out have codes, too, which follow the
frozen decoder by Newton's method and teach it nothing; they say which epoch was best.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from skmdn.learning.steps import FlatParameters, Optimizer, Settings

from .codes import Search, descend, row_chunks
from .objective import Joint
from .prior import CodePrior
from .table import Table

__all__ = ["DecoderTraining", "Losses", "Plan"]

OnEpoch = Callable[[int, float, float | None], bool]

_BETAS = (0.9, 0.99)
_EPS = 1e-8
# Steps of Newton's method that the codes of held-out rows take after each epoch.
_HELD_OUT_STEPS = 2


@dataclass(frozen=True)
class Plan:
    """How to fit.

    Parameters
    ----------
    settings : Settings
        Of the decoder.
    code_rate : float
        The largest step of a code.
    law_rate : float
        The largest step of the parameters of the columns' laws.
    code_noise : float
        The standard deviation of what is added to the codes that the decoder sees.
    """

    settings: Settings
    code_rate: float
    law_rate: float
    code_noise: float


@dataclass
class Losses:
    """What happened, epoch by epoch, in nats per row.

    Attributes
    ----------
    reconstruction, latent, prior : list of float
        The parts of minus the objective, as the epoch's batches saw them; the prior is
        that of the mixtures' parameters, counted once and divided among the rows.
    held_out : list of float
        Of rows that were held out; empty without.
    best_epoch : int
        Whose state was kept; 0 is before the first.
    n_recoveries : int
        How often numbers were not finite.
    gave_up : bool
        Whether that happened too often.
    """

    reconstruction: list[float] = field(default_factory=list)
    latent: list[float] = field(default_factory=list)
    prior: list[float] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)
    best_epoch: int = 0
    n_recoveries: int = 0
    gave_up: bool = False

    def total(self) -> float:
        """Return the last sum of the parts."""
        return self.reconstruction[-1] + self.latent[-1] + self.prior[-1]


class SparseAdam:
    """Adam for the rows of a table, of which each batch moves some.

    Parameters
    ----------
    values : Tensor of shape (n_rows, n_columns)
        Moved in place.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.forget()

    def forget(self) -> None:
        """Begin without momentum."""
        self.mean = torch.zeros_like(self.values)
        self.square = torch.zeros_like(self.values)
        self.count = self.values.new_zeros(len(self.values), 1)

    def step(self, rows: Tensor, gradient: Tensor, rate: float) -> None:
        """Move some rows."""
        beta1, beta2 = _BETAS
        count = self.count[rows] + 1.0
        mean = self.mean[rows].lerp(gradient, 1.0 - beta1)
        square = self.square[rows].lerp(gradient.square(), 1.0 - beta2)
        self.count[rows], self.mean[rows], self.square[rows] = count, mean, square
        root = (square / (1.0 - beta2**count)).sqrt_().add_(_EPS)
        self.values[rows] -= rate / (1.0 - beta1**count) * mean / root


@dataclass
class _State:
    """A copy of all that is fitted."""

    decoder: Tensor
    laws: list[Tensor]
    codes: Tensor
    prior: CodePrior


class DecoderTraining:
    """A fit.

    Parameters
    ----------
    joint : Joint
        Decoder, laws and mixtures where they begin; the first two are changed in place.
    codes : Tensor of shape (n_rows, n_latent)
        Where the codes begin; changed in place.
    table : Table
        The rows.
    labels : Tensor of shape (n_rows, n_blocks) or None
        Their classes.
    rows : tuple of Tensor
        The numbers of the rows that are trained on, and of those held out.
    plan : Plan
        How to fit.
    generator : torch.Generator
        The source of shuffles.
    on_epoch : callable, optional
        Called with the epoch's number, loss and held-out loss; a true value stops.
    """

    def __init__(
        self,
        joint: Joint,
        codes: Tensor,
        table: Table,
        labels: Tensor | None,
        rows: tuple[Tensor, Tensor],
        plan: Plan,
        generator: torch.Generator,
        on_epoch: OnEpoch | None = None,
    ) -> None:
        self.joint, self.codes = joint, codes
        self.table, self.labels = table, labels
        self.rows, self.held_out = rows
        self.plan, self.generator, self.on_epoch = plan, generator, on_epoch
        settings = plan.settings
        self.n_batches = max(1, round(len(self.rows) / settings.batch_size))
        self.flat = FlatParameters(joint.network.named_parameters())
        self.into = list(self.flat.gradient_views().values())
        n_steps = self.n_batches * settings.max_iter
        self.optimizer = Optimizer(self.flat, settings, n_steps, None)
        self.laws = [SparseAdam(p.data) for p in joint.blocks.parameters()]
        self.code_steps = SparseAdam(codes)
        self.losses = Losses()

    def run(self) -> Joint:
        """Fit, leave the best state and return it."""
        settings, losses = self.plan.settings, self.losses
        best_loss = reference = self._judge()
        good = best = self._state()
        last = 0
        for epoch in range(1, settings.max_iter + 1):
            if not self._run_epoch():
                losses.n_recoveries += 1
                losses.gave_up = losses.n_recoveries > settings.max_recoveries
                self._recover(good)
                if losses.gave_up:
                    break
                continue
            held_out = self._judge()
            good = self._state()
            if held_out is None or best_loss is None or held_out < best_loss:
                best, best_loss, losses.best_epoch = good, held_out, epoch
            if held_out is None or reference is None:
                last = epoch
            else:
                losses.held_out.append(held_out)
                if held_out < reference - settings.tol:
                    reference, last = held_out, epoch
            stop = self.on_epoch and self.on_epoch(epoch, losses.total(), held_out)
            if stop or epoch - last >= settings.patience():
                break
        self._restore(best)
        self.flat.release()
        return self.joint

    def _recover(self, good: "_State") -> None:
        """Go back to the last good state, with smaller steps and without momentum."""
        self._restore(good)
        self.optimizer.recover(torch.tensor([0]))
        for steps in (*self.laws, self.code_steps):
            steps.forget()

    def _state(self) -> _State:
        return _State(
            self.flat.values.clone(),
            [law.values.clone() for law in self.laws],
            self.codes.clone(),
            self.joint.prior,
        )

    def _restore(self, state: _State) -> None:
        self.flat.values.copy_(state.decoder)
        for law, values in zip(self.laws, state.laws, strict=True):
            law.values.copy_(values)
        self.codes.copy_(state.codes)
        self.joint = replace(self.joint, prior=state.prior)

    def _batches(self) -> Iterator[Tensor]:
        n_rows = len(self.rows)
        order = torch.randperm(
            n_rows, generator=self.generator, device=self.generator.device
        )
        yield from self.rows[order].tensor_split(self.n_batches)

    def _run_epoch(self) -> bool:
        """Run an epoch; tell whether all numbers are finite."""
        total = self.codes.new_zeros(2)
        for batch in self._batches():
            total += self._step(batch)
        self.optimizer.settle()
        finite = total.sum() + self.flat.values.sum() + self.codes.sum()
        if not bool(finite.isfinite()):
            return False
        n_rows = len(self.rows)
        codes = self.codes[self.rows]
        labels = None if self.labels is None else self.labels[self.rows]
        self.joint = replace(self.joint, prior=self.joint.prior.stepped(codes, labels))
        losses = self.losses
        reconstruction, latent = (total / n_rows).tolist()
        losses.reconstruction.append(reconstruction)
        losses.latent.append(latent)
        losses.prior.append(-self.joint.prior.log_prior() / n_rows)
        return math.isfinite(losses.total())

    def _step(self, batch: Tensor) -> Tensor:
        """Take a step of everything; return both sums of losses before it."""
        joint, z = self.joint, self.codes[batch]
        table = self.table.of(batch)
        labels = None if self.labels is None else self.labels[batch]
        with torch.no_grad():
            tape = joint.network.tape(self._blurred(z))
            first, _ = joint.blocks.slopes(tape.outputs, table)
            log_prob = joint.blocks.log_prob(tape.outputs, table)
            log_prob = log_prob + joint.blocks.constant(table)
            # Adam does not see the scale; clipping does.
            share = 1.0 / (len(batch) * first.shape[1])
            by_code = joint.network.backward(tape, first * -share, self.into) / share
            value, by_prior = joint.prior.slope(z, labels)
            rate = self.optimizer.rate() / self.plan.settings.learning_rate
            for law, slope in zip(
                self.laws,
                joint.blocks.parameter_slopes(tape.outputs, table),
                strict=True,
            ):
                law.step(_FIRST, -slope.unsqueeze(0), rate * self.plan.law_rate)
            self.code_steps.step(batch, by_code + by_prior, rate * self.plan.code_rate)
            self.optimizer.step()
            return torch.stack([-log_prob.sum(), value.sum()])

    def _blurred(self, z: Tensor) -> Tensor:
        """Return codes with noise, if the decoder is to see some."""
        if not self.plan.code_noise:
            return z
        noise = torch.empty_like(z).normal_(generator=self.generator)
        return z + self.plan.code_noise * noise

    def _judge(self) -> float | None:
        """Move the codes of held-out rows and return their mean loss."""
        if not len(self.held_out):
            return None
        search = Search(max_iter=_HELD_OUT_STEPS)
        total = 0.0
        n_latent = self.codes.shape[1]
        for rows in row_chunks(self.joint, len(self.held_out), n_latent):
            chosen = self.held_out[rows]
            labels = None if self.labels is None else self.labels[chosen]
            table = self.table.of(chosen)
            placed = descend(self.joint, self.codes[chosen], table, labels, search)
            self.codes[chosen] = placed.codes
            total += float((placed.values - self.joint.blocks.constant(table)).sum())
        return total / len(self.held_out)


_FIRST = torch.tensor([0])
