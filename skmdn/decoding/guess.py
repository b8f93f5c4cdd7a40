"""Codes to begin with: component means, and what a linear map says of a row."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .objective import Joint
from .table import Table

__all__ = ["LinearGuess", "candidates"]


@dataclass(frozen=True)
class LinearGuess:
    """A linear map from rows to codes, on the scales of ``Blocks.features``.

    Attributes
    ----------
    center : Tensor of shape (n_inputs,)
        The mean of the training rows, which stands for missing values at first.
    weight : Tensor of shape (n_inputs, n_latent)
        The map.
    offset : Tensor of shape (n_latent,)
        The code of the mean.
    """

    center: Tensor
    weight: Tensor
    offset: Tensor

    @classmethod
    def fit(
        cls, features: Tensor, center: Tensor, axes: Tensor, codes: Tensor
    ) -> "LinearGuess":
        """Regress codes on the principal components of rows.

        Parameters
        ----------
        features : Tensor of shape (n_rows, n_inputs)
            Rows, without missing values.
        center : Tensor of shape (n_inputs,)
            Their mean.
        axes : Tensor of shape (n_inputs, n_axes)
            Orthonormal directions.
        codes : Tensor of shape (n_rows, n_latent)
            What is to be guessed.
        """
        scores = (features - center) @ axes
        offset = codes.mean(0)
        gram = scores.T @ scores
        ridge = _RIDGE * gram.diagonal().mean().clamp_min(1e-12)
        eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        solution = torch.linalg.solve(gram + ridge * eye, scores.T @ (codes - offset))
        return cls(center, axes @ solution, offset)

    def to(self, joint: Joint) -> "LinearGuess":
        """Return the map where a model is."""
        like = joint.prior.blocks[0].parameters.means
        parts = (self.center, self.weight, self.offset)
        return LinearGuess(*(part.to(like.device) for part in parts))

    def __call__(self, features: Tensor) -> Tensor:
        """Return the codes of rows without missing values."""
        return self.offset + (features - self.center) @ self.weight


_RIDGE = 1e-3


def candidates(
    joint: Joint, guess: LinearGuess, table: Table, labels: Tensor | None
) -> Tensor:
    """Return several codes for every row.

    They are the guess, the guess once more with missing values as the first one
    decodes them, and the guess with each component's mean in place of its features.

    Parameters
    ----------
    joint : Joint
        The model.
    guess : LinearGuess
        From rows to codes.
    table : Table
        The rows.
    labels : Tensor of shape (n_rows, n_blocks) or None
        Their classes: where it is known, the guess begins at the class's mean.

    Returns
    -------
    codes : Tensor of shape (n_rows, n_candidates, n_latent)
    """
    features = joint.blocks.features(table)
    missing = features.isnan()
    first = guess(torch.where(missing, guess.center, features))
    guesses = [first]
    if bool(missing.any()):
        with torch.no_grad():
            decoded = joint.blocks.expected_features(joint.network(first))
        guesses.append(guess(torch.where(missing, decoded, features)))
    blocks = joint.prior.blocks
    if labels is not None:
        for place, block in enumerate(blocks):
            if block.table is None:
                continue
            known = labels[:, place] >= 0
            means = block.class_means()[labels[:, place]]
            for code in guesses:
                own = code[:, block.start : block.stop]
                code[:, block.start : block.stop] = torch.where(
                    known.unsqueeze(1), means, own
                )
    result = list(guesses)
    for block in blocks:
        for mean in block.parameters.means[0]:
            code = guesses[-1].clone()
            code[:, block.start : block.stop] = mean
            result.append(code)
    return torch.stack(result, 1)
