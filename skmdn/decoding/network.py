r"""The decoder: codes to outputs, with the derivatives by hand that its users need.

.. math:: a_1 = z W_1 + b_1, \quad a_{l+1} = \phi(a_l) W_{l+1} + b_{l+1}, \quad
    \eta = \phi(a_L) W + b

For :math:`f(z) = g(\eta(z))` the Hessian by z is exactly

.. math:: \sum_l J_l^\top \, \mathrm{diag}\bigl(v_l \, \phi''(a_l)\bigr) \, J_l
    + J^\top (\nabla^2 g) \, J

with the Jacobians :math:`J_l` of the layers, carried forward, and the gradients
:math:`v_l` by their outputs, carried back.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from skmdn.learning.networks import ACTIVATIONS, MLP, MemberLinear

__all__ = ["SMOOTH_ACTIVATIONS", "DecoderNetwork", "Tape"]

_HEAD_GAIN = 0.5


def _logistic(a: Tensor) -> tuple[Tensor, Tensor]:
    s = torch.sigmoid(a)
    first = s * (1.0 - s)
    return first, first * (1.0 - 2.0 * s)


def _tanh(a: Tensor) -> tuple[Tensor, Tensor]:
    t = torch.tanh(a)
    first = 1.0 - t.square()
    return first, -2.0 * t * first


def _silu(a: Tensor) -> tuple[Tensor, Tensor]:
    s = torch.sigmoid(a)
    slope = s * (1.0 - s)
    return s + a * slope, slope * (2.0 + a * (1.0 - 2.0 * s))


def _gelu(a: Tensor) -> tuple[Tensor, Tensor]:
    density = torch.exp(-0.5 * a.square()) / math.sqrt(2.0 * math.pi)
    share = torch.special.ndtr(a)
    return share + a * density, density * (2.0 - a.square())


# The smooth ones: the place of a code and its evidence need second derivatives.
SMOOTH_ACTIVATIONS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "gelu": _gelu,
    "logistic": _logistic,
    "silu": _silu,
    "tanh": _tanh,
}


@dataclass(frozen=True)
class Tape:
    """What a forward pass leaves for the derivatives.

    Attributes
    ----------
    inputs : list of Tensor
        What each layer was given, the head's last.
    sums : list of Tensor
        Its affine result before the activation.
    outputs : Tensor of shape (n_rows, n_outputs)
        The outputs.
    """

    inputs: list[Tensor]
    sums: list[Tensor]
    outputs: Tensor


class DecoderNetwork(nn.Module):
    """Codes to outputs.

    Parameters
    ----------
    n_latent : int
        The number of features of a code.
    hidden_layer_sizes : sequence of int
        The width of each layer; empty for a linear decoder.
    n_outputs : int
        The number of outputs.
    activation : str
        A key of :data:`SMOOTH_ACTIVATIONS`.
    generator : torch.Generator, optional
        The source of the weights.
    """

    def __init__(
        self,
        n_latent: int,
        hidden_layer_sizes: Sequence[int],
        n_outputs: int,
        activation: str,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.trunk = MLP(
            1, n_latent, hidden_layer_sizes, activation, generator=generator
        )
        self.head = MemberLinear(
            1, self.trunk.n_out, n_outputs, gain=_HEAD_GAIN, generator=generator
        )
        self.activation = activation

    def forward(self, z: Tensor) -> Tensor:
        """Return the outputs of codes ``(n_rows, n_latent)``."""
        outputs: Tensor = self.head(self.trunk(z.unsqueeze(0)))[0]
        return outputs

    def _affine(self) -> list[tuple[Tensor, Tensor]]:
        """Return the weights and biases of the layers, the head's last."""
        layers = [*self.trunk.layers, self.head]
        return [(layer.weight.detach()[0], layer.bias.detach()[0]) for layer in layers]

    def widths(self) -> list[int]:
        """Return the number of units of every layer, the outputs last."""
        return [weight.shape[1] for weight, _ in self._affine()]

    def tape(self, z: Tensor) -> Tape:
        """Return the outputs of codes and all that led to them."""
        phi = ACTIVATIONS[self.activation]
        *hidden, (weight, bias) = self._affine()
        inputs, sums = [z], []
        for w, b in hidden:
            sums.append(torch.addmm(b, inputs[-1], w))
            inputs.append(phi(sums[-1]))
        return Tape(inputs, sums, torch.addmm(bias, inputs[-1], weight))

    def backward(self, tape: Tape, slopes: Tensor, into: Sequence[Tensor]) -> Tensor:
        """Write the gradients by all weights and biases; return that by the codes.

        Parameters
        ----------
        tape : Tape
            Of the codes.
        slopes : Tensor of shape (n_rows, n_outputs)
            The derivative of a sum over rows by each output.
        into : sequence of Tensor
            Weight and bias of each layer in turn, with the member axis.

        Returns
        -------
        by_code : Tensor of shape (n_rows, n_latent)
        """
        derivative = SMOOTH_ACTIVATIONS[self.activation]
        affine = self._affine()
        for place in reversed(range(len(affine))):
            torch.mm(tape.inputs[place].T, slopes, out=into[2 * place][0])
            torch.sum(slopes, 0, keepdim=True, out=into[2 * place + 1][0])
            slopes = slopes @ affine[place][0].T
            if place:
                slopes = slopes * derivative(tape.sums[place - 1])[0]
        return slopes

    def curvature(self, tape: Tape, slopes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the network adds to gradient and Hessian of each row.

        Parameters
        ----------
        tape : Tape
            Of the codes.
        slopes : Tensor of shape (n_rows, n_outputs)
            The derivative of the row's function by each output.

        Returns
        -------
        gradient : Tensor of shape (n_rows, n_latent)
            By the code.
        bend : Tensor of shape (n_rows, n_latent, n_latent)
            The part of the Hessian that comes from the bends of the network.
        tangents : Tensor of shape (n_rows, n_latent, n_outputs)
            The derivatives of the outputs by the code.
        """
        derivative = SMOOTH_ACTIVATIONS[self.activation]
        affine = self._affine()
        n_rows, n_latent = tape.inputs[0].shape
        carried = affine[0][0].expand(n_rows, -1, -1)
        tangents, bends = [], []
        for place, sums in enumerate(tape.sums):
            first, second = derivative(sums)
            bends.append((first, second))
            tangents.append(carried)
            carried = (carried * first.unsqueeze(1)) @ affine[place + 1][0]
        bend = slopes.new_zeros(n_rows, n_latent, n_latent)
        for place in reversed(range(len(tape.sums))):
            slopes = slopes @ affine[place + 1][0].T
            first, second = bends[place]
            if place:
                weighted = tangents[place] * (slopes * second).unsqueeze(1)
                bend = torch.baddbmm(bend, weighted, tangents[place].mT)
            else:
                # Tangents of the first layer are its weights, the same for all rows.
                weight = affine[0][0]
                squares = (weight.unsqueeze(0) * weight.unsqueeze(1)).flatten(0, 1)
                bend = bend + ((slopes * second) @ squares.T).view_as(bend)
            slopes = slopes * first
        return slopes @ affine[0][0].T, bend, carried
