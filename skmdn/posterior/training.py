"""How the networks of an amortized posterior are trained, on all rows or by parts."""

import copy
import math
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from skmdn.base import EpochReporter
from skmdn.bridge import (
    StreamedRows,
    generator_from,
    mapped_tensor,
    to_numpy,
    to_tensor,
)
from skmdn.learning.ensemble import EnsembleTraining, Finish, Race, split_for
from skmdn.learning.penalty import MixturePrior
from skmdn.learning.training import History, Settings

from .bound import BoundObjective
from .fit import AmortizedFit
from .flows import FlowObjective, FlowTraining
from .gradient import PosteriorGradient
from .networks import PosteriorObjective
from .simulated import Outlyingness, spaced_rows

__all__ = ["AmortizedTraining"]

# The two kinds are told apart early, and nothing is passed on to the better one. Where
# it matters they are 0.1 nats apart; otherwise smooth networks are done sooner and make
# less noise.
_RACE = Race(share=0.05, behind=0.0, passed_on=0.0, favour=0.03)

# Steps scatter. Networks of summaries are too wide by what scatters unless the rate
# falls at last, however early they were best. Smooth networks need less of it.
_FINISH = {"relu": Finish(), "silu": Finish(late=0.0, passes=0.1)}
_FINISH_OF_SUMMARIES = Finish(late=0.0)

# objective="mixed": what the bound counts beside the log score.
_BOUND_SHARE = 0.5

_AVERAGING = 0.995
_N_WARM_UP = 120

# Smooth networks are done earlier.
_MAX_STEPS = 9_000
_PASSES = {"relu": 1.0, "silu": 0.48}

_PATIENCE_STEPS = 900
_LEAST_PATIENCE_STEPS = 120
_LEAST_PATIENCE_OF_SUMMARIES = 600

# Fewer simulations get smaller batches, and a third of the steps.
_FEW_ROWS = 4_000

# Without held-out rows nothing tells when to stop.
_STEPS_UNJUDGED = 300

# early_stopping="auto": fewer rows cannot spare any.
_MIN_ROWS_EARLY_STOPPING = 50


