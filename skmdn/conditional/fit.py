"""What the estimators of a conditional mixture share: rows, networks, training."""

import copy
import math
from functools import partial

import numpy as np
import torch
from sklearn.base import MultiOutputMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from skmdn._sklearn import _check_sample_weight
from skmdn.base import (
    ChosenRows,
    EpochReporter,
    Standardizer,
    TorchEstimator,
    repeated_share,
    resolve_device,
)
from skmdn.bridge import StreamedRows, generator_from, mapped_tensor, to_tensor
from skmdn.composition import Composition
from skmdn.distribution import PredictiveDistribution
from skmdn.learning.closed_form import ClosedFormGradient
from skmdn.learning.ensemble import EnsembleTraining, split_for
from skmdn.learning.networks import MLP, MixtureEnsemble, MixtureHead, MixtureNetwork
from skmdn.learning.objectives import MixtureObjective
from skmdn.learning.penalty import MixturePrior, start_and_end
from skmdn.learning.training import History, Settings
from skmdn.mixture import Mixture
from skmdn.predictive import PredictiveQueries, row_chunks
from skmdn.queries.blocks import Block
from skmdn.supports import Support

from .rows import Rows, feature_types
from .targets import (
    Targets,
    check_intervals,
    check_support,
    column_spreads,
    found_resolution,
    log_volume,
    marginal_components,
    read_targets,
    rowwise_log_likelihood,
    target_units,
)
from .views import usual_decay, views_for

__all__ = ["ConditionalMixture", "Rows"]

# min_scale="auto": a share of the target's standard deviation.
_MIN_SCALE = 1e-3

# max_iter="auto": passes, within bounds on the number of steps; and passes where no
# rows are held out.
_PASSES = 36
_STEPS = (1_300, 6_000)
# Where this share of the rows occurs again, they are worth remembering.
_REPEATED = 0.1
_PASSES_FEW_ROWS = 200

# Parameters that shape the networks: they cannot change while a fit goes on.
_SHAPING = (
    "n_components",
    "family",
    "covariance_type",
    "hidden_layer_sizes",
    "activation",
    "embedding",
    "n_estimators",
    "temperature",
    "min_scale",
    "support",
)

# early_stopping="auto": fewer rows cannot spare any for validation.
_MIN_ROWS_EARLY_STOPPING = 50


