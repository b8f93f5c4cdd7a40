"""Training an ensemble: views one after the other, then together.

Views hold out the same rows. After a part of the passes those that these rows show to
be far behind drop out; the others get some of the time that is saved. After the last
pass the rows say how much each view counts and how wide the ensemble should be
(:mod:`skmdn.stacking`). Then the views that learned until late see most of the rows
they had held out: a tenth of a small table is worth more than the judgement it makes
possible. The rest of these rows set the width anew.
"""

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .closed_form import ClosedFormGradient
from .likelihood import cells
from .networks import MixtureEnsemble, MixtureNetwork
from .objectives import MixtureObjective
from .stacking import HeldOutPredictions, stacking_weights
from .training import Descent, History, OnEpoch, Settings, split_rows

__all__ = ["EnsembleTraining", "Race", "split_for"]

# With fewer passes and steps in all, ranks have not settled in time for a race.
_FEWEST_PASSES = 12
_FEWEST_STEPS = 1_500

# The finish: passes as a share of those before, and the largest step likewise. Rows
# that occur again are worth learning by heart.
_FINISH_PASSES = 0.2
_FINISH_RATE = 0.2
_FINISH_PASSES_REPEATS = 0.3
_FINISH_RATE_REPEATS = 0.5

# Rows that speak for the ensemble before, and as many for the one after it.
_N_PSEUDO_FINISH = 5.0

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


