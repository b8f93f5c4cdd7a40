"""Where the codes of rows are, also of rows of classes that fit has not seen."""

import copy
from dataclasses import replace

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from skmdn import em
from skmdn.base import resolve_device, unchanged_on_error
from skmdn.bridge import to_numpy, to_tensor
from skmdn.decoding.codes import Placed, Search, place, row_chunks
from skmdn.decoding.guess import candidates
from skmdn.decoding.objective import Joint
from skmdn.decoding.prior import CodePrior, LatentBlock

from .fit import DecoderFit, expect_counts, mixture_of
from .rows import FOREIGN, covariate_columns, covariate_numbers, read_exposure

__all__ = ["DecoderPlaces"]


class DecoderPlaces(DecoderFit):
    """The search for codes with a decoder that lives in fitted attributes."""

    def _placed(self, X, covariates, exposure):
        """Return the model, rows, their classes, and where their codes are."""
        joint, table, labels, X = self._asked(X, covariates, exposure)
        codes, values, found = [], [], []
        search = self._search()
        for rows in self._chunks(joint, len(X)):
            placed = self._place(joint, table.of(rows), labels[rows], search)
            codes.append(placed.codes)
            values.append(placed.values)
            found.append(placed.found)
        placed = Placed(torch.cat(codes), torch.cat(values), torch.cat(found))
        self._warn_unless_found(placed.found)
        return joint, table, labels, placed, X

    def _search(self):
        return Search(self.n_starts, self.transform_max_iter, self.transform_tol)

    def _place(self, joint, table, labels, search):
        starts = candidates(joint, self._guess.to(joint), table, labels)
        return place(joint, starts, table, labels, search)

    def _chunks(self, joint, n_rows):
        """Yield the numbers of rows that are placed together."""
        yield from row_chunks(joint, n_rows, joint.prior.n_latent * self.n_starts)

    def _asked(self, X, covariates, exposure):
        """Return the model, rows and their classes, and the checked array."""
        joint, table, numbers, X, _ = self._asked_of_all(X, covariates, exposure)
        device = resolve_device(self.device)
        return joint, table, to_tensor(numbers, dtype=torch.int64, device=device), X

    def _asked_of_all(self, X, covariates, exposure):
        """Return the same, and the classes of all groups, with those that are new."""
        check_is_fitted(self)
        X = self._checked_rows(X, reset=False)
        device = resolve_device(self.device)
        self.module_.to(device)
        blocks = self.module_.blocks
        rows = to_tensor(X, device=device)
        self._expect_allowed(blocks, rows)
        exposure = expect_counts(blocks, read_exposure(exposure, len(X)))
        if exposure is not None:
            exposure = exposure.to(device)
        table = blocks.table(rows, exposure)
        joint = Joint(
            self.module_.network, blocks, CodePrior(self._latent_blocks(device))
        )
        classes = self._group_classes()
        numbers = covariate_numbers(covariates, classes, len(X))
        if (numbers == FOREIGN).any():
            joint = self._with_new_classes(joint, table, numbers, covariates, classes)
        return joint, table, numbers, X, classes

    def _mixtures(self):
        return [self.mixture_, *self.covariate_mixtures_]

    def _group_classes(self):
        """Return the classes of each group of the code's features."""
        return [getattr(mixture, "classes_", None) for mixture in self._mixtures()]

    def _latent_blocks(self, device="cpu"):
        """Return the mixtures over groups of the code's features as tensors."""
        result, start = [], 0
        for mixture in self._mixtures():
            n_latent = mixture.means_.shape[1]
            parameters = mixture._parameters(np.zeros(n_latent))
            classes = None
            if hasattr(mixture, "classes_"):
                classes = mixture._membership()
            priors = em.Priors(
                mixture.weights_prior,
                mixture.means_prior,
                mixture.scales_prior,
                classes=classes,
            )
            block = LatentBlock(start, start + n_latent, parameters, priors)
            result.append(block.to(device))
            start += n_latent
        return result

    def _with_new_classes(self, joint, table, numbers, covariates, classes):
        """Give every class of a covariate that is new a component of its own.

        Its mean is that of the codes that its rows have under a wide normal law.
        ``numbers`` and ``classes`` are changed in place.
        """
        search = self._search()
        columns = covariate_columns(covariates, len(numbers))
        for group, column in enumerate(columns, start=1):
            new = np.flatnonzero(numbers[:, group] == FOREIGN)
            if not len(new):
                continue
            names, which = np.unique(column[new].tolist(), return_inverse=True)
            _expect_same_kind(names, classes[group])
            wide = joint.prior.with_block(group, joint.prior.blocks[group].widened())
            wide = replace(joint, prior=wide)
            block = joint.prior.blocks[group]
            for one in range(len(names)):
                rows = new[which == one]
                part = table.of(to_tensor(rows, dtype=torch.int64))
                known = np.where(numbers[rows] < 0, -1, numbers[rows])
                known = to_tensor(known, dtype=torch.int64)
                codes = self._place(wide, part, known, search).codes
                block = block.extended(codes[:, block.start : block.stop].mean(0))
                numbers[rows, group] = block.classes.n_classes - 1
            classes[group] = np.concatenate([classes[group], names])
            joint = replace(joint, prior=joint.prior.with_block(group, block))
        return joint

    def add_covariate_classes(self, X, covariates, exposure=None):
        """Learn classes of covariates that fit has not seen, for instance batches.

        Each gets a component of its own, at the mean of the codes that its rows have
        under a wide normal law. Decoder and other components stay as they are. Queries
        do the same with such rows, but forget it; after this call they know the class,
        :meth:`inverse_transform` as well.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows of the new classes; others are not looked at.
        covariates : array-like of shape (n_samples,) or (n_samples, n_covariates)
            Their classes.
        exposure : array-like of shape (n_samples,), default=None
            As in :meth:`fit`.

        Returns
        -------
        self : DeepGenerativeDecoder
            The estimator, with more ``covariate_classes_``.
        """
        with unchanged_on_error(self):
            joint, *_, classes = self._asked_of_all(X, covariates, exposure)
            mixtures = list(self.covariate_mixtures_)
            for group, mixture in enumerate(mixtures):
                block, names = joint.prior.blocks[group + 1], classes[group + 1]
                if len(names) == len(mixture.classes_):
                    continue
                mixtures[group] = copy.copy(mixture)
                longer = _in_order(block.to("cpu"), names)
                vars(mixtures[group]).update(vars(mixture_of(*longer)))
            self.covariate_mixtures_ = mixtures
            self.covariate_classes_ = [mixture.classes_ for mixture in mixtures]
        return self


def _expect_same_kind(names, known):
    """Refuse words where classes are numbers, and numbers where they are words."""
    if (names.dtype.kind in "US") != (known.dtype.kind in "US"):
        raise ValueError(
            f"covariates has the class {names[0].item()!r}, but those of fit are "
            f"{known.tolist()}: give words or numbers as there."
        )


def _in_order(block, names):
    """Return parameters and priors of a mixture with its classes in ascending order."""
    order = np.argsort(names)
    member = order.argsort()[to_numpy(block.classes.member)]
    components = member.argsort(kind="stable")
    parameters = block.parameters
    tied = parameters.covariance_type == "tied"

    def moved(values, shared=False):
        return values if shared else values[:, components]

    parameters = em.Parameters(
        parameters.covariance_type,
        moved(parameters.log_weights),
        moved(parameters.means),
        moved(parameters.covariances, tied),
        moved(parameters.whitening, tied),
    )
    member = to_tensor(member[components], dtype=torch.int64)
    priors = replace(block.priors, classes=em.Classes(member, len(names)))
    return parameters, priors, names[order]
