"""What is below an amortized posterior: simulations, coordinates, networks, training."""

import copy
import math
import warnings
from dataclasses import dataclass
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
from .distribution import PredictiveDistribution
from .ensemble import EnsembleTraining, split_for
from .families import MultivariateNormal, Transformed
from .mixture import Mixture
from .networks import MixtureEnsemble
from .parameter_space import ParameterSpace
from .penalty import MixturePrior
from .posterior_gradient import PosteriorGradient
from .posterior_networks import (
    CorrelatedHead,
    DropoutMLP,
    Features,
    PosteriorNetwork,
    PosteriorObjective,
)
from .predictive import PredictiveQueries, row_chunks
from .training import History, Settings

__all__ = ["AmortizedFit", "Simulated"]

# A table of so few rows holds data: a NaN there is an error, not a failed simulation.
_FEWEST_ROWS = 20

# activation="auto": the networks that are trained and weighed against each other. The
# link belongs to the activation: both kinds are scale-free, or both are smooth.
_LINKS = {"relu": "softplus", "silu": "exp"}
_VIEWS = ("silu", "relu")

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


@dataclass(frozen=True)
class Simulated:
    """Simulations as arrays: data, coordinates of parameters, positive weights."""

    X: "np.ndarray | ChosenRows"
    u: np.ndarray
    weights: np.ndarray
    streamed: bool

    def __len__(self) -> int:
        return len(self.u)

    def count(self) -> float:
        """Return how many rows these are worth, weights below 1 counted as 1."""
        return max(float(self.weights.sum()), float(len(self.weights)))


