"""Training an ensemble: views one after the other, then together.

Views hold out the same rows. After each has been trained by itself, these rows say how
much it counts and how wide the ensemble should be (:mod:`skmdn.stacking`). Then the
views that learned until late see most of the rows they had held out: a tenth of a small
table is worth more than the judgement it makes possible. The rest of these rows set the
width anew.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from .closed_form import ClosedFormGradient
from .networks import MixtureEnsemble, MixtureNetwork
from .objectives import MixtureObjective
from .stacking import HeldOutPredictions, stacking_weights
from .training import History, OnEpoch, Settings, minimise, split_rows

__all__ = ["EnsembleTraining", "split_for"]

# The finish: passes as a share of those before, and the largest step likewise.
_FINISH_PASSES = 0.2
_FINISH_RATE = 0.2

# A view whose members were best, on average, after this share of the passes.
_LATE = 1 / 3

# What stays held out in the finish: this share of the held-out rows, if that is enough
# rows to judge by. Two halves of the ensemble keep different ones: the larger a part
# that can be judged as a whole, the more it is like the ensemble.
_KEPT = 0.25
_FEWEST_KEPT = 20
_N_GROUPS = 2


def split_for(
    n_members: int, n_rows: int, hold_out: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return rows to train on and rows to hold out, as the finish wants them."""
    return split_rows(
        n_members, n_rows, hold_out, generator, shared=_KEPT, n_groups=_N_GROUPS
    )


@dataclass
class EnsembleTraining:
    """Train the networks of an ensemble in place.

    Parameters
    ----------
    module : MixtureEnsemble
        The networks; all have the same number of members.
    objective : callable
        Returns the :class:`MixtureObjective` of a network.
    split : tuple of Tensor
        Training and held-out rows of member j of every view, from
        :func:`split_for`.
    settings : Settings
        How to optimise.
    generator : torch.Generator
        The source of shuffles.
    by_hand : bool
        Whether gradients in closed form may be used.
    resolution : float
        Spacing of a lattice on which the target lies, or 0.
    repeats : bool
        Whether many rows occur again.
    on_epoch : callable, optional
        Called after every epoch of every network.
    """

    module: MixtureEnsemble
    objective: Callable[[MixtureNetwork], MixtureObjective]
    split: tuple[Tensor, Tensor]
    settings: Settings
    generator: torch.Generator
    by_hand: bool
    resolution: float
    repeats: bool
    on_epoch: OnEpoch | None = None

    def run(self, states: Sequence[dict[str, Tensor]] = ()) -> list[History]:
        """Train, weigh, finish; return what happened to each network.

        Parameters
        ----------
        states : sequence of dict
            The optimisers' states where an earlier run left them.
        """
        histories = []
        for network, state in itertools.zip_longest(self.networks, states):
            histories.append(
                self._minimise(network, self.split, self.settings, state, self.on_epoch)
            )
        if self.split[1].shape[1]:
            self._weigh()
            self._finish(histories)
        return histories

    @property
    def networks(self) -> list[MixtureNetwork]:
        """The networks of the ensemble."""
        return list(self.module.networks)  # type: ignore[arg-type]

    def _minimise(
        self,
        network: MixtureNetwork,
        split: tuple[Tensor, Tensor],
        settings: Settings,
        state: dict[str, Tensor] | None = None,
        on_epoch: OnEpoch | None = None,
    ) -> History:
        objective = self.objective(network)
        network.train().to(objective.y.dtype)
        network.set_trainable(True)
        by_hand = None
        if self.by_hand and ClosedFormGradient.applies(network):
            by_hand = partial(ClosedFormGradient, objective)
        history = minimise(
            network.named_parameters(),
            objective.training_loss,
            objective.held_out_loss,
            split,
            settings,
            self.generator,
            by_hand=by_hand,
            optimizer_state=state,
            on_epoch=on_epoch,
        )
        network.set_trainable(False)
        network.eval().double()
        return history

    def _weigh(self) -> None:
        """Weigh the views and set the width on the rows they have held out."""
        n_members = len(self.split[1])
        held_out = self._predictions(self.split[1], n_members)
        shares = stacking_weights(held_out.log_prob(), held_out.weights)
        self.module.weigh(shares, held_out.best_spread(shares))

    def _finish(self, histories: list[History]) -> None:
        """Train on, with most of the held-out rows."""
        rows, held_out = self.split
        n_kept = round(_KEPT * held_out.shape[1])
        n_groups = min(_N_GROUPS, len(held_out))
        if n_kept * n_groups < _FEWEST_KEPT:
            return
        kept, released = held_out[:, :n_kept], held_out[:, n_kept:]
        everything = (torch.cat([rows, released], 1), held_out[:, :0])
        finished = False
        for network, history in zip(self.networks, histories, strict=True):
            if not self._is_finished(history):
                continue
            finished = True
            passes = max(1, round(_FINISH_PASSES * len(history.loss)))
            rate = _FINISH_RATE * self.settings.learning_rate
            settings = replace(self.settings, max_iter=passes, learning_rate=rate)
            finish = self._minimise(network, everything, settings)
            history.n_recoveries += finish.n_recoveries
            history.gave_up |= finish.gave_up
        if finished:
            shares = self.module.shares()
            log_factor = self._predictions(kept, n_groups).best_spread(shares)
            self.module.weigh(shares, log_factor)

    def _is_finished(self, history: History) -> bool:
        """Tell whether a view learned until late, so that more rows help it.

        One that began to overfit early was saved by the rows it held out, unless
        rows occur again: then they are worth remembering.
        """
        if self.repeats:
            return True
        assert history.best_epoch is not None
        latest = history.best_epoch.float().mean()
        return bool(latest >= _LATE * self.settings.max_iter)

    @torch.no_grad()
    def _predictions(self, rows: Tensor, n_groups: int) -> HeldOutPredictions:
        """Return what each group of members says of the rows it has held out.

        Members belong to the groups in turn.
        """
        objectives = [self.objective(network) for network in self.networks]
        data = objectives[0]
        groups = rows[:n_groups]
        members = []
        for network, objective in zip(self.networks, objectives, strict=True):
            mixtures = network.of_rows(objective.x, rows)
            members.append([mixtures[group::n_groups] for group in range(n_groups)])
        return HeldOutPredictions(
            members,
            [data.y[group].double() for group in groups],
            data.weights[groups].flatten().double(),
            resolution=self.resolution,
            min_scale=self.networks[0].head.min_scale,
        )
