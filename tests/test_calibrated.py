import copy
import pickle

import numpy as np
import pytest
import torch
from scipy import stats

from skmdn.bridge import to_tensor
from skmdn.calibrated import CalibratedDistribution
from skmdn.composition import Composition
from skmdn.distribution import PredictiveDistribution
from skmdn.families import Normal, PointMass, Poisson
from skmdn.mapped import MappedMixture
from skmdn.mixture import Block, Mixture
from skmdn.score_maps import conformal_map, isotonic_map

RNG = np.random.RandomState(0)
WEIGHTS = np.array([[0.2, 0.8], [0.5, 0.5], [0.0, 1.0], [0.9, 0.1]])
MEANS = np.array([[-2.0, 1.0], [0.0, 0.0], [9.0, -1.0], [3.0, 5.0]])
STDS = np.array([[1.0, 0.5], [2.0, 0.1], [1.0, 3.0], [0.3, 0.3]])
SKEWED, RANKED = (
    fit(to_tensor(scores), torch.ones(200, dtype=torch.float64))
    for fit, scores in (
        (isotonic_map, RNG.gamma(2.0, size=200) - 1.5),
        (conformal_map, 0.2 + 1.3 * RNG.normal(size=200)),
    )
)


def make(kind="univariate", maps=(SKEWED, RANKED)):
    means, stds = (
        MEANS if kind == "univariate" else np.stack([MEANS, MEANS[::-1] + 0.5], -1),
        STDS if kind == "univariate" else np.stack([STDS, STDS[::-1]], -1),
    )
    base = PredictiveDistribution.from_params(WEIGHTS, means, stds)
    used = maps[: base.n_outputs]
    mapped = MappedMixture(base.mixture, used)
    return CalibratedDistribution(mapped, base.univariate)


KINDS = ["univariate", "two outputs"]
every_kind = pytest.mark.parametrize("kind", KINDS)
AT_POINTS = ["log_prob", "pdf", "cdf", "sf", "pit", "crps"]
WHOLE = {
    "mean": lambda dist: dist.mean(),
    "var": lambda dist: dist.var(),
    "std": lambda dist: dist.std(),
    "ppf": lambda dist: dist.ppf([0.1, 0.5, 0.999]),
    "median": lambda dist: dist.ppf(0.5),
    "interval": lambda dist: dist.interval(0.8),
    "entropy": lambda dist: dist.marginal(0).entropy(),
    "mode": lambda dist: dist.marginal(0).mode(),
}


def event(kind):
    return () if kind == "univariate" else (2,)


@every_kind
@pytest.mark.parametrize("query", AT_POINTS)
@pytest.mark.parametrize("leading", [(4,), (4, 3), (1, 3)])
def test_points_in_any_arrangement(kind, query, leading):
    dist = make(kind)
    y = RNG.normal(size=leading + event(kind))
    answer = getattr(dist, query)(y)
    shape = (4, *leading[1:])
    joint = query in ("log_prob", "pdf")
    assert answer.shape == (shape if joint else shape + event(kind))
    full = np.broadcast_to(y, shape + event(kind))
    for row in range(4):
        one = getattr(dist[row], query)(full[row])
        np.testing.assert_allclose(one, answer[row], rtol=1e-9, atol=1e-12)


@every_kind
@pytest.mark.parametrize("query", WHOLE)
def test_rows_are_answered_by_themselves(kind, query):
    dist = make(kind)
    together = WHOLE[query](dist)
    # A peak is flat: its place is found to the root of the precision.
    tolerance = 1e-6 if query == "mode" else 1e-9
    assert len(together) == 4
    for row in range(4):
        np.testing.assert_allclose(
            WHOLE[query](dist[row]), together[row], rtol=1e-9, atol=tolerance
        )
    np.testing.assert_array_equal(WHOLE[query](dist[2:]).shape, together[2:].shape)