class AmortizedTraining(AmortizedFit):
    """Base of the estimator of posteriors: the loop, and what it leaves behind."""

    def _settings(self, n_rows, *, one_pass=False):
        """Turn the parameters into the loop's settings."""
        batch_size = self.batch_size
        if batch_size == "auto":
            batch_size = 100 if n_rows < _FEW_ROWS else 200
        batch_size = min(batch_size, n_rows)
        n_steps = max(1, round((1.0 - self._hold_out(n_rows)) * n_rows / batch_size))
        max_iter, patience, least = self.max_iter, self.n_iter_no_change, None
        if one_pass:
            max_iter = 1
        elif max_iter == "auto":
            judged = self._hold_out(n_rows) or self.objective == "elbo"
            most = _MAX_STEPS if judged else _STEPS_UNJUDGED
            if n_rows < _FEW_ROWS:
                most = min(most, _MAX_STEPS // 3)
            max_iter = math.ceil(most / n_steps)
        if patience == "auto":
            patience = math.ceil(_PATIENCE_STEPS / n_steps)
            # Networks that begin at a line may be done at once; summaries are not.
            steps = _LEAST_PATIENCE_STEPS
            if self.summary is not None:
                steps = _LEAST_PATIENCE_OF_SUMMARIES
            least = math.ceil(steps / n_steps)
        return Settings(
            max_iter=max_iter,
            batch_size=batch_size,
            learning_rate=self.learning_rate_init,
            warm_up=0.0,
            warm_up_steps=_N_WARM_UP,
            decay=False,
            n_iter_no_change=patience,
            least_patience=least,
            averaging=_AVERAGING,
        )

    def _passes(self):
        """Return which share of the passes the network of each kind makes."""
        kinds = [network.activation for network in self.module_.networks]
        auto = self.max_iter == "auto"
        return [_PASSES[kind] if auto else 1.0 for kind in kinds]

    def _finish(self, network):
        """Return how a network trains on with rows that were held out."""
        if self.summary is not None:
            return _FINISH_OF_SUMMARIES
        return _FINISH[network.activation]

    def _hold_out(self, n_rows):
        stops = self.early_stopping
        if self.objective == "elbo":
            # Held-out pairs judge another objective.
            return 0.0
        if stops == "auto":
            stops = n_rows >= _MIN_ROWS_EARLY_STOPPING
        return self.validation_fraction if stops else 0.0

    def _train(self, rows, generator, settings, *, hold_out=0.0, states=()):
        """Run the loop for every view and leave ``module_`` trained and frozen."""
        reporter = EpochReporter(
            self,
            settings.max_iter * len(self.module_.networks),
            self._state,
            X=rows.X,
            y=self._own_units(rows.u),
            metadata={"sample_weight": rows.weights},
        )
        for network in self.module_.networks:
            # Nothing is left out where nothing tells when the networks memorise.
            network.leave_out(self._dropout(network.activation) if hold_out else 0.0)
        single = len(rows) >= _MIN_ROWS_EARLY_STOPPING
        kind = EnsembleTraining if self.density == "mixture" else FlowTraining
        training = kind(
            self.module_,
            self._objective(
                rows, torch.float32 if single else torch.float64, generator
            ),
            split_for(self.n_estimators, len(rows), hold_out, generator),
            settings,
            generator,
            by_hand=self._by_hand(),
            resolution=None,
            repeats=False,
            on_epoch=reporter,
            closed_form=PosteriorGradient,
            race=_RACE,
            passes=self._passes(),
            doubtful=True,
            finish=self._finish,
        )
        histories = training.run(states)
        reporter.finish()
        return History.joined(histories), [h.optimizer_state for h in histories]

    def _by_hand(self):
        """Tell whether there are gradients in closed form."""
        device = next(self.module_.parameters()).device.type
        plain = self.density == "mixture" and self.objective == "log_score"
        return plain and device == "cpu"

    def _objective(self, rows, dtype, generator):
        """Return what makes the objective of a network."""
        settings = {
            **self._tensors(rows, dtype),
            "log_scale": self._log_volume(rows),
        }
        if self.density != "mixture":
            return partial(FlowObjective, **settings)
        settings |= {
            "prior": MixturePrior(),
            "n_rows": len(rows),
            "x_noise": 0.0,
            "y_noise": 0.0,
            "generator": generator,
        }
        if self.objective == "log_score":
            return partial(PosteriorObjective, **settings)
        device = next(self.module_.parameters()).device
        return partial(
            BoundObjective,
            **settings,
            potential=self.potential,
            coordinates=self._coordinates.map(lambda t: t.to(device)),
            data=StreamedRows(rows.X, lambda part: part, device=device),
            share=1.0 if self.objective == "elbo" else _BOUND_SHARE,
        )

    def _tensors(self, rows, dtype):
        """Return standardised data, coordinates and weights."""
        device = next(self.module_.parameters()).device
        kind = {"dtype": dtype, "device": device}
        x_class = StreamedRows if rows.streamed else mapped_tensor
        return {
            "x": x_class(rows.X, self._x_scaler.transform, **kind),
            "y": to_tensor(rows.u, **kind),
            "weights": to_tensor(rows.weights / rows.weights.mean(), **kind),
        }

    def _own_units(self, u):
        """Return parameters in the form of the y of fit."""
        theta = to_numpy(self._coordinates.forward(to_tensor(u)))
        return theta[:, 0] if self._univariate else theta

    def _log_volume(self, rows):
        """Return the mean log volume of the parameters' own units."""
        log_jacobian = self._coordinates.log_jacobian(to_tensor(rows.u))
        return float(np.average(to_numpy(log_jacobian), weights=rows.weights))

    def _state(self):
        """Return a copy of what a prediction needs, in the middle of training."""
        module = copy.deepcopy(self.module_).eval().requires_grad_(False)
        return {"module_": module.double()}

    def _measure_outlyingness(self, rows):
        """Remember how far out simulations are, to compare observations with."""
        chosen = spaced_rows(len(rows))
        self._outlyingness = Outlyingness.fit(self._summaries(rows.X[chosen]))

    def _weigh(self, rows):
        """Weigh the networks by simulations that none of them has seen."""
        n_rows = torch.arange(len(rows)).expand(self.n_estimators, -1)
        training = EnsembleTraining(
            self.module_,
            self._objective(rows, torch.float64, generator_from(0)),
            (n_rows[:, :0], n_rows),
            self._settings(len(rows), one_pass=True),
            generator_from(0),
            by_hand=False,
            resolution=None,
            repeats=False,
            doubtful=True,
        )
        training.weigh()

    def _forget(self):
        """Forget an earlier fit."""
        for name in ("module_", "loss_curve_", "n_iter_", "_optimizer_states"):
            if hasattr(self, name):
                delattr(self, name)

    def _pass(self, X, y, sample_weight, rate):
        """Make one pass and keep what the next one needs."""
        goes_on = hasattr(self, "module_")
        rows = self._checked_rows(X, y, sample_weight, reset=not goes_on)
        n_calls = getattr(self, "n_iter_", 0)
        generator = self._prepare(rows, keep=goes_on, n_calls=n_calls)
        settings = self._settings(len(rows), one_pass=True)
        history, states = self._train(
            rows,
            generator,
            replace(settings, learning_rate=rate),
            states=getattr(self, "_optimizer_states", ()),
        )
        self._measure_outlyingness(rows)
        self._keep(history, getattr(self, "loss_curve_", []))
        self._optimizer_states = states
        return history

    def _keep(self, history, before):
        """Set what a user may want to know of a training."""
        self.loss_curve_ = [*before, *history.loss]
        self.validation_loss_curve_ = history.held_out or None
        self.best_validation_loss_ = None
        if history.best is not None:
            self.best_validation_loss_ = float(history.best.mean())
        self.n_iter_ = len(self.loss_curve_)

    def _check_objective(self):
        """Refuse an objective that lacks its potential."""
        if self.objective != "log_score" and self.density != "mixture":
            raise ValueError(
                f"objective={self.objective!r} needs density='mixture', got "
                f"{self.density!r}: flows learn from simulated pairs only."
            )
        if self.objective != "log_score" and self.potential is None:
            raise ValueError(
                f"objective={self.objective!r} needs potential, a function of "
                "parameters and data that returns the log joint density."
            )
        if self.objective != "log_score" and self.summary is not None:
            raise ValueError(f"objective={self.objective!r} allows no summary.")