class ConditionalMixture(
    PredictiveQueries, MultiOutputMixin, RegressorMixin, TorchEstimator
):
    """Base of the estimators whose networks map features to mixtures.

    A subclass has the parameters of :class:`skmdn.MixtureDensityRegressor` and
    offers the public methods; this class knows how rows become a trained module
    and how a trained module answers.
    """

    def _needs_positive_targets(self):
        """Tell whether no component allows -1; tags are read before parameters are.

        Parameters that cannot be used are refused by fit, not here.
        """
        try:
            support = Support.parse(self.support, 1)
            return Composition.make(self.family, 1).onto(support).positive
        except (TypeError, ValueError):
            return False

    def _made_composition(self, n_outputs):
        """Return the support and the components that the user sees."""
        support = Support.parse(self.support, n_outputs)
        made = Composition.make(self.family, self.n_components, self.covariance_type)
        return support, made.onto(support)

    def _goes_on(self):
        """Tell whether fit continues an earlier one."""
        return self.warm_start and hasattr(self, "module_")

    def _checked_rows(self, X, y, y_upper, sample_weight, *, reset):
        """Return the rows that count, or raise before anything is changed."""
        streamed = isinstance(X, np.memmap)
        y, targets = read_targets(y, y_upper)
        X, y = validate_data(
            self,
            X,
            y,
            reset=reset,
            dtype=feature_types(X),
            multi_output=True,
            y_numeric=True,
            ensure_min_samples=2,
        )
        y = y.astype(np.float64, copy=False)
        weights = _check_sample_weight(
            sample_weight, X, dtype=np.float64, ensure_non_negative=True
        )
        if not weights.any():
            raise ValueError("sample_weight is zero for all rows: nothing to learn.")
        if reset:
            self.n_outputs_ = 1 if y.ndim == 1 else y.shape[1]
            self._univariate = y.ndim == 1
        else:
            y = self._columns(y)
        if targets is None:
            targets = Targets(y.reshape(len(y), -1))
        counts = weights > 0.0
        if not counts.all():
            X = ChosenRows(X, np.flatnonzero(counts))
            targets, weights = targets.take(counts), weights[counts]
        return Rows(X, targets, weights, streamed)

    def _checked_X(self, X):
        check_is_fitted(self, "module_")
        return validate_data(self, X, reset=False, dtype=feature_types(X))

    def _checked_targets(self, y, y_upper):
        """Return targets in the form of those of fit."""
        y, targets = read_targets(y, y_upper)
        columns = self._columns(y)
        targets = Targets(columns) if targets is None else targets
        self._check_intervals(targets)
        return targets

    def _columns(self, y):
        """Return numbers as ``(n_samples, n_outputs)``."""
        y = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
        columns = y.reshape(len(y), -1)
        if y.ndim > 2 or columns.shape[1] != self.n_outputs_:
            raise ValueError(
                f"y has shape {y.shape}, but the estimator was fitted with "
                f"{self.n_outputs_} output(s)."
            )
        return columns

    def _prepare(self, rows, *, keep, hold_out=0.0, n_calls=0):
        """Make scalers and networks, unless those of an earlier fit are kept.

        ``hold_out`` tells whether there will be rows to choose views by; ``n_calls``
        earlier calls have used up as many seeds.
        """
        device = resolve_device(self.device)
        rng = check_random_state(self.random_state)
        if not isinstance(self.random_state, np.random.RandomState):
            rng.randint(2, size=n_calls)
        # Initial weights are drawn on the CPU: the same for every device. A fit that
        # goes on draws as well, so that it holds out the rows of the first.
        weight_source, generator = generator_from(rng), generator_from(rng, device)
        shape = {name: repr(getattr(self, name)) for name in _SHAPING}
        _, end = start_and_end(self.temperature)
        shape["temperature"] = repr(end)
        if keep:
            changed = [n for n in _SHAPING if shape[n] != self._shaped_by[n]]
            if changed:
                raise ValueError(
                    f"{', '.join(changed)} changed since the networks were made; fit "
                    "with warm_start=False to make new ones."
                )
            self.module_ = copy.deepcopy(self.module_).to(device)
            self.module_.forget_joined()
            self._check_support(rows.y)
            if self.resolution != "auto":
                self.resolution_ = found_resolution(
                    self.resolution, rows.y, self._composition
                )
            return generator
        self._x_scaler = Standardizer.fit(rows.X, rows.weights)
        self._support, self._composition = self._made_composition(self.n_outputs_)
        self._check_support(rows.y)
        inner, line = self._composition.inner, rows.on_the_line(self._support)
        values = line.y.values(inner)
        self._y_scaler = target_units(values, rows.weights, inner)
        self._spread = None
        if inner.units == "none":
            self._spread = column_spreads(values, rows.weights)
        self._repeats = repeated_share(rows.X) > _REPEATED
        self.resolution_ = found_resolution(self.resolution, rows.y, self._composition)
        self._shaped_by, self._end_temperature = shape, end
        networks = self._networks(line, weight_source, held_out=hold_out > 0.0)
        self.module_ = networks.to(device)
        return generator

    def _networks(self, rows, generator, *, held_out):
        """Build one network for each view, at the marginal mixture of y."""
        units, inner = self._y_scaler, self._composition.inner
        composition = inner.in_units(
            tuple(units.scale.tolist()), tuple(units.mean.tolist())
        )
        start = marginal_components(rows.y.values(inner), rows.weights, inner, units)
        networks = []
        for view in views_for(self.embedding, *rows.X.shape, held_out):
            block = view.input_block(
                self.n_estimators, rows.X, rows.weights, self._x_scaler, generator
            )
            trunk = MLP(
                self.n_estimators,
                block.n_out,
                self._layer_sizes(view, len(rows.y)),
                self.activation,
                generator=generator,
            )
            head = MixtureHead(
                self.n_estimators,
                trunk.n_out,
                self.n_outputs_,
                composition,
                min_scale=self._min_scale(),
                temperature=self._end_temperature,
                generator=generator,
            )
            head.start(*map(to_tensor, start))
            networks.append(MixtureNetwork(block, trunk, head))
        return MixtureEnsemble(networks)

    def _layer_sizes(self, view, n_rows):
        """Return the widths of a view's hidden layers."""
        if isinstance(self.hidden_layer_sizes, str):
            return view.hidden_layer_sizes(n_rows)
        sizes = np.atleast_1d(self.hidden_layer_sizes).tolist()
        if not all(isinstance(size, int) and size > 0 for size in sizes):
            raise ValueError(
                "hidden_layer_sizes must hold positive integers, got "
                f"{self.hidden_layer_sizes!r}."
            )
        return sizes

    def _settings(self, rows, *, one_pass=False):
        """Turn the parameters into the loop's settings."""
        n_rows = len(rows.y)
        batch_size = self.batch_size
        if batch_size == "auto":
            batch_size = 64 if n_rows < 2_000 else 128 if n_rows < 20_000 else 256
        batch_size = min(batch_size, n_rows)
        patience = self.n_iter_no_change
        patience = None if patience == "auto" else patience
        max_iter = self.max_iter
        if one_pass:
            max_iter = 1
        elif max_iter == "auto":
            max_iter = self._n_passes(rows, batch_size)
        return Settings(
            max_iter=max_iter,
            batch_size=batch_size,
            learning_rate=self.learning_rate_init,
            warm_up=0.0 if one_pass else 0.1,
            decay=not one_pass,
            n_iter_no_change=patience,
            tol=self.tol,
        )

    def _decay_of(self, network, *, held_out):
        """Return the weight decay of a network."""
        if isinstance(self.weight_decay, str):
            return usual_decay(network, held_out)
        return self.weight_decay

    def _n_passes(self, rows, batch_size):
        """Return the passes of ``max_iter="auto"``."""
        n_rows = len(rows.y)
        if not self._held_out_share(n_rows):
            return _PASSES_FEW_ROWS
        fewest, most = _STEPS
        n_steps = max(_PASSES * n_rows / batch_size, fewest)
        return math.ceil(min(n_steps, most) * batch_size / n_rows)

    def _min_scale(self):
        share = _MIN_SCALE if self.min_scale == "auto" else self.min_scale
        return share if self._spread is None else share * float(self._spread.min())

    def _prior(self):
        """Return the prior beside the rows seen; its unit is the target's spread."""
        return MixturePrior.make(
            self.weights_prior,
            self.scales_prior,
            self._composition,
            self._n_seen,
            units=None if self._spread is None else self._spread.tolist(),
            device=next(self.module_.parameters()).device,
            rounded=self.resolution_ > 0.0,
        )

    def _check_support(self, targets):
        """Refuse targets that no component allows, before anything is made."""
        if self.y_noise and any(f.discrete for f in self._composition.families):
            raise ValueError(
                f"y_noise={self.y_noise!r} would move targets off the points of a "
                f"discrete family; family={self.family!r} needs y_noise=0."
            )
        check_support(targets, self._composition, self.family, self._univariate)
        self._check_intervals(targets, self.resolution)

    def _check_intervals(self, targets, resolution=None):
        check_intervals(
            targets, self._composition, self.covariance_type, resolution=resolution
        )

    def _held_out_share(self, n_rows):
        stops = self.early_stopping
        if stops == "auto":
            stops = n_rows >= _MIN_ROWS_EARLY_STOPPING
        return self.validation_fraction if stops else 0.0

    def _train(
        self,
        rows,
        generator,
        settings,
        *,
        hold_out=0.0,
        n_seen=0.0,
        states=(),
        cools=False,
    ):
        """Run the loop for every view and leave ``module_`` trained and frozen.

        The prior counts once for these rows and ``n_seen`` earlier ones together.
        ``cools`` tells whether the temperature begins where the user wants it.
        """
        self._n_seen = n_seen + rows.count()
        networks = self.module_.networks
        reporter = EpochReporter(
            self,
            settings.max_iter * len(networks),
            self._state,
            X=rows.X,
            y=rows.y.lower,
            metadata={"sample_weight": rows.weights} | rows.y.metadata(),
        )
        rows = rows.on_the_line(self._support)
        # Held-out rows choose the state, so that rounding errors do no harm.
        by_hand = rows.y.plain and not (self.x_noise or self.y_noise)
        prior = self._prior()
        standard = all(ClosedFormGradient.applies(net, prior) for net in networks)
        single = bool(hold_out and standard and by_hand)
        data = self._tensors(rows, torch.float32 if single else torch.float64)
        self._log_scale = rows.log_slope(self._support) + log_volume(
            rows.y, rows.weights, self._y_scaler, self._composition.inner
        )
        resolution = None
        # On the line cells have no common width.
        if self.resolution_ and not self._support.bounded:
            width = self.resolution_ / np.abs(self._y_scaler.scale)
            resolution = to_tensor(width, device=data[1].device)
        start, end = start_and_end(self.temperature)
        objective = partial(
            self._objective,
            data=data,
            prior=prior,
            generator=generator,
            heat=start / end if cools else 1.0,
        )
        training = EnsembleTraining(
            self.module_,
            objective,
            split_for(self.n_estimators, len(rows.y), hold_out, generator),
            settings,
            generator,
            by_hand=by_hand,
            resolution=resolution,
            repeats=self._repeats,
            on_epoch=reporter,
            # A prior on the weights says what becomes of small ones.
            levels=self.weights_prior is None,
            weight_decay=partial(self._decay_of, held_out=hold_out > 0.0),
        )
        histories = training.run(states)
        reporter.finish()
        return History.joined(histories), [h.optimizer_state for h in histories]

    def _tensors(self, rows, dtype):
        """Return standardised features, lower ends, weights and upper ends."""
        device = next(self.module_.parameters()).device
        x_class = StreamedRows if rows.streamed else mapped_tensor
        x = x_class(rows.X, self._x_scaler.transform, dtype=dtype, device=device)
        low, high = rows.y.tensors(self._y_scaler, dtype=dtype, device=device)
        # Equal weights are exactly 1 in every precision.
        mean = rows.weights.mean()
        weights = mapped_tensor(
            rows.weights, lambda part: part / mean, dtype=dtype, device=device
        )
        return x, low, weights, high

    def _objective(self, network, data, **kwargs):
        *known, upper = data
        return MixtureObjective(
            network,
            *known,
            upper=upper,
            n_rows=self._n_seen,
            log_scale=self._log_scale,
            x_noise=self.x_noise,
            y_noise=self.y_noise,
            **kwargs,
        )

    def _state(self):
        """Return a copy of what a prediction needs, in the middle of training."""
        module = copy.deepcopy(self.module_).eval().requires_grad_(False)
        return {"module_": module.double()}

    def _mixture(self, X: np.ndarray, temperature: float = 1.0) -> Mixture:
        """Return the ensemble's mixture in the units of y, one per row."""
        device = next(self.module_.parameters()).device
        parts = []
        with torch.no_grad():
            for rows in row_chunks(len(X), self._n_rows_together()):
                x = to_tensor(self._x_scaler.transform(X[rows]), device=device)
                parts.append(
                    self.module_(x, temperature).map(lambda t: t.cpu().double())
                )
        mixture = parts[0] if len(parts) == 1 else Mixture.concatenate(parts)
        if self._composition.inner.units != "none":
            mixture = mixture.affine(
                to_tensor(self._y_scaler.scale), to_tensor(self._y_scaler.mean)
            )
        blocks = [
            Block(family, family.pinned(block.params), block.n_components)
            for family, block in zip(
                self._composition.families, mixture.blocks, strict=True
            )
        ]
        return Mixture(mixture.log_weights, blocks)

    def _log_likelihood(self, X: np.ndarray, targets: Targets) -> np.ndarray:
        """Return the log-likelihood of each row, by cells if there is a resolution."""
        parts = [
            rowwise_log_likelihood(
                self._mixture(X[rows]), targets.take(rows), self.resolution_
            )
            for rows in row_chunks(len(X))
        ]
        return np.concatenate(parts)

    def _distribution(
        self, X: np.ndarray, temperature: float | None = None
    ) -> PredictiveDistribution:
        """Return the distribution, at the temperature of the fit or another one."""
        relative = 1.0
        if temperature is not None:
            if not temperature > 0.0:
                raise ValueError(f"temperature must be positive, got {temperature!r}.")
            relative = temperature / self._end_temperature
        return PredictiveDistribution(
            self._mixture(X, relative), self._univariate, layout=self._composition
        )

    def _n_rows_together(self) -> int:
        return min(network.n_rows_together() for network in self.module_.networks)