@every_kind
def test_shapes(kind):
    dist = make(kind)
    assert len(dist) == 4
    assert dist.mean().shape == (4, *event(kind))
    assert dist.ppf([0.1, 0.2, 0.7]).shape == (4, 3, *event(kind))
    assert dist.interval().shape == (4, 2, *event(kind))
    assert dist.sample(5, random_state=0).shape == (4, 5, *event(kind))
    assert dist[1].sample(5).shape == (5, *event(kind))
    assert dist.entropy().shape == (4,)


@every_kind
def test_the_distribution_before_is_at_hand(kind):
    dist = make(kind)
    np.testing.assert_allclose(dist.base.weights, WEIGHTS, rtol=1e-14)
    assert isinstance(dist[1:3].base, PredictiveDistribution)
    assert len(dist[1:3].base) == 2
    assert repr(dist) == repr(dist.base).replace("Predictive", "Calibrated")


@every_kind
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))]
)
def test_copies_answer_the_same(kind, duplicate):
    dist = make(kind)
    other = duplicate(dist)
    np.testing.assert_array_equal(other.ppf([0.2, 0.8]), dist.ppf([0.2, 0.8]))
    assert other.mixture is not dist.mixture
    with pytest.raises(AttributeError):
        dist.univariate = False


def test_pickles_hold_no_work():
    dist = make()
    before = len(pickle.dumps(dist))
    dist.crps(0.0)
    assert len(pickle.dumps(dist)) == before


def test_marginals():
    joint = make("two outputs")
    for d in range(2):
        np.testing.assert_allclose(joint.marginal(d).mean(), joint.mean()[:, d])
        np.testing.assert_allclose(
            joint.marginal([d]).ppf(0.3)[:, 0], joint.ppf(0.3)[:, d]
        )
    swapped = joint.marginal([1, 0])
    y = RNG.normal(size=(4, 2))
    np.testing.assert_allclose(swapped.log_prob(y[:, ::-1]), joint.log_prob(y))


def test_the_entropy_of_several_outputs():
    joint = make("two outputs")
    draws = joint.sample(8000, random_state=0)
    log_prob = joint.log_prob(draws)
    error = 4.0 * log_prob.std(1) / np.sqrt(log_prob.shape[1]) * np.sqrt(2.0)
    found = joint.entropy(n_samples=8000)
    assert (np.abs(found + log_prob.mean(1)) < error).all()


def test_draws_are_reproducible():
    dist = make()
    first, second = (dist.sample(3, random_state=1) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, dist.sample(3, random_state=2))


def test_many_rows_are_answered_in_parts():
    base = PredictiveDistribution.from_params(
        np.tile(WEIGHTS, (300, 1)), np.tile(MEANS, (300, 1)), np.tile(STDS, (300, 1))
    )
    many = CalibratedDistribution(MappedMixture(base.mixture, [SKEWED]), True)
    np.testing.assert_allclose(many.mean(), np.tile(make().mean(), 300))
    y = np.zeros(1200)
    np.testing.assert_allclose(many.crps(y), np.tile(make().crps(y[:4]), 300))


def test_infinite_points():
    dist = make()
    for y, level in ((-np.inf, 0.0), (np.inf, 1.0)):
        np.testing.assert_array_equal(dist.cdf(y), level)
        np.testing.assert_array_equal(dist.log_prob(y), -np.inf)
        np.testing.assert_array_equal(dist.crps(y), np.inf)


# Intervals.


def test_intervals_of_a_smooth_map_are_quantiles():
    dist = make()
    np.testing.assert_array_equal(dist.interval(0.8), dist.ppf([0.1, 0.9]))


def test_conformal_intervals_end_at_calibration_scores():
    base = PredictiveDistribution.from_params([[1.0]], [[3.0]], [[2.0]])
    dist = CalibratedDistribution(MappedMixture(base.mixture, [RANKED]), True)
    scores = RANKED.scores.numpy()
    # Of 201 ranks at most 10 may lie below.
    expected = 3.0 + 2.0 * scores[[9, 190]]
    np.testing.assert_allclose(dist.interval(0.9)[0], expected, rtol=1e-12)


