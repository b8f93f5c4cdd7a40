"""The fit of a decoder: checked rows, beginning, training, and what is kept."""

import math
import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data

from skmdn.base import EpochReporter, TorchEstimator, resolve_device, warn_about
from skmdn.bridge import generator_from, to_numpy, to_tensor
from skmdn.decoding.codes import Search, descend, row_chunks
from skmdn.decoding.fit import DecoderTraining, Plan
from skmdn.decoding.guess import LinearGuess
from skmdn.decoding.marginal import fit_laws
from skmdn.decoding.network import DecoderNetwork
from skmdn.decoding.objective import Joint
from skmdn.decoding.prior import CodePrior
from skmdn.gaussian_classifier import GaussianMixtureClassifier
from skmdn.gaussian_mixture import MAPGaussianMixture
from skmdn.learning.steps import Settings
from skmdn.learning.training import split_rows

from .rows import read_exposure, read_groups
from .start import (
    column_blocks,
    component_classes,
    default_scale,
    first_codes,
    first_mixture,
    principal_axes,
    resolved_priors,
)

__all__ = ["DecoderFit", "DecoderModule", "expect_counts", "mixture_of"]


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

    def forward(self, z, exposure=None):
        """Return the expected rows of codes ``(n_rows, n_latent)``.

        Counts are those at the ``exposure`` of each row, ``(n_rows, 1)``, or at 1.
        """
        log_sizes = None
        if exposure is not None:
            log_sizes = [exposure.log()] * len(self.blocks.sizes)
        return self.blocks.values(self.blocks.mean(self.network(z), log_sizes))


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

    def _fit_decoder(self, X, y, covariates, exposure):
        """Fit to rows and write the fitted attributes."""
        X = self._checked_rows(X, reset=True)
        n_samples, n_features = X.shape
        classes, labels = read_groups(y, covariates, self.unlabeled_label, n_samples)
        exposure = read_exposure(exposure, n_samples)
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
        exposure = expect_counts(blocks, exposure)
        bias = blocks.start(rows, exposure)
        features = blocks.features(blocks.table(rows, exposure))
        start = self._begin(features, classes, labels, rng)
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
        if exposure is not None:
            exposure = exposure.to(device)
        table = blocks.table(rows.to(device), exposure)
        codes = to_tensor(codes, device=device)
        joint = self._train(joint, codes, table, labels, generator, X)
        self._keep_prior(joint.prior, classes, labels)
        labels = to_tensor(labels, dtype=torch.int64, device=device)
        self._settle(joint, codes, table, labels)
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

    def _begin(self, features, classes, labels, rng):
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
        for place, names in enumerate(classes):
            if place:
                codes.append(_class_codes(labels[:, place], self.n_latent_covariate))
            own = codes[-1]
            n_components = self._n_components(place, len(own))
            known = member = None
            if names is not None:
                known = labels[:, place]
                member = component_classes(len(names), n_components)
                n_components = len(member)
            n_latent = own.shape[1]
            scale = default_scale(n_components, n_latent)
            priors = resolved_priors(self, n_components, n_latent, len(own), member)
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
        """Run the training, keep its course, and return what it leaves."""
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
        self.loss_curve_ = {
            "reconstruction": np.array(losses.reconstruction),
            "latent": np.array(losses.latent),
            "prior": np.array(losses.prior),
            "held_out": np.array(losses.held_out),
        }
        self.n_iter_ = len(losses.reconstruction)
        self.best_iter_ = losses.best_epoch
        warn_about(losses, stacklevel=5)
        reporter.finish()
        return joint

    def _settle(self, joint, codes, table, labels):
        """Move the codes of the training rows to where they are most probable."""
        found = torch.ones(len(codes), dtype=torch.bool)
        search = Search(1, self.transform_max_iter, self.transform_tol)
        n_rounds = _SCALE_ROUNDS if self.column_scales == "evidence" else 0
        for last in [False] * n_rounds + [True]:
            for rows in row_chunks(joint, len(codes), codes.shape[1]):
                part = table.of(rows)
                placed = descend(joint, codes[rows], part, labels[rows], search)
                codes[rows], found[rows] = placed.codes, placed.found
            if not last:
                fit_laws(joint, codes, table, labels)
        self._warn_unless_found(found, stacklevel=5)
        self._codes = to_numpy(codes)
        self.embedding_ = self._codes[:, : self.n_latent].copy()
        self.labels_ = self.mixture_.predict(self.embedding_)

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

    def _keep_prior(self, prior, classes, labels):
        """Write the mixtures as estimators of their own."""
        mixtures = []
        for block, names, own in zip(prior.blocks, classes, labels.T, strict=True):
            mixture = mixture_of(block.parameters, block.priors, names)
            mixture._record([], True, -math.inf)
            mixture.n_iter_ = self.n_iter_
            if names is not None:
                mixture.n_unlabeled_ = int((own < 0).sum())
            mixtures.append(mixture)
        self.mixture_, *self.covariate_mixtures_ = mixtures
        self.n_components_ = len(self.mixture_.means_)
        self.covariate_classes_ = classes[1:]
        if classes[0] is not None:
            self.classes_ = classes[0]
        elif hasattr(self, "classes_"):
            del self.classes_


def mixture_of(parameters, priors, classes):
    """Return a fitted estimator: of clusters, or of classes if there are some."""
    known = {
        "covariance_type": parameters.covariance_type,
        "weights_prior": priors.weights,
        "means_prior": priors.means,
        "scales_prior": priors.scales,
    }
    if classes is None:
        model = MAPGaussianMixture(parameters.shape[1], **known)
    else:
        if known["covariance_type"] == "fixed":
            known["covariance_type"] = "spherical"
        member = to_numpy(priors.classes.member)
        counts = np.bincount(member)
        same = int(counts[0]) if (counts == counts[0]).all() else counts
        model = GaussianMixtureClassifier(same, **known)
        model.classes_, model.component_class_ = classes, member
    model._take(parameters, np.zeros(parameters.shape[2]))
    model.n_features_in_ = parameters.shape[2]
    return model


def expect_counts(blocks, exposure):
    """Return exposures as a tensor; refuse them where no column is a count."""
    if exposure is None:
        return None
    if not any(law.counts for law in blocks.laws):
        raise ValueError(
            "exposure is for counts, and likelihood has none: leave it out, or use "
            "'poisson' or 'negative_binomial'."
        )
    return to_tensor(exposure)


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
# Steps of EM for the same: more than the first hardly move them.
_SCALE_ROUNDS = 2