@dataclass(frozen=True)
class Race:
    """When views are compared, and what becomes of those that are behind.

    Parameters
    ----------
    share : float, default=1/3
        After this share of the passes.
    behind : float, default=0.15
        A view that is so many nats behind the best drops out.
    passed_on : float, default=0.65
        The others get this share of its other passes.
    """

    share: float = 1 / 3
    behind: float = 0.15
    passed_on: float = 0.65


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
    resolution : Tensor of shape (n_outputs,) or None
        What the targets were rounded to, if that is known.
    repeats : bool
        Whether many rows occur again.
    on_epoch : callable, optional
        Called after every epoch of every network.
    closed_form : type, default=ClosedFormGradient
        Gradients in closed form, and which networks they apply to.
    race : Race, optional
        Of the views.
    passes : sequence of float, default=()
        For each view which share of the passes it makes; all by default.
    """

    module: MixtureEnsemble
    objective: Callable[[MixtureNetwork], MixtureObjective]
    split: tuple[Tensor, Tensor]
    settings: Settings
    generator: torch.Generator
    by_hand: bool
    resolution: Tensor | None
    repeats: bool
    on_epoch: OnEpoch | None = None
    closed_form: Any = ClosedFormGradient
    race: Race = Race()
    passes: Sequence[float] = ()

    def run(self, states: Sequence[dict[str, Tensor]] = ()) -> list[History]:
        """Train, weigh, finish; return what happened to each network.

        Parameters
        ----------
        states : sequence of dict
            The optimisers' states where an earlier run left them.
        """
        passes = self.passes or [1.0] * len(self.networks)
        descents = []
        for network, state, share in itertools.zip_longest(
            self.networks, states, passes
        ):
            n_passes = max(1, round(share * self.settings.max_iter))
            settings = replace(self.settings, max_iter=n_passes)
            descents.append(
                self._descent(
                    network, self.split, settings, state, self.on_epoch, cools=True
                )
            )
        if self._is_race() and not states:
            descents = self._race(descents)
        for descent in descents:
            descent.run()
        histories = self._end(descents)
        if self.split[1].shape[1]:
            self.weigh()
            self._finish(histories)
        return histories

    def _is_race(self) -> bool:
        """Tell whether views are compared early.

        Of rounded targets their densities say little: only the cells do.
        """
        n_passes = self.settings.max_iter
        n_steps = n_passes * self.split[0].shape[1] / self.settings.batch_size
        judged = self.split[1].shape[1] > 0 and self.resolution is None
        return judged and n_passes >= _FEWEST_PASSES and n_steps >= _FEWEST_STEPS

    def _race(self, descents: list[Descent]) -> list[Descent]:
        """Let views run for a while and return those that are not far behind."""
        n_passes = self.settings.max_iter
        n_run = max(1, round(self.race.share * n_passes))
        for descent in descents:
            descent.run(n_run)
        losses = [descent.best_loss() for descent in descents]
        kept = [
            i for i, loss in enumerate(losses) if loss <= min(losses) + self.race.behind
        ]
        self.module.keep(kept)
        n_saved = (n_passes - n_run) * (len(losses) - len(kept))
        more = round(self.race.passed_on * n_saved / len(kept))
        for i in kept if more else ():
            descents[i].prolong(descents[i].settings.max_iter + more)
        return [descents[i] for i in kept]

    @property
    def networks(self) -> list[MixtureNetwork]:
        """The networks of the ensemble."""
        return list(self.module.networks)  # type: ignore[arg-type]

    def _descent(
        self,
        network: MixtureNetwork,
        split: tuple[Tensor, Tensor],
        settings: Settings,
        state: dict[str, Tensor] | None = None,
        on_epoch: OnEpoch | None = None,
        *,
        cools: bool = False,
    ) -> Descent:
        objective = self.objective(network)
        network.train().to(objective.y.dtype)
        network.set_trainable(True)
        by_hand = None
        if self.by_hand and self.closed_form.applies(network, objective.prior):
            by_hand = partial(self.closed_form, objective)
        return Descent(
            network.named_parameters(),
            objective.training_loss,
            objective.held_out_loss,
            split,
            settings,
            self.generator,
            by_hand=by_hand,
            optimizer_state=state,
            on_epoch=on_epoch,
            on_step=objective.cool if cools else None,
        )

    def _end(self, descents: list[Descent]) -> list[History]:
        """Leave the networks as predictions want them."""
        histories = [descent.end() for descent in descents]
        for network in self.networks:
            network.set_trainable(False)
            network.eval().double()
        return histories

    def weigh(self) -> None:
        """Weigh the views and set the width on the rows they have held out."""
        n_members = len(self.split[1])
        held_out = self._predictions(self.module, self.split[1], n_members)
        shares = stacking_weights(held_out.log_prob(), held_out.weights)
        self.module.weigh(shares, held_out.best_spread(shares))

    def _finish(self, histories: list[History]) -> None:
        """Train on, with most of the held-out rows."""
        rows, held_out = self.split
        n_kept = round(_KEPT * held_out.shape[1])
        n_groups = min(_N_GROUPS, len(held_out))
        late = [self._is_late(history) for history in histories]
        if n_kept * n_groups < _FEWEST_KEPT or not any(late):
            return
        kept, released = held_out[:, :n_kept], held_out[:, n_kept:]
        everything = (torch.cat([rows, released], 1), held_out[:, :0])
        before = copy.deepcopy(self.module)
        for network, history in zip(self.networks, histories, strict=True):
            if self._is_late(history):
                self._finish_view(network, history, everything)
        self._set_width(kept, n_groups)
        if self.repeats:
            self._join(before, kept, n_groups)
            self._set_width(kept, n_groups)

    def _finish_view(
        self, network: MixtureNetwork, history: History, split: tuple[Tensor, Tensor]
    ) -> None:
        share, rate = _FINISH_PASSES, _FINISH_RATE
        if self.repeats:
            share, rate = _FINISH_PASSES_REPEATS, _FINISH_RATE_REPEATS
        settings = replace(
            self.settings,
            max_iter=max(1, round(share * len(history.loss))),
            learning_rate=rate * self.settings.learning_rate,
            decay=True,
        )
        descent = self._descent(network, split, settings)
        descent.run()
        (finish,) = self._end([descent])
        history.n_recoveries += finish.n_recoveries
        history.gave_up |= finish.gave_up

    def _set_width(self, rows: Tensor, n_groups: int) -> None:
        shares = self.module.shares()
        found = self._predictions(self.module, rows, n_groups)
        self.module.weigh(shares, found.best_spread(shares))

    def _join(self, before: MixtureEnsemble, rows: Tensor, n_groups: int) -> None:
        """Give the ensemble before the finish the weight it has earned.

        Only rows that occur again are known by heart: for others the state that
        generalised best may be the better one.
        """
        ensembles = before, self.module
        found = [self._predictions(module, rows, n_groups) for module in ensembles]
        log_prob = [
            of_rows.pool(module.shares())
            for of_rows, module in zip(found, ensembles, strict=True)
        ]
        share, _ = stacking_weights(
            torch.stack(log_prob), found[0].weights, n_pseudo=_N_PSEUDO_FINISH
        )
        self.module.join(before, share)

    def _is_late(self, history: History) -> bool:
        """Tell whether a view learned until late, so that more rows help it.

        One that began to overfit early was saved by the rows it held out, unless
        rows occur again: then they are worth remembering.
        """
        if self.repeats:
            return True
        assert history.best_epoch is not None
        latest = history.best_epoch.float().mean()
        return bool(latest >= _LATE * history.max_iter)

    @torch.no_grad()
    def _predictions(
        self, module: MixtureEnsemble, rows: Tensor, n_groups: int
    ) -> HeldOutPredictions:
        """Return what each group of members says of the rows it has held out.

        Members belong to the groups in turn.
        """
        networks: list[Any] = list(module.networks)
        objectives = [self.objective(network) for network in networks]
        data = objectives[0]
        groups = rows[:n_groups]
        members = []
        for network, objective in zip(networks, objectives, strict=True):
            mixtures = network.of_rows(objective.x, rows)
            members.append([mixtures[group::n_groups] for group in range(n_groups)])
        return HeldOutPredictions(
            members,
            [self._judged(data, group) for group in groups],
            data.weights[groups].flatten().double(),
            min_scale=networks[0].head.min_scale,
        )

    def _judged(
        self, data: MixtureObjective, rows: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Return the ends by which held-out rows judge; cells, if they are rounded."""
        low, high = data.ends(rows)
        low, high = low.double(), None if high is None else high.double()
        if self.resolution is None:
            return low, high
        return cells(low, high, self.resolution)
