"""Training an ensemble: views one after the other, then together.

Views hold out the same rows. After a part of the passes those that these rows show to
be far behind drop out; the others get some of the time that is saved. After the last
pass the rows say how much each view counts and how wide the ensemble should be
(:mod:`skmdn.learning.stacking`). Then the views that learned until late see most of the
rows they had held out: a tenth of a small table is worth more than the judgement it
makes possible. The rest of these rows set the width anew.

Where many rows occur again, a row that will be asked for is new or has been seen. Only
held-out rows without a copy among the training rows judge then, and instead of the
views' finish some networks learn by heart what was seen.
"""

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from skmdn.likelihood import cells

from .closed_form import ClosedFormGradient
from .networks import MixtureEnsemble, MixtureNetwork, row_keys
from .objectives import MixtureObjective
from .stacking import HeldOutPredictions, stacking_weights
from .training import Descent, History, OnEpoch, Settings, split_rows

__all__ = ["EnsembleTraining", "Finish", "Race", "split_for"]

# With fewer passes and steps in all, ranks have not settled in time for a race.
_FEWEST_PASSES = 12
_FEWEST_STEPS = 1_500

# The finish where rows that occur again are learned by heart.
_MEMORY_PASSES = 0.5
_MEMORY_RATE = 1.0

# What stays held out in the finish: this share of the held-out rows, if that is enough
# rows to judge by. Two halves of the ensemble keep different ones: the larger a part
# that can be judged as a whole, the more it is like the ensemble.
_KEPT = 0.25
_FEWEST_KEPT = 20
_N_GROUPS = 2

# Rows that speak for the width before the finish, which more rows have set.
_PSEUDO_BEFORE = 10.0

# Where rows repeat: the fewest of a kind, new or seen before, that can judge.
_FEWEST_OF_A_KIND = 10

