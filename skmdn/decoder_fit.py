"""The fit of a decoder: checked rows, beginning, training, and what is kept."""

import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data

from .base import EpochReporter, TorchEstimator, resolve_device, warn_about
from .bridge import generator_from, to_numpy, to_tensor
from .decoder_start import (
    Classes,
    column_blocks,
    default_scale,
    first_codes,
    first_mixture,
    principal_axes,
    resolved_priors,
)
from .decoding.codes import Search, descend, row_chunks
from .decoding.fit import DecoderTraining, Plan
from .decoding.guess import LinearGuess
from .decoding.network import DecoderNetwork
from .decoding.objective import Joint
from .decoding.prior import CodePrior
from .gaussian_mixture import MAPGaussianMixture
from .steps import Settings
from .training import split_rows

__all__ = ["DecoderFit", "DecoderModule", "covariate_columns"]


class DecoderModule(torch.nn.Module):
    """What a fitted decoder computes with: codes to outputs, and what these mean.

    Parameters
    ----------
    network : DecoderNetwork
        From codes to outputs.
    blocks : Blocks
        The laws of the columns.
    """

    def __init__(self, network, blocks):
        super().__init__()
        self.network = network
        self.blocks = blocks

    def forward(self, z):
        """Return the expected rows of codes ``(n_rows, n_latent)``."""
        return self.blocks.values(self.blocks.mean(self.network(z)))


