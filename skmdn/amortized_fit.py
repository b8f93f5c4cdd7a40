"""What is below an amortized posterior: coordinates, networks, training, answers."""

import copy
import math
from functools import partial

import numpy as np
import torch
from sklearn.base import MultiOutputMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from ._sklearn import _check_sample_weight
from .base import (
    ChosenRows,
    EpochReporter,
    Standardizer,
    TorchEstimator,
    resolve_device,
)
from .blocks import Block
from .bridge import StreamedRows, generator_from, mapped_tensor, to_numpy, to_tensor
from .composition import Composition
from .coordinates import Coordinates
from .covering import LinkedNormals, Normals
from .distribution import PredictiveDistribution
from .ensemble import EnsembleTraining, Race, split_for
from .families import MultivariateNormal, Transformed
from .items import item_standardizer, padded_items
from .mixture import Mixture
from .networks import MixtureEnsemble
from .penalty import MixturePrior
from .posterior_bound import BoundObjective
from .posterior_density import PosteriorDensity
from .posterior_gradient import PosteriorGradient
from .posterior_networks import (
    CorrelatedHead,
    DropoutMLP,
    Features,
    PosteriorNetwork,
    PosteriorObjective,
)
from .predictive import PredictiveQueries, row_chunks
from .simulated import (
    Outlyingness,
    Simulated,
    coordinates_of,
    filled_prior,
    to_coordinates,
    usable_rows,
)
from .summaries import summary_from
from .training import History, Settings

__all__ = ["AmortizedFit"]

# activation="auto": what is trained and raced. The link belongs to the activation: both
# are smooth, or both are scale-free.
_LINKS = {"relu": "softplus", "silu": "exp"}
_VIEWS = ("silu", "relu")
_RACE = Race(0.1, 0.0, 0.0)
_DROPOUT = {"relu": 0.05, "silu": 0.0}

# objective="mixed": what the bound counts beside the log score.
_BOUND_SHARE = 0.5

_RIDGE = 1.0
_AVERAGING = 0.995
_N_WARM_UP = 120
_MAX_STEPS = 6_000
_PATIENCE_STEPS = 600
# Without held-out rows nothing tells when to stop.
_STEPS_UNJUDGED = 300

# early_stopping="auto": fewer rows cannot spare any.
_MIN_ROWS_EARLY_STOPPING = 50

_SHAPING = (
    "prior",
    "density",
    "n_components",
    "summary",
    "hidden_layer_sizes",
    "activation",
    "n_estimators",
)


