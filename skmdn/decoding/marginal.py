r"""Scales and dispersions of the columns, with the codes integrated out.

.. math:: \max_\theta \; \sum_i \mathrm{E}_{z \sim \mathcal{N}(z_i, H_i^{-1})}
    \log p_\theta(x_i \mid z)

The joint density is largest where codes also explain a part of the noise, so that what
is left of it looks too small. This is the maximisation step of EM for the density of
rows, with the posterior of each code by Laplace's method and the decoder as it is.
"""

import math

import torch
from torch import Tensor

from skmdn.numerics.basic import find_root

from .codes import row_chunks
from .evidence import hessian_factor
from .objective import Joint
from .table import Table

__all__ = ["fit_laws"]

# Gauss and Hermite's rule of three nodes.
_NODES = ((-math.sqrt(3.0), 1.0 / 6.0), (0.0, 2.0 / 3.0), (math.sqrt(3.0), 1.0 / 6.0))
# How far the logarithm of a parameter may go in a step, and how exact it has to be.
_REACH, _EXACT = 2.0, 1e-6


def fit_laws(joint: Joint, codes: Tensor, table: Table, labels: Tensor | None) -> None:
    """Move the parameters of the columns' laws to where the expectation is largest.

    Parameters
    ----------
    joint : Joint
        The model, whose laws are changed in place.
    codes : Tensor of shape (n_rows, n_latent)
        The most probable codes.
    table : Table
        The rows.
    labels : Tensor of shape (n_rows, n_blocks) or None
        Their classes.
    """
    parameters = [parameter.data for parameter in joint.blocks.parameters()]
    if not parameters:
        return
    parts = []
    for rows in row_chunks(joint, len(codes), codes.shape[1]):
        part, known = table.of(rows), None if labels is None else labels[rows]
        parts.append((*_outputs(joint, codes[rows], part, known), part))
    sizes = [parameter.numel() for parameter in parameters]

    def descent(values: Tensor) -> Tensor:
        """Return minus the derivative of the expectation by each parameter."""
        for parameter, value in zip(parameters, values.split(sizes), strict=True):
            parameter[0] = value
        total = torch.zeros_like(values)
        with torch.no_grad():
            for eta, deviation, part in parts:
                for node, weight in _NODES:
                    moved = eta + node * deviation
                    slopes = joint.blocks.parameter_slopes(moved, part)
                    total -= weight * torch.cat(slopes)
        return total

    start = torch.cat([parameter[0] for parameter in parameters])
    exact = start.new_full((), _EXACT)
    descent(find_root(descent, start - _REACH, start + _REACH, exact))


def _outputs(
    joint: Joint, codes: Tensor, table: Table, labels: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return outputs of the decoder and their standard deviations."""
    with torch.no_grad():
        root = hessian_factor(joint, codes, table, labels)
        tape = joint.network.tape(codes)
        _, _, tangents = joint.network.curvature(tape, torch.zeros_like(tape.outputs))
        half = torch.linalg.solve_triangular(root, tangents, upper=False)
        return tape.outputs, half.square().sum(1).sqrt()