class DecoderFit(TorchEstimator):
    """What the estimator of a decoder does to fit one."""

    def _checked_rows(self, X, *, reset):
        """Return rows as an array; missing values are NaN."""
        return validate_data(
            self,
            X,
            reset=reset,
            dtype=[np.float64, np.float32],
            ensure_all_finite="allow-nan",
            ensure_min_samples=2 if reset else 1,
        )

    def _fit_decoder(self, X, y, covariates):
        """Fit to rows and write the fitted attributes."""
        X = self._checked_rows(X, reset=True)
        n_samples, n_features = X.shape
        rng = check_random_state(self.random_state)
        device = resolve_device(self.device)
        generator = generator_from(rng, device)
        initial = generator_from(rng)
        blocks, self.block_names_ = column_blocks(
            self.likelihood,
            n_features,
            getattr(self, "feature_names_in_", None),
            X,
            self.size_factors,
        )
        rows = to_tensor(X)
        self._expect_allowed(blocks, rows)
        bias = blocks.start(rows)
        labels = self._read_labels(y, covariates, n_samples)
        start = self._begin(blocks.features(blocks.table(rows)), labels, rng)
        codes, prior, filled, axes, center = start
        sizes = np.atleast_1d(self.hidden_layer_sizes).tolist()
        network = DecoderNetwork(
            codes.shape[1], sizes, len(bias), self.activation, generator=initial
        )
        network.head.bias.data[0, 0] = bias
        for parameter in (*network.parameters(), *blocks.parameters()):
            parameter.requires_grad_(False)
        prior = CodePrior([block.to(device) for block in prior.blocks])
        joint = Joint(network.to(device), blocks.to(device), prior)
        table = blocks.table(to_tensor(X, device=device))
        codes = to_tensor(codes, device=device)
        self._train(joint, codes, table, labels, generator, X)
        features = to_tensor(filled)
        self._guess = LinearGuess.fit(
            features, to_tensor(center), to_tensor(axes.T), to_tensor(self._codes)
        )

    def _expect_allowed(self, blocks, rows):
        """Refuse values that a block's law does not have."""
        for name, law, columns in zip(
            self.block_names_, blocks.laws, blocks.columns, strict=True
        ):
            wanted = law.problem(rows[:, columns])
            if wanted is not None:
                raise ValueError(
                    f"The block {name!r} of likelihood needs {wanted} in X "
                    f"({law.name}); got others."
                )

    def _read_labels(self, y, covariates, n_samples):
        """Return a column of class numbers for each group of features of the code."""
        for name in ("classes_", "covariate_classes_"):
            if hasattr(self, name):
                delattr(self, name)
        self._classes = [None if y is None else Classes("y", y)]
        columns = [y]
        if covariates is not None:
            covariates = covariate_columns(covariates, n_samples)
            for place, column in enumerate(covariates):
                self._classes.append(Classes(f"covariates[:, {place}]", column))
                columns.append(column)
        numbers = [
            np.full(n_samples, -1)
            if classes is None
            else classes.numbers(column, n_samples)
            for classes, column in zip(self._classes, columns, strict=True)
        ]
        if y is not None:
            self.classes_ = self._classes[0].values
        self.covariate_classes_ = [c.values for c in self._classes[1:]]
        return np.stack(numbers, axis=1)

    def _begin(self, features, labels, rng):
        """Return first codes and mixtures, and the principal axes of the rows."""
        center, axes, filled = principal_axes(features, rng)
        covariates = labels[:, 1:]
        apart = _without_class_means(filled, covariates)
        mean, own_axes = apart.mean(axis=0), axes
        if covariates.shape[1]:
            mean, own_axes, _ = principal_axes(to_tensor(apart), rng)
        codes = [first_codes(self.init, self.n_latent, apart, mean, own_axes, rng)]
        kind = self.covariance_type
        blocks, start = [], 0
        for place, classes in enumerate(self._classes):
            if place:
                codes.append(_class_codes(labels[:, place], self.n_latent_covariate))
            own = codes[-1]
            n_components, known = self._n_components(place, len(features)), None
            if classes is not None:
                n_components = max(n_components, len(classes.values))
                known = labels[:, place]
            n_latent = own.shape[1]
            scale = default_scale(n_components, n_latent)
            priors = resolved_priors(self, n_components, n_latent, len(features))
            blocks.append(
                first_mixture(own, start, n_components, kind, scale, priors, rng, known)
            )
            start += n_latent
        return np.hstack(codes), CodePrior(blocks), filled, axes, center

    def _n_components(self, place, n_samples):
        """Return the least number of components of a group of features."""
        if place:
            return 1
        if self.n_components > n_samples:
            raise ValueError(
                "Expected n_samples >= n_components but got n_components = "
                f"{self.n_components}, n_samples = {n_samples}"
            )
        return self.n_components

    def _train(self, joint, codes, table, labels, generator, X):
        """Run the training and keep what it leaves."""
        n_samples = len(codes)
        labels = to_tensor(labels, dtype=torch.int64, device=str(codes.device))
        batch_size = self.batch_size
        if isinstance(batch_size, str):
            batch_size = max(_SMALLEST_BATCH, min(_LARGEST_BATCH, n_samples // 10))
        hold_out = self.validation_fraction if self.early_stopping else 0.0
        rows, held_out = split_rows(1, n_samples, hold_out, generator)
        settings = Settings(
            self.max_iter,
            batch_size,
            self.learning_rate_init,
            self.weight_decay,
            n_iter_no_change=self.n_iter_no_change,
            tol=self.tol,
        )
        reporter = EpochReporter(
            self, self.max_iter, lambda: {}, X=X, y=None, metadata={}
        )
        training = DecoderTraining(
            joint,
            codes,
            table,
            labels,
            (rows[0].long(), held_out[0].long()),
            Plan(settings, self.code_learning_rate, _LAW_RATE, self.code_noise),
            generator,
            reporter,
        )
        joint = training.run()
        losses = training.losses
        self.module_ = DecoderModule(joint.network, joint.blocks)
        self._keep_prior(joint.prior)
        self.loss_curve_ = {
            "reconstruction": np.array(losses.reconstruction),
            "latent": np.array(losses.latent),
            "prior": np.array(losses.prior),
            "held_out": np.array(losses.held_out),
        }
        self.n_iter_ = len(losses.reconstruction)
        self.best_iter_ = losses.best_epoch
        warn_about(losses, stacklevel=5)
        self._settle(joint, codes, table, labels)
        reporter.finish()

    def _settle(self, joint, codes, table, labels):
        """Move the codes of the training rows to where they are most probable."""
        found = torch.ones(len(codes), dtype=torch.bool)
        search = Search(1, self.transform_max_iter, self.transform_tol)
        for rows in row_chunks(joint, len(codes), codes.shape[1]):
            placed = descend(joint, codes[rows], table.of(rows), labels[rows], search)
            codes[rows], found[rows] = placed.codes, placed.found
        self._warn_unless_found(found, stacklevel=6)
        self._codes = to_numpy(codes)
        self.embedding_ = self._codes[:, : self.n_latent].copy()
        own = joint.prior.blocks[0].joint(codes, None)
        best = self._class_proba(own).argmax(axis=1)
        self.labels_ = best if self._classes[0] is None else self.classes_[best]

    def _warn_unless_found(self, found, *, stacklevel=4):
        n_lost = int((~found).sum())
        if n_lost:
            warnings.warn(
                f"The codes of {n_lost} of {len(found)} rows had not converged to "
                f"transform_tol={self.transform_tol} after transform_max_iter="
                f"{self.transform_max_iter} steps; the best ones are kept.",
                ConvergenceWarning,
                stacklevel=stacklevel,
            )

    def _keep_prior(self, prior):
        """Write the mixtures as estimators of their own."""
        mixtures = []
        for block in prior.blocks:
            parameters = block.parameters
            model = MAPGaussianMixture(
                parameters.shape[1],
                covariance_type=parameters.covariance_type,
                weights_prior=block.priors.weights,
                means_prior=block.priors.means,
                scales_prior=block.priors.scales,
            )
            model._take(parameters, np.zeros(parameters.shape[2]))
            model.n_features_in_ = parameters.shape[2]
            model.converged_, model.n_iter_ = True, self.max_iter
            mixtures.append(model)
        self.mixture_, *self.covariate_mixtures_ = mixtures
        self.n_components_ = self.mixture_.n_components


def covariate_columns(covariates, n_samples):
    """Return the columns of covariates, one or several, for every row."""
    covariates = np.asarray(covariates)
    if covariates.ndim == 1:
        covariates = covariates[:, np.newaxis]
    if covariates.ndim != 2 or len(covariates) != n_samples:
        raise ValueError(
            f"covariates has the shape {covariates.shape}; expected a row for each of "
            f"the {n_samples} rows of X."
        )
    return list(covariates.T)


def _without_class_means(features, labels):
    """Return features less what the classes of every covariate add to the mean."""
    features = features.copy()
    for column in labels.T:
        mean = features.mean(axis=0)
        for place in range(column.max() + 1):
            rows = column == place
            features[rows] += mean - features[rows].mean(axis=0)
    return features


def _class_codes(labels, n_latent):
    """Return a corner of a simplex, or a point of a circle, for each class."""
    n_classes = labels.max() + 1
    angle = 2.0 * np.pi * np.arange(n_classes) / n_classes
    corners = np.zeros((n_classes + 1, n_latent))
    corners[:-1, 0] = np.cos(angle)
    if n_latent > 1:
        corners[:-1, 1] = np.sin(angle)
    return corners[labels]


_SMALLEST_BATCH, _LARGEST_BATCH = 8, 128
# The largest step of the logarithms of scales and dispersions.
_LAW_RATE = 1e-2