def test_too_few_rows_for_an_interval():
    dist = make(maps=(RANKED,))
    with pytest.warns(UserWarning, match="needs 1999 calibration rows"):
        interval = dist.interval(0.999)
    np.testing.assert_array_equal(interval, [[-np.inf, np.inf]] * 4)
    assert np.isfinite(dist.ppf([0.0005, 0.9995])).all()


# What is refused.


def test_refusals():
    dist, joint = make(), make("two outputs")
    with pytest.raises(ValueError, match="strictly between"):
        dist.ppf(1.0)
    with pytest.raises(ValueError, match="coverage must lie"):
        dist.interval(1.0)
    with pytest.raises(ValueError, match="n_samples must be at least 1"):
        dist.sample(0)
    with pytest.raises(ValueError, match="contains NaN"):
        dist.cdf([np.nan] * 4)
    with pytest.raises(ValueError, match="expected"):
        dist.log_prob(np.zeros(5))
    with pytest.raises(ValueError, match=r"dist\.marginal\(d\)\.mode"):
        joint.mode()
    with pytest.raises(TypeError, match=r"dist\.base\.component\('bulk'\)"):
        dist.component("bulk")
    with pytest.raises(TypeError, match=r"dist\.base\.epistemic_var"):
        _ = dist.epistemic_var
    with pytest.raises(TypeError, match=r"dist\.base\.aleatoric_var"):
        _ = dist.aleatoric_var
    with pytest.raises(TypeError, match="cannot be indexed"):
        dist[0][0]


def test_laws_of_counts():
    params = {"rate": torch.full((2, 1, 1), 3.0, dtype=torch.float64)}
    counts = Mixture(torch.zeros(2, 1).double(), [Block(Poisson(), params, 1)])
    layout = Composition.make("poisson", 1)
    dist = CalibratedDistribution(MappedMixture(counts, [SKEWED]), True, layout=layout)
    assert (dist.ppf([0.1, 0.9]) % 1 == 0).all()
    mass = dist.pdf(np.arange(300.0)[None])
    np.testing.assert_allclose(mass.sum(1), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(dist.mode(), mass.argmax(1))
    np.testing.assert_allclose(dist.entropy(), stats.entropy(mass[0]), rtol=1e-6)


def test_a_mass_beside_a_density():
    params = {"value": torch.zeros((2, 1, 1), dtype=torch.float64)}
    normal = {
        "mean": torch.ones((2, 1, 1)).double(),
        "scale": torch.ones((2, 1, 1)).double(),
    }
    weights = torch.full((2, 2), 0.5, dtype=torch.float64)
    blocks = [Block(PointMass(0.0), params, 1), Block(Normal(), normal, 1)]
    mixture = Mixture(weights.log(), blocks)
    dist = CalibratedDistribution(MappedMixture(mixture, [SKEWED]), True)
    with pytest.raises(ValueError, match="no mode"):
        dist.mode()
    draws = dist.sample(8000, random_state=0)
    surprise = -dist.log_prob(draws)
    error = 4.0 * surprise.std(1) / np.sqrt(surprise.shape[1])
    assert (np.abs(dist.entropy() - surprise.mean(1)) < error).all()


def test_a_skewed_law_is_repaired():
    rng = np.random.RandomState(1)
    truth = stats.gamma(2.0)
    base = PredictiveDistribution.from_params(
        np.ones((500, 1)), np.full((500, 1), 2.0), np.full((500, 1), 1.5)
    )
    scores = to_tensor((truth.rvs(500, random_state=rng) - 2.0) / 1.5)
    learned = isotonic_map(scores, torch.ones_like(scores))
    dist = CalibratedDistribution(MappedMixture(base.mixture, [learned]), True)
    y = truth.rvs(500, random_state=rng)
    assert dist.log_prob(y).mean() > base.log_prob(y).mean() + 0.15
    assert dist.crps(y).mean() < base.crps(y).mean()
    assert abs(dist.mode()[0] - 1.0) < 0.5
