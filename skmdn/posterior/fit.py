"""What is below an amortized posterior: coordinates, networks, training, answers."""

import copy

import numpy as np
import torch
from sklearn.base import MultiOutputMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from skmdn._sklearn import _check_sample_weight
from skmdn.base import ChosenRows, TorchEstimator, resolve_device
from skmdn.bridge import cpu_copy, generator_from, to_numpy, to_tensor
from skmdn.composition import Composition
from skmdn.coordinates import Coordinates
from skmdn.covering import LinkedNormals, Normals
from skmdn.distribution import PredictiveDistribution
from skmdn.exports import to_arviz
from skmdn.families import MultivariateNormal, Transformed
from skmdn.items import padded_items
from skmdn.learning.networks import MixtureEnsemble
from skmdn.mixture import Mixture
from skmdn.posterior_density import PosteriorDensity
from skmdn.predictive import PredictiveQueries, row_chunks
from skmdn.queries.blocks import Block
from skmdn.summaries import summary_from

from .drawn import DrawnPosteriors, OneDrawnPosterior
from .flows import FlowEnsemble, FlowNetwork, flow_units
from .linked_line import LinkedFeatures, ridge, scale_regression
from .networks import CorrelatedHead, DropoutMLP, Features, PosteriorNetwork
from .simulated import (
    DataScaler,
    Simulated,
    coordinates_of,
    filled_prior,
    spaced_rows,
    to_coordinates,
    usable_rows,
)

__all__ = ["AmortizedFit"]

# activation="auto": what is trained and raced. The link belongs to the activation: both
# are smooth, or both are scale-free.
_LINKS = {"relu": "softplus", "silu": "exp"}
_VIEWS = ("silu", "relu")
_DROPOUT = {"relu": 0.05, "silu": 0.0}