class AmortizedFit(PredictiveQueries, MultiOutputMixin, RegressorMixin, TorchEstimator):
    """Base of the estimator of posteriors: how simulations become a trained module.

    A subclass has the parameters of :class:`skmdn.AmortizedPosterior` and offers the
    public methods.
    """

    # Simulations.

    def _checked_rows(self, X, y, sample_weight, *, reset):
        """Return the simulations that can be used, or raise before anything changes."""
        streamed = isinstance(X, np.memmap)
        X, y = validate_data(
            self,
            X,
            y,
            reset=reset,
            dtype=[np.float64, np.float32],
            multi_output=True,
            y_numeric=True,
            ensure_all_finite=False,
            ensure_min_samples=2,
        )
        y = y.astype(np.float64, copy=False)
        if reset:
            self.n_outputs_ = 1 if y.ndim == 1 else y.shape[1]
            self._univariate = y.ndim == 1
        theta = self._columns(y)
        weights = _check_sample_weight(
            sample_weight, X, dtype=np.float64, ensure_non_negative=True
        )
        if not weights.any():
            raise ValueError("sample_weight is zero for all rows: nothing to learn.")
        finite = _finite_rows(X) & _finite_rows(theta)
        n_failed = int(np.sum(~finite & (weights > 0)))
        good = finite & (weights > 0)
        if n_failed:
            self._refuse_or_warn(n_failed, int(good.sum()), len(X))
        if not good.all():
            X = ChosenRows(X, np.flatnonzero(good))
            theta, weights = theta[good], weights[good]
        if reset:
            self._coordinates = self._made_coordinates(theta, weights)
            self.n_failed_ = 0
        self.n_failed_ += n_failed
        return Simulated(X, self._to_coordinates(theta), weights, streamed)

    def _refuse_or_warn(self, n_failed, n_left, n_rows):
        """Tell that simulations failed; a small table with gaps is an error."""
        if n_left < _FEWEST_ROWS:
            raise ValueError(
                f"X or y contains NaN or infinity in {n_failed} of {n_rows} rows; "
                f"fewer than {_FEWEST_ROWS} simulations are left."
            )
        warnings.warn(
            f"{n_failed} of {n_rows} simulations contain NaN or infinity and are left "
            "out: the posterior is that given that a simulation succeeds.",
            UserWarning,
            stacklevel=4,
        )

    def _made_coordinates(self, theta, weights):
        """Return coordinates in which the prior is about standard normal."""
        moments = Standardizer.fit(theta, weights)
        if self.prior is None:
            end = torch.full((theta.shape[1],), math.inf, dtype=torch.float64)
            shift, scale = to_tensor(moments.mean), to_tensor(moments.scale)
            return Coordinates(-end, end, shift, torch.diag(scale))
        space = ParameterSpace.parse(self.prior)
        if space.n_features != theta.shape[1]:
            raise ValueError(
                f"prior describes {space.n_features} parameter(s), but y has "
                f"{theta.shape[1]} column(s)."
            )
        return space.coordinates

    def _to_coordinates(self, theta):
        """Return u; parameters outside of the prior's support are refused."""
        coordinates = self._coordinates
        low, high = to_numpy(coordinates.low), to_numpy(coordinates.high)
        outside = ((theta < low) | (theta > high)).any(axis=1)
        if outside.any():
            raise ValueError(
                f"{outside.sum()} rows of y lie outside of the prior's support, for "
                f"example {theta[outside][0].tolist()}."
            )
        # On an end: as far out as floating-point numbers go.
        inner = np.clip(theta, np.nextafter(low, high), np.nextafter(high, low))
        return to_numpy(coordinates.inverse(to_tensor(inner)))

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

    def _checked_X(self, X):
        check_is_fitted(self, "module_")
        return validate_data(self, X, reset=False, dtype=[np.float64, np.float32])

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
        self._x_scaler = Standardizer.fit(rows.X, rows.weights)
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
        line = self._line(rows)
        views = _VIEWS if self.activation == "auto" else (self.activation,)
        networks = []
        for activation in views:
            trunk = DropoutMLP(
                self.n_estimators,
                rows.X.shape[1],
                sizes,
                activation,
                dropout=self.dropout,
                generator=generator,
            )
            head = CorrelatedHead(
                self.n_estimators,
                trunk.n_out,
                rows.X.shape[1],
                self.n_outputs_,
                n_components=self.n_components,
                link=_LINKS.get(activation, "exp"),
                generator=generator,
            )
            head.start(*line, generator=generator)
            networks.append(PosteriorNetwork(Features(), trunk, head))
        return MixtureEnsemble(networks)

    def _line(self, rows):
        """Return intercept, slopes and residual deviations of a ridge regression."""
        n_features = rows.X.shape[1]
        share = rows.weights / rows.weights.sum()
        mean = share @ rows.u
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
            most = _MAX_STEPS if self._hold_out(n_rows) else _STEPS_UNJUDGED
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
            network.trunk.dropout = self.dropout if hold_out else 0.0
        device = next(self.module_.parameters()).device.type
        single = len(rows) >= _MIN_ROWS_EARLY_STOPPING
        training = EnsembleTraining(
            self.module_,
            partial(
                PosteriorObjective,
                **self._tensors(rows, torch.float32 if single else torch.float64),
                prior=MixturePrior(),
                n_rows=len(rows),
                log_scale=self._log_volume(rows),
                x_noise=0.0,
                y_noise=0.0,
                generator=generator,
            ),
            split_for(self.n_estimators, len(rows), hold_out, generator),
            settings,
            generator,
            by_hand=device == "cpu",
            resolution=None,
            repeats=False,
            on_epoch=reporter,
            closed_form=PosteriorGradient,
        )
        histories = training.run(states)
        reporter.finish()
        return History.joined(histories), [h.optimizer_state for h in histories]

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
        mixture = self._mixture(X)
        layout = Composition(
            (mixture.blocks[0].family,), (tuple(range(self.n_components)),)
        )
        return PredictiveDistribution(mixture, self._univariate, layout=layout)

    def _mixture(self, X):
        """Return the ensemble's mixture in the units of y, one per row."""
        device = next(self.module_.parameters()).device
        n_together = min(n.n_rows_together() for n in self.module_.networks)
        parts = []
        with torch.no_grad():
            for rows in row_chunks(len(X), n_together):
                x = to_tensor(self._x_scaler.transform(X[rows]), device=device)
                parts.append(self.module_(x).map(lambda t: t.cpu().double()))
        mixture = parts[0] if len(parts) == 1 else Mixture.concatenate(parts)
        return behind_links(mixture, self._coordinates)


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


def _finite_rows(values):
    """Tell which rows are finite, some of them at a time."""
    parts = [np.isfinite(values[part]) for part in row_chunks(len(values))]
    return np.concatenate([part.reshape(len(part), -1).all(axis=1) for part in parts])
