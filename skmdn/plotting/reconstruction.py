"""Rows that are pictures, beside what a decoder makes of them."""

import math

import numpy as np

from .common import pyplot

__all__ = ["ReconstructionDisplay"]


class ReconstructionDisplay:
    """Pictures in columns: the row as it was given, and what a decoder makes of it.

    Make one with :meth:`from_estimator`.

    Parameters
    ----------
    images : dict of str to ndarray of shape (n_images, height, width)
        For each line of the grid its label and pictures; NaN stays blank.

    Attributes
    ----------
    axes_ : ndarray of Axes of shape (n_lines, n_images)
        Where it was drawn.
    figure_ : Figure
        The figure.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skmdn import DeepGenerativeDecoder
    >>> from skmdn.plotting import ReconstructionDisplay
    >>> X = load_digits().data[:200]
    >>> model = DeepGenerativeDecoder(
    ...     5, 5, likelihood="spherical_gaussian", max_iter=5, random_state=0
    ... ).fit(X)
    >>> display = ReconstructionDisplay.from_estimator(model, X[:6])
    >>> display.axes_.shape
    (2, 6)
    """

    def __init__(self, images):
        self.images = images

    @classmethod
    def from_estimator(cls, estimator, X, *, shape=None, truth=None):
        """Reconstruct rows and draw.

        Parameters
        ----------
        estimator : DeepGenerativeDecoder
            The fitted decoder.
        X : array-like of shape (n_images, n_features)
            Rows, a column of the grid for each; with missing values (NaN) the decoder
            imputes them.
        shape : tuple of int, default=None
            Height and width of the pictures; a square by default.
        truth : array-like of shape (n_images, n_features), default=None
            The whole rows, for a third line.

        Returns
        -------
        display : ReconstructionDisplay
            The display, drawn.
        """
        pyplot(cls)
        X = np.asarray(X, dtype=float)
        side = math.isqrt(X.shape[1])
        shape = (side, side) if shape is None else tuple(shape)
        if math.prod(shape) != X.shape[1]:
            raise ValueError(
                f"shape={shape} does not hold the {X.shape[1]} features of X: give "
                "height and width."
            )
        holed = np.isnan(X).any()
        made = estimator.impute(X) if holed else estimator.reconstruct(X)
        lines = {"given": X, "imputed" if holed else "decoded": made}
        if truth is not None:
            lines["truth"] = np.asarray(truth, dtype=float)
        images = {name: rows.reshape(-1, *shape) for name, rows in lines.items()}
        return cls(images).plot()

    def plot(self, *, cmap="gray_r"):
        """Draw.

        Parameters
        ----------
        cmap : str, default="gray_r"
            Colours of the pictures.

        Returns
        -------
        display : ReconstructionDisplay
            The display.
        """
        plt = pyplot(type(self))
        n_images = len(next(iter(self.images.values())))
        size = (1.0 + 0.8 * n_images, 0.9 * len(self.images))
        self.figure_, self.axes_ = plt.subplots(
            len(self.images),
            n_images,
            figsize=size,
            squeeze=False,
            layout="constrained",
        )
        values = np.concatenate([image.ravel() for image in self.images.values()])
        limits = {"vmin": np.nanmin(values), "vmax": np.nanmax(values)}
        for line, (name, images) in zip(self.axes_, self.images.items(), strict=True):
            for ax, image in zip(line, images, strict=True):
                ax.imshow(image, cmap=cmap, **limits)
                ax.set(xticks=[], yticks=[])
            line[0].set_ylabel(name)
        return self