class AmortizedFit(PredictiveQueries, MultiOutputMixin, RegressorMixin, TorchEstimator):
    """Base of the estimator of posteriors: how simulations become a trained module.

    A subclass has the parameters of :class:`skmdn.AmortizedPosterior` and offers the
    public methods.
    """

    # Simulations.

    def _checked_rows(self, X, y, sample_weight, *, reset):
        """Return the simulations that can be used, or raise before anything changes."""
        streamed = isinstance(X, np.memmap)
        X, y = self._checked_arrays(X, y, reset=reset)
        if reset:
            self.n_outputs_ = 1 if y.ndim == 1 else y.shape[1]
            self._univariate = y.ndim == 1
        theta = self._columns(y)
        weights = _check_sample_weight(
            sample_weight, theta, dtype=np.float64, ensure_non_negative=True
        )
        if not weights.any():
            raise ValueError("sample_weight is zero for all rows: nothing to learn.")
        padded = self.summary is not None
        good, n_failed = usable_rows(X, theta, weights, padded=padded)
        if not good.all():
            X = ChosenRows(X, np.flatnonzero(good))
            theta, weights = theta[good], weights[good]
        if reset:
            self._prior = filled_prior(self.prior, theta, weights)
            self._coordinates = coordinates_of(self._prior, theta.shape[1])
            self.n_failed_ = 0
        self.n_failed_ += n_failed
        u = to_coordinates(theta, self._coordinates)
        return Simulated(X, u, weights, streamed)

    def _checked_arrays(self, X, y, *, reset):
        """Return data and parameters, either of which may have gaps."""
        settings = {"multi_output": True, "y_numeric": True, "ensure_min_samples": 2}
        if self.summary is None:
            X, y = validate_data(
                self,
                X,
                y,
                reset=reset,
                dtype=[np.float64, np.float32],
                ensure_all_finite=False,
                **settings,
            )
            return X, y.astype(np.float64, copy=False)
        items = self._items(X, reset=reset)
        y = check_array(
            y,
            ensure_2d=False,
            dtype=np.float64,
            ensure_all_finite=False,
            input_name="y",
        )
        if len(y) != len(items):
            raise ValueError(f"X has {len(items)} rows, but y has {len(y)}.")
        return items, y

    def _items(self, X, *, reset):
        """Return rows of items, padded by NaN."""
        items = padded_items(X)
        if reset:
            self.n_features_in_ = items.shape[2]
        elif items.shape[2] != self.n_features_in_:
            raise ValueError(
                f"Items of X have {items.shape[2]} feature(s), but those of fit had "
                f"{self.n_features_in_}."
            )
        return items

    def _columns(self, y):
        """Return parameters as ``(n_samples, n_outputs)``."""
        y = check_array(
            y,
            ensure_2d=False,
            dtype=np.float64,
            input_name="y",
            ensure_all_finite=False,
        )
        columns = y.reshape(len(y), -1)
        if y.ndim > 2 or columns.shape[1] != self.n_outputs_:
            raise ValueError(
                f"y has shape {y.shape}, but the estimator was fitted with "
                f"{self.n_outputs_} output(s)."
            )
        return columns

    def _checked_X(self, X, *, quietly=False):
        """Return observations that can be answered; warn of outlying ones if asked."""
        check_is_fitted(self, "module_")
        if self.summary is not None:
            X = self._items(X, reset=False)
        else:
            X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        if self.check_observations and not quietly:
            self._outlyingness.warn(self._summaries(X))
        return X

    # Networks.

    def _prepare(self, rows, *, keep, n_calls=0):
        """Make scalers and networks, unless those of an earlier fit are kept."""
        device = resolve_device(self.device)
        rng = check_random_state(self.random_state)
        if not isinstance(self.random_state, np.random.RandomState):
            rng.randint(2, size=n_calls)
        weight_source, generator = generator_from(rng), generator_from(rng, device)
        shape = {name: repr(getattr(self, name)) for name in _SHAPING}
        if keep:
            changed = [n for n in _SHAPING if shape[n] != self._shaped_by[n]]
            if changed:
                raise ValueError(
                    f"{', '.join(changed)} changed since the networks were made; fit "
                    "with warm_start=False to make new ones."
                )
            self.module_ = copy.deepcopy(self.module_).to(device)
            return generator
        self._shaped_by = shape
        if self.summary is None:
            self._x_scaler = Standardizer.fit(rows.X, rows.weights)
        else:
            self._x_scaler = item_standardizer(rows.X[:], rows.weights)
        self.module_ = self._networks(rows, weight_source).to(device)
        return generator

    def _networks(self, rows, generator):
        """Build a network for each kind of activation, at the linear regression."""
        sizes = np.atleast_1d(self.hidden_layer_sizes).tolist()
        if not all(isinstance(size, int) and size > 0 for size in sizes):
            raise ValueError(
                "hidden_layer_sizes must hold positive integers, got "
                f"{self.hidden_layer_sizes!r}."
            )
        views = _VIEWS if self.activation == "auto" else (self.activation,)
        networks = []
        for activation in views:
            block, n_summaries = self._block(rows, generator)
            trunk = DropoutMLP(
                self.n_estimators,
                n_summaries,
                sizes,
                activation,
                dropout=self._dropout(activation),
                generator=generator,
            )
            head = CorrelatedHead(
                self.n_estimators,
                trunk.n_out,
                n_summaries,
                self.n_outputs_,
                n_components=self.n_components,
                link=_LINKS[activation],
                generator=generator,
            )
            head.start(*self._line(rows, n_summaries), generator=generator)
            networks.append(PosteriorNetwork(block, trunk, head))
        return MixtureEnsemble(networks)

    def _block(self, rows, generator):
        """Return what comes before the trunk, and the number of its outputs."""
        summary = summary_from(self.summary)
        if summary is None:
            return Features(), rows.X.shape[1]
        block = summary.build(self.n_estimators, *rows.X.shape[1:], generator=generator)
        return block, block.n_out

    def _dropout(self, activation):
        """Return the share of units that is left out."""
        return _DROPOUT[activation] if self.dropout == "auto" else self.dropout

    def _line(self, rows, n_summaries):
        """Return intercept, slopes and residual deviations of a ridge regression.

        Of summaries that are yet to be learned, nothing is known: the slopes are 0.
        """
        share = rows.weights / rows.weights.sum()
        mean = share @ rows.u
        if self.summary is not None:
            spread = np.sqrt(np.maximum(share @ (rows.u - mean) ** 2, 1e-12))
            slopes = np.zeros((len(mean), n_summaries))
            return to_tensor(mean), to_tensor(slopes), to_tensor(spread)
        n_features = n_summaries
        gram, cross = np.zeros((n_features, n_features)), 0.0
        for part in row_chunks(len(rows)):
            x = self._x_scaler.transform(rows.X[part])
            weighted = x.T * share[part]
            gram += weighted @ x
            cross = cross + weighted @ (rows.u[part] - mean)
        gram += _RIDGE / rows.count() * np.eye(n_features)
        slopes = np.linalg.solve(gram, cross)
        square = np.zeros(rows.u.shape[1])
        for part in row_chunks(len(rows)):
            x = self._x_scaler.transform(rows.X[part])
            rest = rows.u[part] - mean - x @ slopes
            square += share[part] @ rest**2
        residual = np.sqrt(np.maximum(square, 1e-12))
        return to_tensor(mean), to_tensor(slopes.T), to_tensor(residual)

    # Training.

    def _settings(self, n_rows, *, one_pass=False):
        """Turn the parameters into the loop's settings."""
        batch_size = 200 if self.batch_size == "auto" else self.batch_size
        batch_size = min(batch_size, n_rows)
        n_steps = max(1, round((1.0 - self._hold_out(n_rows)) * n_rows / batch_size))
        max_iter, patience = self.max_iter, self.n_iter_no_change
        if one_pass:
            max_iter = 1
        elif max_iter == "auto":
            judged = self._hold_out(n_rows) or self.objective == "elbo"
            most = _MAX_STEPS if judged else _STEPS_UNJUDGED
            max_iter = math.ceil(most / n_steps)
        if patience == "auto":
            patience = math.ceil(_PATIENCE_STEPS / n_steps)
        return Settings(
            max_iter=max_iter,
            batch_size=batch_size,
            learning_rate=self.learning_rate_init,
            warm_up=0.0 if one_pass else min(0.5, _N_WARM_UP / (max_iter * n_steps)),
            decay=False,
            n_iter_no_change=patience,
            averaging=_AVERAGING,
        )

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
            y=rows.u,
            metadata={"sample_weight": rows.weights},
        )
        for network in self.module_.networks:
            # Nothing is left out where nothing tells when the networks memorise.
            trunk = network.trunk
            trunk.dropout = self._dropout(trunk.activation) if hold_out else 0.0
        device = next(self.module_.parameters()).device.type
        single = len(rows) >= _MIN_ROWS_EARLY_STOPPING
        training = EnsembleTraining(
            self.module_,
            self._objective(
                rows, torch.float32 if single else torch.float64, generator
            ),
            split_for(self.n_estimators, len(rows), hold_out, generator),
            settings,
            generator,
            by_hand=device == "cpu" and self.objective == "log_score",
            resolution=None,
            repeats=False,
            on_epoch=reporter,
            closed_form=PosteriorGradient,
            race=_RACE,
        )
        histories = training.run(states)
        reporter.finish()
        return History.joined(histories), [h.optimizer_state for h in histories]

    def _objective(self, rows, dtype, generator):
        """Return what makes the objective of a network."""
        settings = {
            **self._tensors(rows, dtype),
            "prior": MixturePrior(),
            "n_rows": len(rows),
            "log_scale": self._log_volume(rows),
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

    def _log_volume(self, rows):
        """Return the mean log volume of the parameters' own units."""
        log_jacobian = self._coordinates.log_jacobian(to_tensor(rows.u))
        return float(np.average(to_numpy(log_jacobian), weights=rows.weights))

    def _state(self):
        """Return a copy of what a prediction needs, in the middle of training."""
        module = copy.deepcopy(self.module_).eval().requires_grad_(False)
        return {"module_": module.double()}

    # Queries.

    def _distribution(self, X):
        """Return the posterior of every row."""
        mixture = behind_links(self._mixture(X), self._coordinates)
        layout = Composition(
            (mixture.blocks[0].family,), (tuple(range(self.n_components)),)
        )
        return PredictiveDistribution(mixture, self._univariate, layout=layout)

    def _measure_outlyingness(self, rows):
        """Remember how far out simulations are, to compare observations with."""
        chosen = Outlyingness.chosen(len(rows))
        self._outlyingness = Outlyingness.fit(self._summaries(rows.X[chosen]))

    def _mixture(self, X):
        """Return the ensemble's mixture in the coordinates, one per row."""
        device = next(self.module_.parameters()).device
        n_together = min(n.n_rows_together() for n in self.module_.networks)
        parts = []
        with torch.no_grad():
            for rows in row_chunks(len(X), n_together):
                x = self._x_scaler.transform(X[rows])
                x = to_tensor(x.reshape(len(x), -1), device=device)
                parts.append(self.module_(x).map(lambda t: t.cpu().double()))
        return parts[0] if len(parts) == 1 else Mixture.concatenate(parts)

    def _density(self, X):
        """Return the posterior of a single observation in the prior's coordinates."""
        mixture = self._mixture(X)[0]
        (block,) = mixture.blocks
        roots = torch.linalg.inv(block.params["precision_factor"])
        # The lower factor of the covariance.
        roots = torch.linalg.cholesky(roots @ roots.mT)
        normals = Normals(mixture.log_weights, block.params["mean"], roots)
        return PosteriorDensity(LinkedNormals(self._coordinates, normals))

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
        )
        training.weigh()

    def _forget(self):
        """Forget an earlier fit."""
        for name in ("module_", "loss_curve_", "n_iter_", "_optimizer_states"):
            if hasattr(self, name):
                delattr(self, name)

    def _summaries(self, X):
        """Return the features of observations, or what the first network makes of them."""
        network = self.module_.networks[0]
        device = next(network.parameters()).device
        parts = []
        with torch.no_grad():
            for rows in row_chunks(len(X), network.n_rows_together()):
                x = self._x_scaler.transform(X[rows])
                x = to_tensor(x.reshape(1, len(x), -1), device=device)
                shape = (self.n_estimators, *x.shape[1:])
                parts.append(to_numpy(network.block(x.expand(shape))[0]))
        return np.concatenate(parts)


def behind_links(mixture: Mixture, coordinates: Coordinates) -> Mixture:
    """Return the distribution of the parameters whose coordinates follow a mixture.

    Parameters
    ----------
    mixture : Mixture
        Correlated normals.
    coordinates : Coordinates
        From them to the parameters.
    """
    (block,) = mixture.blocks
    params = block.params
    inverse = torch.linalg.inv(coordinates.root)
    moved = {
        "mean": coordinates.linear(params["mean"]),
        "precision_factor": params["precision_factor"] @ inverse,
    }
    family = MultivariateNormal()
    if bool(coordinates.bounded.any()):
        low, high = coordinates.low.tolist(), coordinates.high.tolist()
        family = Transformed(family, tuple(low), tuple(high), "probit")
    return Mixture(mixture.log_weights, [Block(family, moved, block.n_components)])