# Rows whose numbers are computed at a time.
_N_KEYS = 2**16


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
    favour : float, default=0.0
        So many nats are taken off the loss of the first view.
    """

    share: float = 1 / 3
    behind: float = 0.15
    passed_on: float = 0.65
    favour: float = 0.0


@dataclass(frozen=True)
class Finish:
    """Whether a view trains on with rows that were held out, and for how long.

    Parameters
    ----------
    late : float, default=1/3
        It does if its members were best, on average, after this share of the passes.
    passes, rate : float, default=0.2
        Passes as a share of those before, and the largest step likewise.
    """

    late: float = 1 / 3
    passes: float = 0.2
    rate: float = 0.2


def _usual_finish(network: MixtureNetwork) -> Finish:
    return Finish()


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
    levels : bool, default=False
        Whether networks may divide a part of their weights equally.
    doubtful : bool, default=False
        Whether a width other than 1 needs more than chance for it; see
        :meth:`skmdn.learning.stacking.HeldOutPredictions.best_spread`.
    finish : callable
        Returns the :class:`Finish` of a network.
    weight_decay : callable, optional
        Returns the weight decay of a network, in place of that of ``settings``.
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
    levels: bool = False
    doubtful: bool = False
    finish: Callable[[MixtureNetwork], Finish] = _usual_finish
    weight_decay: Callable[[MixtureNetwork], float] | None = None
    judges: Tensor | None = field(init=False, default=None)
    keys: Tensor = field(init=False)

    def run(self, states: Sequence[dict[str, Tensor]] = ()) -> list[History]:
        """Train, weigh, finish; return what happened to each network.

        Parameters
        ----------
        states : sequence of dict
            The optimisers' states where an earlier run left them.
        """
        rows, held_out = self.split
        self.judges = None
        if self.repeats and held_out.shape[1]:
            self.keys = self._keys()
            new = self._new_rows(held_out, rows)
            # If few rows are new, all are as good as that.
            self.judges = new if int(new.sum(1).min()) >= _FEWEST_KEPT else None
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
        histories = self._end(descents, self.networks)
        if held_out.shape[1]:
            self.weigh()
            self._finish(histories)
        return histories

    def _keys(self) -> Tensor:
        """Return the numbers that tell rows of the table apart."""
        data = self.objective(self.networks[0])
        rows = torch.arange(len(data.y), device=data.y.device)
        return torch.cat([row_keys(data.x[part]) for part in rows.split(_N_KEYS)])

    def _new_rows(self, held_out: Tensor, rows: Tensor) -> Tensor:
        """Tell which held-out rows equal none of those that a member trains on."""
        pairs = zip(held_out, rows, strict=True)
        seen = [torch.isin(self.keys[a], self.keys[b]) for a, b in pairs]
        return ~torch.stack(seen)

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
        losses[0] -= self.race.favour
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
        if self.weight_decay is not None:
            settings = replace(settings, weight_decay=self.weight_decay(network))
        network.train().to(objective.y.dtype)
        network.set_trainable(True)
        by_hand = None
        if self.by_hand and self.closed_form.applies(network, objective.prior):
            by_hand = partial(self.closed_form, objective)
        return Descent(
            network.named_parameters(),
            objective.training_loss,
            partial(objective.held_out_loss, counts=self.judges),
            split,
            settings,
            self.generator,
            by_hand=by_hand,
            optimizer_state=state,
            on_epoch=on_epoch,
            on_step=objective.cool if cools else None,
        )

    def _end(
        self, descents: list[Descent], networks: list[MixtureNetwork]
    ) -> list[History]:
        """Leave the networks as predictions want them."""
        histories = [descent.end() for descent in descents]
        for network in networks:
            network.set_trainable(False)
            network.eval().double()
        return histories

    def weigh(self) -> None:
        """Weigh the views, set tails and width on the rows they have held out."""
        if self.levels:
            self.module.level(0.0)
        found = self._predictions(self.module, self.split[1], self.judges)
        shares = stacking_weights(found.log_prob(), found.weights)
        if self.levels:
            level, log_factor = found.level_and_spread(shares)
            self.module.level(level)
        else:
            log_factor = found.best_spread(shares, doubtful=self.doubtful)
        self.module.weigh(shares, log_factor)

    def _finish(self, histories: list[History]) -> None:
        """Train on, with most of the held-out rows, or learn what repeats by heart."""
        rows, held_out = self.split
        n_kept = round(_KEPT * held_out.shape[1])
        n_groups = min(_N_GROUPS, len(held_out))
        if n_kept * n_groups < _FEWEST_KEPT:
            return
        kept, released = held_out[:n_groups, :n_kept], held_out[:, n_kept:]
        everything = (torch.cat([rows, released], 1), held_out[:, :0])
        if self.judges is not None:
            new = self._new_rows(kept, everything[0][:n_groups])
            if min(int(new.sum()), int((~new).sum())) >= _FEWEST_OF_A_KIND:
                self._remember(kept, new, everything, histories[-1])
                return
        more = False
        for network, history in zip(self.networks, histories, strict=True):
            finish = self.finish(network)
            if self._is_late(history, finish.late):
                how = finish.passes, finish.rate
                self._train_on(network, everything, history, *how)
                more = True
        if more:
            self._set_width(kept)

    def _train_on(
        self,
        network: MixtureNetwork,
        split: tuple[Tensor, Tensor],
        history: History,
        share: float,
        rate: float,
    ) -> None:
        """Make a share of the passes in a history at a share of the rate."""
        settings = replace(
            self.settings,
            max_iter=max(1, round(share * len(history.loss))),
            learning_rate=rate * self.settings.learning_rate,
            decay=True,
        )
        descent = self._descent(network, split, settings)
        descent.run()
        (more,) = self._end([descent], [network])
        history.n_recoveries += more.n_recoveries
        history.gave_up |= more.gave_up

    def _set_width(self, kept: Tensor) -> None:
        """Set the width anew on rows that groups of members have kept held out."""
        shares = self.module.shares()
        found = self._predictions(self.module, kept)
        n_pseudo = 0.0 if self.doubtful else _PSEUDO_BEFORE
        log_factor = found.best_spread(shares, n_pseudo, doubtful=self.doubtful)
        self.module.weigh(shares, log_factor)

    def _remember(
        self,
        kept: Tensor,
        new: Tensor,
        split: tuple[Tensor, Tensor],
        history: History,
    ) -> None:
        """Have networks of the widest view learn rows by heart, for rows seen before.

        Of rows that are new and of those that were seen, the ones that are still held
        out say how much these networks count.
        """
        network = copy.deepcopy(self.networks[-1])
        self._train_on(network, split, history, _MEMORY_PASSES, _MEMORY_RATE)
        memory = MixtureEnsemble([network])
        memory.level(0.0)
        found = self._predictions(memory, kept, ~new)
        memory.weigh(memory.shares(), found.best_spread(memory.shares()))
        log_prob = torch.stack(
            [
                self._predictions(module, kept).pool(module.shares())
                for module in (memory, self.module)
            ]
        )
        weights = self._weights(kept)
        share, share_seen = (
            stacking_weights(log_prob, weights * kind.flatten())[0]
            for kind in (new, ~new)
        )
        self.module.join(memory, share, share_seen, self.keys.unique())

    def _is_late(self, history: History, late: float) -> bool:
        """Tell whether a view learned until late, so that more rows help it.

        One that began to overfit early was saved by the rows it held out.
        """
        assert history.best_epoch is not None
        latest = history.best_epoch.float().mean()
        return bool(latest >= late * history.max_iter)

    @torch.no_grad()
    def _predictions(
        self, module: MixtureEnsemble, groups: Tensor, judges: Tensor | None = None
    ) -> HeldOutPredictions:
        """Return what each group of members says of the rows it has held out.

        Members belong to the groups in turn. ``judges`` tells which rows count.
        """
        networks: list[Any] = list(module.networks)
        objectives = [self.objective(network) for network in networks]
        data, n_groups = objectives[0], len(groups)
        members = []
        for network, objective in zip(networks, objectives, strict=True):
            n_members = module.n_members()[0]
            every = groups.repeat(math.ceil(n_members / n_groups), 1)[:n_members]
            mixtures = network.of_rows(objective.x, every)
            members.append([mixtures[group::n_groups] for group in range(n_groups)])
        weights = self._weights(groups)
        return HeldOutPredictions(
            members,
            [self._judged(data, group) for group in groups],
            weights if judges is None else weights * judges.flatten(),
            min_scale=networks[0].head.min_scale,
        )

    def _weights(self, rows: Tensor) -> Tensor:
        """Return the weights of rows, end to end."""
        data = self.objective(self.networks[0])
        return data.weights[rows].flatten().double()

    def _judged(
        self, data: MixtureObjective, rows: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Return the ends by which held-out rows judge; cells, if they are rounded."""
        low, high = data.ends(rows)
        low, high = low.double(), None if high is None else high.double()
        if self.resolution is None:
            return low, high
        return cells(low, high, self.resolution)
