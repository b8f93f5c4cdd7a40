"""How the variance of an ensemble splits into noise and disagreement."""

import math

import numpy as np
import pytest

from skmdn.composition import Composition
from skmdn.distribution import PredictiveDistribution
from skmdn.families import Laplace, Normal, StudentT, Transformed
from skmdn.mixture import Block, Mixture
from tests.helpers import randn, tensor

N_ROWS, N_MEMBERS = 4, 3


def members(family=("normal", "laplace", "normal"), n_outputs=2, names=None):
    """Return each member's mixture and the distribution of the ensemble."""
    chosen = dict(zip(names, family, strict=True)) if names else list(family)
    layout = Composition.make(chosen, 1)
    blocks = []
    for position, (one, n) in enumerate(layout.parts):
        shape = (N_MEMBERS, N_ROWS, n, n_outputs)
        place = "mean" if isinstance(one, Normal) else "loc"
        params = {
            place: 2.0 * randn(*shape, seed=position),
            "scale": randn(*shape, seed=10 + position).exp(),
        }
        blocks.append(Block(one, params, n))
    logits = randn(N_MEMBERS, N_ROWS, layout.n_components, seed=20)
    stack = Mixture.from_logits(logits, blocks)
    weights = tensor([0.5, 0.3, 0.2])
    joint = stack.merge(weights.log())
    dist = PredictiveDistribution(joint, n_outputs == 1, layout=layout)
    return [stack[m] for m in range(N_MEMBERS)], weights.numpy(), dist


def by_definition(parts, weights):
    """Return the law of total variance over the members."""
    means = np.stack([part.mean().numpy() for part in parts])
    variances = np.stack([part.variance().numpy() for part in parts])
    weights = weights[:, None, None]
    mean = (weights * means).sum(0)
    return (weights * variances).sum(0), (weights * (means - mean) ** 2).sum(0)


def test_the_split_is_the_law_of_total_variance_over_the_networks():
    parts, weights, dist = members()
    aleatoric, epistemic = by_definition(parts, weights)
    np.testing.assert_allclose(dist.aleatoric_var, aleatoric, rtol=1e-12)
    np.testing.assert_allclose(dist.epistemic_var, epistemic, rtol=1e-12)


def check_sum(dist):
    total = dist.aleatoric_var + dist.epistemic_var
    np.testing.assert_allclose(total, dist.var(), rtol=1e-12)
    assert dist.aleatoric_var.shape == np.shape(dist.var())


def test_the_parts_add_up_after_every_choice():
    _, _, dist = members()
    for some in (dist, dist[1:3], dist[2], dist.marginal([1, 0]), dist.marginal(1)):
        check_sum(some)
        assert (some.epistemic_var > 0.0).all()
    np.testing.assert_array_equal(dist[1].epistemic_var, dist.epistemic_var[1])
    expected = dist.epistemic_var[:, 1]
    np.testing.assert_allclose(dist.marginal(1).epistemic_var, expected)
    check_sum(members(n_outputs=1)[2])


def test_conditioning_reweighs_the_networks():
    parts, weights, dist = members()
    known = dist.condition(0, 0.7)
    check_sum(known)
    value = tensor([[0.7]]).expand(N_ROWS, 1)
    shares = np.stack([p.marginal([0]).log_prob(value).exp().numpy() for p in parts])
    shares = shares * weights[:, None]
    shares = (shares / shares.sum(0))[..., None]
    given = [part.condition([0], value) for part in parts]
    means = np.stack([part.mean().numpy() for part in given])
    mean = (shares * means).sum(0)
    expected = (shares * (means - mean) ** 2).sum(0)
    np.testing.assert_allclose(known.epistemic_var, expected, rtol=1e-10)


def test_a_named_component_is_asked_of_every_network():
    _, _, dist = members(names=("a", "b", "c"))
    part = dist.component("c")
    check_sum(part)
    assert part.names == ("c",)
    np.testing.assert_array_equal(part.component("c").means, part.means)
    means, weights = part.means, part.weights[..., None]
    mean = (weights * means).sum(1, keepdims=True)
    expected = (weights * (means - mean) ** 2).sum(1)
    np.testing.assert_allclose(part.epistemic_var, expected, rtol=1e-12)


def test_a_single_mixture_does_not_disagree():
    dist = PredictiveDistribution.from_params(
        [[0.5, 0.5]], means=[[-2.0, 2.0]], stds=[[1.0, 1.0]]
    )
    assert dist.epistemic_var.tolist() == [0.0]
    np.testing.assert_allclose(dist.aleatoric_var, dist.var())


def test_networks_that_agree_leave_noise_only():
    _, _, dist = members()
    one = dist.mixture.choose([0])
    same = Mixture(
        tensor([[-math.log(3.0)] * 3] * N_ROWS),
        [
            Block(b.family, {k: v.expand(-1, 3, -1) for k, v in b.params.items()}, 3)
            for b in one.blocks
        ],
    )
    agreed = PredictiveDistribution(same, False, layout=Composition.make("normal", 1))
    np.testing.assert_allclose(agreed.epistemic_var, 0.0, atol=1e-30)
    check_sum(agreed)


@pytest.mark.parametrize(
    "family", [StudentT(1.5), Transformed(Laplace(), 0.0)], ids=str
)
def test_variances_that_do_not_exist_are_infinite_and_never_nan(family):
    shape = (2, 2, 1)
    params = {"loc": randn(*shape), "scale": tensor([[[2.0]] * 2] * 2)}
    if isinstance(family, StudentT):
        params["df"] = 0.0 * params["loc"] + 1.5
    block = Block(family, params, 2)
    mixture = Mixture(tensor([[0.5, 0.5]] * 2).log(), [block])
    layout = Composition.make(family, 1)
    dist = PredictiveDistribution(mixture, True, layout=layout)
    assert (dist.aleatoric_var == math.inf).all()
    assert not np.isnan(dist.epistemic_var).any()
    assert (dist.var() == math.inf).all()