# What the widest tensor of a pass of summaries may hold.
_SUMMARY_NUMBERS = 2**20

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
        items = self._items(X, reset=reset, failed=True)
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

    def _items(self, X, *, reset, failed=False):
        """Return rows of items, padded by NaN; perhaps also of failed simulations."""
        items = padded_items(X, failed=failed)
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
        self._x_scaler = self._made_scaler(rows)
        self.module_ = self._networks(rows, weight_source).to(device)
        return generator

    def _made_scaler(self, rows):
        """Measure the data, of padded rows the items that are real."""
        if self.summary is None:
            theta = to_numpy(self._coordinates.forward(to_tensor(rows.u)))
            return LinkedFeatures.fit(
                rows.X, theta, rows.u, rows.weights, self._coordinates
            )
        items = rows.X[:]
        real = ~np.isnan(items[..., 0])
        if not real.any():
            raise ValueError("No row of X has any item.")
        return DataScaler.fit(items[real], np.repeat(rows.weights, real.sum(axis=1)))

    def _networks(self, rows, generator):
        """Build a network for each kind of activation, at the linear regression."""
        sizes = np.atleast_1d(self.hidden_layer_sizes).tolist()
        if not all(isinstance(size, int) and size > 0 for size in sizes):
            raise ValueError(
                "hidden_layer_sizes must hold positive integers, got "
                f"{self.hidden_layer_sizes!r}."
            )
        views = _VIEWS if self.activation == "auto" else (self.activation,)
        if self.density != "mixture":
            flows = [self._flow(rows, sizes, kind, generator) for kind in views]
            return FlowEnsemble(flows)
        networks = []
        for activation in views:
            block = self._block(rows, activation, generator)
            trunk = DropoutMLP(
                self.n_estimators,
                block.n_out,
                sizes,
                activation,
                dropout=self._dropout(activation),
                generator=generator,
            )
            head = CorrelatedHead(
                self.n_estimators,
                trunk.n_out,
                block.n_out,
                self.n_outputs_,
                n_components=self.n_components,
                link=_LINKS[activation],
                scaled=self.summary is not None,
                generator=generator,
            )
            head.start(*self._line(rows, block), generator=generator)
            networks.append(PosteriorNetwork(block, trunk, head))
        return MixtureEnsemble(networks)

    def _flow(self, rows, sizes, activation, generator):
        """Build a flow at the linear regression."""
        block = self._block(rows, activation, generator)
        intercept, slopes, *_ = self._line(rows, block)
        chosen = spaced_rows(len(rows))
        if self.summary is None:
            x = self._x_scaler.transform(rows.X[chosen])[None, :, : block.n_out]
        else:
            x = self._through(block, rows.X[chosen])
        # Lines of members differ; the place and the units of the flows do not.
        shift = intercept.mean(0)
        rest = to_tensor(rows.u[chosen]) - to_tensor(x) @ slopes.mT - shift
        return FlowNetwork(
            self.density,
            block,
            slopes.expand(self.n_estimators, -1, -1).clone(),
            shift=shift,
            scale=flow_units(rest.flatten(0, 1)),
            hidden_layer_sizes=sizes,
            activation=activation,
            generator=generator,
        )

    def _block(self, rows, activation, generator):
        """Return what comes before the trunk: summaries, or what it sees of the data.

        Networks that are scale-free see no linked line: bends are what they learn by
        themselves, and what it tells beside them is noise to overfit.
        """
        summary = summary_from(self.summary)
        if summary is None:
            seen = self._x_scaler
            return Features((seen if activation == "silu" else seen.plain).n_features)
        return summary.build(self.n_estimators, *rows.X.shape[1:], generator=generator)

    def _dropout(self, activation):
        """Return the share of units that is left out."""
        return _DROPOUT[activation] if self.dropout == "auto" else self.dropout

    def _line(self, rows, block):
        """Return intercept, slopes and residual deviations of a ridge regression.

        Summaries are regressed on as they are before training; each member of the
        block has its own, and so has every result a leading axis. The last result is
        how the logarithms of the deviations change with the first summary, which
        begins as the count of items.
        """
        if self.summary is None:
            mean, slopes, residual = ridge(
                lambda values: self._x_scaler.transform(values)[:, : block.n_out],
                rows.X,
                rows.u,
                rows.weights,
            )
            found = [(mean, slopes, residual, np.zeros_like(slopes))]
        else:
            chosen = spaced_rows(len(rows))
            u, weights = rows.u[chosen], rows.weights[chosen]
            found = []
            for seen in self._through(block, rows.X[chosen]):
                middle = np.average(seen, axis=0, weights=weights)
                mean, slopes, _ = ridge(lambda s: s, seen - middle, u, weights)
                intercept = mean - middle @ slopes
                rest = u - intercept - seen @ slopes
                level, change = scale_regression(seen[:, 0], rest, weights)
                changes = np.zeros_like(slopes)
                changes[0] = change
                found.append((intercept, slopes, np.exp(level), changes))
        mean, slopes, residual, changes = map(np.stack, zip(*found, strict=True))
        lines = to_tensor(slopes).mT, to_tensor(residual), to_tensor(changes).mT
        return to_tensor(mean), *lines

    # Queries.

    def to_arviz(self, X, n_samples=1000, *, names=None, random_state=None):
        """Return draws for every observation and their log densities for ArviZ.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Observations.
        n_samples : int, default=1000
            Number of draws for each.
        names : sequence of str, default=None
            Names of the parameters.
        random_state : int, RandomState instance or None, default=None
            Determines the draws; the estimator's own by default.

        Returns
        -------
        tree : xarray.DataTree
            See :func:`skmdn.diagnostics.to_arviz`.
        """
        draws = self.sample(X, n_samples, random_state=random_state)
        X = self._checked_X(X, quietly=True)
        log_prob = [
            self.log_prob(np.repeat(x[None], n_samples, axis=0), own)
            for x, own in zip(X, draws, strict=True)
        ]
        draws = draws[..., None] if draws.ndim == 2 else draws
        return to_arviz(draws, names=names, log_prob=log_prob, observed=X)

    def _distribution(self, X):
        """Return the posterior of every row."""
        if self._has_flows():
            return self._drawn(X)
        mixture = behind_links(self._mixture(X), self._coordinates)
        layout = Composition(
            (mixture.blocks[0].family,), (tuple(range(self.n_components)),)
        )
        return PredictiveDistribution(mixture, self._univariate, layout=layout)

    def _has_flows(self):
        """Tell whether what was fitted are flows."""
        return isinstance(self.module_, FlowEnsemble)

    def _drawn(self, X):
        """Return the posterior of every row under flows."""
        x = self._x_scaler.transform(X)
        x = to_tensor(x.reshape(len(x), -1))
        module = cpu_copy(self.module_)
        return DrawnPosteriors(module, x, self._coordinates, self._univariate)

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
        """Return the posterior of a single observation to start from."""
        if self._has_flows():
            return OneDrawnPosterior(self._drawn(X))
        mixture = self._mixture(X)[0]
        (block,) = mixture.blocks
        roots = torch.linalg.inv(block.params["precision_factor"])
        # The lower factor of the covariance.
        roots = torch.linalg.cholesky(roots @ roots.mT)
        normals = Normals(mixture.log_weights, block.params["mean"], roots)
        return PosteriorDensity(LinkedNormals(self._coordinates, normals))

    def _summaries(self, X):
        """Return observations, or what the first network makes of sets."""
        if self.summary is None:
            parts = row_chunks(len(X))
            return np.concatenate([self._x_scaler.data.transform(X[p]) for p in parts])
        block = self.module_.networks[0].block
        return self._through(block, X)[0]

    def _through(self, block, X):
        """Return what the members of a block make of rows of items."""
        (first, *_) = block.parameters()
        n_together = max(1, _SUMMARY_NUMBERS // (block.numbers_per_row * len(first)))
        parts = []
        with torch.no_grad():
            for rows in row_chunks(len(X), n_together):
                x = self._x_scaler.transform(X[rows])
                x = to_tensor(x.reshape(1, len(x), -1), device=first.device)
                parts.append(to_numpy(block(x.expand(len(first), *x.shape[1:]))))
        return np.concatenate(parts, axis=1)


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
