"""The decoder's derivatives by hand against automatic differentiation."""

import pytest
import torch
from torch.autograd.functional import hessian, jacobian

from skmdn.decoding.network import SMOOTH_ACTIVATIONS, DecoderNetwork
from tests.decoding.helpers import generator, normal


def network(activation="silu", sizes=(5, 4)):
    made = DecoderNetwork(2, sizes, 6, activation, generator=generator())
    for layer in (*made.trunk.layers, made.head):
        layer.bias.data.copy_(0.3 * normal(*layer.bias.shape, seed=1))
    return made


@pytest.mark.parametrize("sizes", [(), (5,), (5, 4)])
@pytest.mark.parametrize("activation", SMOOTH_ACTIVATIONS)
def test_gradients_are_those_of_autograd(activation, sizes):
    net, z, slopes = network(activation, sizes), normal(7, 2), normal(7, 6, seed=2)
    z.requires_grad_(True)
    tape = net.tape(z.detach())
    torch.testing.assert_close(tape.outputs, net(z).detach())
    into = [torch.empty_like(p) for p in net.parameters()]
    by_code = net.backward(tape, slopes, into)
    expected = torch.autograd.grad((net(z) * slopes).sum(), [z, *net.parameters()])
    torch.testing.assert_close([by_code, *into], list(expected))


@pytest.mark.parametrize("sizes", [(), (5,), (5, 4)])
@pytest.mark.parametrize("activation", SMOOTH_ACTIVATIONS)
def test_curvature_is_that_of_autograd(activation, sizes):
    net, z, slopes = network(activation, sizes), normal(4, 2), normal(4, 6, seed=2)
    gradient, bend, tangents = net.curvature(net.tape(z), slopes)
    for row in range(4):

        def weighted(code, row=row):
            return net(code.unsqueeze(0))[0] @ slopes[row]

        torch.testing.assert_close(gradient[row], jacobian(weighted, z[row]).detach())
        torch.testing.assert_close(bend[row], hessian(weighted, z[row]).detach())
        whole = jacobian(lambda code: net(code.unsqueeze(0))[0], z[row])
        torch.testing.assert_close(tangents[row], whole.T.detach())
