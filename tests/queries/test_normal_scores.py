import math

import numpy as np
import pytest
import torch
from scipy import stats

from skmdn.families import Beta, Gamma, Normal, PointMass, Poisson, StudentT
from skmdn.mixture import Mixture
from skmdn.queries.blocks import Block
from skmdn.queries.normal_scores import (
    has_mass,
    normal_score,
    point_scores,
    quantiles_at,
    randomized_scores,
)
from tests.helpers import generator, normal_mixture, tensor, within_standard_errors

SCORES = tensor([-8.0, -5.0, -1.5, -1e-3, 0.0, 0.7, 3.0, 9.0, 25.0])
FAR = tensor([-1000.0, -60.0, 60.0, 1000.0])


def block(family, **params):
    """Components of one row, from lists."""
    columns = {name: tensor([values]).unsqueeze(-1) for name, values in params.items()}
    return Block(family, columns, len(next(iter(params.values()))))


def one_row(weights, *blocks):
    return Mixture(tensor([weights]).log(), list(blocks))


LAWS = {
    "normals": normal_mixture([[0.3, 0.7]], [[-1.0, 2.0]], [[0.1, 1.5]]),
    "with one off": normal_mixture([[0.0, 1.0]], [[-50.0, 2.0]], [[9.0, 1.5]]),
    "gamma": one_row(
        [0.5, 0.5], block(Gamma(), concentration=[0.8, 5.0], rate=[1.0, 2.0])
    ),
    "student": one_row(
        [0.4, 0.6],
        block(Normal(), mean=[0.0], scale=[1.0]),
        block(StudentT(), loc=[1.0], scale=[0.5], df=[3.0]),
    ),
}


def test_score_of_a_probability_from_both_logarithms():
    z = np.geomspace(1e-3, 1e6, 200)
    z = tensor(np.concatenate([-z, z]))
    found = normal_score(torch.special.log_ndtr(z), torch.special.log_ndtr(-z))
    np.testing.assert_allclose(found, z, rtol=1e-12)


def test_score_of_an_impossible_event():
    never, always = tensor([-math.inf]), tensor([0.0])
    assert normal_score(never, always) == -math.inf
    assert normal_score(always, never) == math.inf


def test_scores_of_a_normal_law_are_standardised_points():
    mixture = normal_mixture([[1.0]], [[3.0]], [[0.01]])
    y = tensor([[3.0, 3.005, 2.0, 13.0, -1e4]])
    np.testing.assert_allclose(point_scores(mixture, y), (y - 3.0) / 0.01, rtol=1e-12)


def test_scores_of_mixtures_are_normal_quantiles():
    y = np.array([[-1.5, -1.0, 0.0, 2.0, 4.0]])
    parts = stats.norm.cdf(y[..., None], [-1.0, 2.0], [0.1, 1.5])
    expected = stats.norm.ppf(parts @ [0.3, 0.7])
    np.testing.assert_allclose(
        point_scores(LAWS["normals"], tensor(y)), expected, rtol=1e-12
    )


@pytest.mark.parametrize("law", LAWS)
def test_quantiles_have_the_scores_asked_for(law):
    mixture = LAWS[law]
    for scores in (SCORES, SCORES.expand(1, -1)):
        points = quantiles_at(mixture, scores)
        np.testing.assert_allclose(
            point_scores(mixture, points)[0], SCORES, rtol=1e-9, atol=1e-10
        )


@pytest.mark.parametrize("law", ["normals", "with one off"])
def test_quantiles_beyond_the_smallest_number(law):
    points = quantiles_at(LAWS[law], torch.cat([SCORES, FAR]))
    found = point_scores(LAWS[law], points)[0, len(SCORES) :]
    np.testing.assert_allclose(found, FAR, rtol=1e-12)


def test_quantiles_at_infinite_scores_are_the_ends_of_the_support():
    ends = tensor([-math.inf, 0.0, math.inf])
    beta = one_row(
        [1.0], block(Beta(2.0, 5.0), a=[2.0], b=[2.0], low=[2.0], high=[5.0])
    )
    for mixture, low, high in (
        (LAWS["normals"], -math.inf, math.inf),
        (LAWS["gamma"], 0.0, math.inf),
        (beta, 2.0, 5.0),
    ):
        found = quantiles_at(mixture, ends)[0]
        assert (found[0], found[2]) == (low, high)
        assert low < found[1] < high


def test_quantiles_of_counts_are_counts():
    mixture = one_row([1.0], block(Poisson(), rate=[7.3]))
    levels = np.array([1e-6, 0.1, 0.5, 0.77, 1 - 1e-6])
    points = quantiles_at(mixture, tensor(stats.norm.ppf(levels)))
    np.testing.assert_array_equal(points[0], stats.poisson(7.3).ppf(levels))


def test_points_with_a_mass():
    mixture = one_row(
        [0.3, 0.7],
        block(PointMass(2.0), value=[2.0]),
        block(Normal(), mean=[0.0], scale=[1.0]),
    )
    found = has_mass(mixture, tensor([[2.0, 2.5, 0.0]]))
    assert found.tolist() == [[True, False, False]]


@pytest.mark.parametrize(
    "mixture",
    [
        one_row([0.5, 0.5], block(Poisson(), rate=[2.0, 9.0])),
        one_row(
            [0.3, 0.7],
            block(PointMass(0.0), value=[0.0]),
            block(Normal(), mean=[0.5], scale=[1.0]),
        ),
    ],
    ids=["counts", "zeros"],
)
def test_randomised_scores_of_a_law_itself_are_normal(mixture):
    draws = mixture.sample(40_000, generator(0))[..., 0]
    uniform = torch.rand(draws.shape, generator=generator(1), dtype=draws.dtype)
    scores = randomized_scores(mixture, draws, uniform).numpy()
    for power, moment in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
        assert within_standard_errors(scores**power, moment, axis=1)
