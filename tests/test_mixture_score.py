"""What a mixture score of named components gets wrong elsewhere: a test for each."""

import math
import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from skmdn import MixtureDensityRegressor
from skmdn.distribution import PredictiveDistribution
from skmdn.families import (
    FAMILIES,
    Gamma,
    Laplace,
    Normal,
    PointMass,
    Poisson,
    StudentT,
    make_family,
)
from skmdn.mixture import Block, Mixture
from skmdn.queries.draws import choose_components
from tests.families import oracle
from tests.helpers import generator, randn, random_raw, tensor

THREE = {"bulk": "normal", "tails": StudentT(df=3.0), "sharp": "laplace"}


def blocks_of(families, batch=(), n_components=1, n_outputs=1, seed=0):
    """Return a block of random components for each family."""
    blocks = []
    for position, family in enumerate(families):
        raw = random_raw(family, batch, n_components, n_outputs, seed + position)
        blocks.append(Block(family, family.from_raw(raw, 0.2), n_components))
    return blocks


@pytest.fixture(scope="module")
def data():
    rng = np.random.RandomState(0)
    X = rng.normal(size=(120, 2))
    return X, X[:, 0] + rng.standard_t(4, size=120)


def small(family=THREE, **kwargs):
    params = {
        "n_components": 3,
        "n_estimators": 1,
        "embedding": "none",
        "hidden_layer_sizes": (8,),
        "max_iter": 4,
        "random_state": 0,
    }
    return MixtureDensityRegressor(family=family, **(params | kwargs))


# 1. A uniform number beyond the last cumulated weight, which rounding keeps below 1,
#    chose the first component; 0 chose it as well, whatever its weight.


@pytest.mark.parametrize("n_draws", [3, 5_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_1_the_ends_of_the_cumulated_weights_choose_components_with_weight(
    dtype, n_draws, monkeypatch
):
    weights = torch.softmax(randn(300, 40), -1).to(dtype)
    weights[:, [0, -1]] = 0.0
    weights = weights / weights.sum(-1, keepdim=True)
    assert bool((weights.cumsum(-1)[:, -1] < 1.0).any())
    below_one = 1.0 - torch.finfo(dtype).eps / 2.0
    for end, component in ((0.0, 1), (below_one, 38)):
        monkeypatch.setattr(
            torch.Tensor, "uniform_", lambda t, generator=None, end=end: t.fill_(end)
        )
        chosen = choose_components(weights, n_draws, None)
        assert bool((chosen == component).all())


# 2. Draws were made from all components and multiplied by a mask: 0 * inf is NaN.


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "families",
    [[Normal()], [StudentT()], [Normal(), Laplace(), Gamma()]],
    ids=["plain", "one block", "three blocks"],
)
def test_2_numbers_of_components_that_are_not_chosen_reach_no_draw(families, value):
    blocks = blocks_of(families, n_components=2)
    logits = randn(2 * len(blocks)).index_fill(0, torch.tensor([1]), -math.inf)
    spoiled = {name: tensor(v.tolist()) for name, v in blocks[0].params.items()}
    for number in spoiled.values():
        number[1] = value
    draws = [
        Mixture.from_logits(logits, [first, *blocks[1:]]).sample(2_000, generator())
        for first in (blocks[0], blocks[0].replace(spoiled))
    ]
    assert bool(draws[0].isfinite().all())
    assert torch.equal(*draws)


def test_2_users_cannot_make_such_components():
    for means, stds in ((np.nan, 1.0), (0.0, np.inf)):
        with pytest.raises(ValueError, match=r"finite|NaN|inf"):
            PredictiveDistribution.from_params([[1.0]], [[means]], stds=[[stds]])


# 3. The network ran once for every draw.


def test_3_all_draws_of_a_row_come_from_one_pass_of_the_network(data):
    X, y = data
    model = small().fit(X, y)
    seen = []
    model.module_.register_forward_hook(lambda module, x, out: seen.append(len(x[0])))
    assert model.sample(X, 1_000).shape == (120, 1_000)
    assert seen == [120]


# 4. Names with double underscores became parameters of other components.


def test_4_any_string_is_a_name(data):
    X, y = data
    names = ["a", "a__b", "__", "", "mean", "family"]
    kinds = ["normal", "laplace", StudentT(df=3.0), "normal", "logistic", "gumbel"]
    model = small(dict(zip(names, kinds, strict=True))).fit(X, y)
    dist = pickle.loads(pickle.dumps(model)).predict_distribution(X[:4])
    assert dist.names == tuple(names)
    for place, name in enumerate(names):
        part = dist.component(name)
        np.testing.assert_array_equal(part.means[:, 0], dist.means[:, place])
    assert clone(model).family == model.family
    search = GridSearchCV(small(), {"family": [model.family, "normal"]}, cv=2)
    assert search.fit(X, y).best_params_["family"] in (model.family, "normal")


# 5. A density without conditions could be sampled, but not evaluated.


def test_5_a_mixture_without_rows_answers_everything():
    mixture = Mixture.from_logits(randn(3), blocks_of([Normal(), StudentT(), Gamma()]))
    y = tensor([0.7])
    assert mixture.log_prob(y).shape == ()
    for query in (mixture.cdf, mixture.sf, mixture.crps, mixture.log_cdf):
        assert query(y).shape == (1,)
    assert mixture.ppf(tensor([0.1, 0.9])).shape == (2, 1)
    assert mixture.sample(5, generator()).shape == (5, 1)
    assert mixture.mean().shape == mixture.variance().shape == (1,)


# 6. Weights came in another order than the parts they belonged to, and a part of the
#    parts was no density any more.


def test_6_weights_belong_to_their_components_in_any_order(data):
    X, y = data
    turned = dict(reversed(THREE.items()))
    one, other = (small(f, max_iter=1).fit(X, y) for f in (THREE, turned))
    for model in (one, other):
        dist = model.predict_distribution(X[:6])
        for name, place in zip(dist.names, range(3), strict=True):
            law = dist.component(name)
            alone = dist.weights[:, place] * law.pdf(y[:6])
            shares = dist.responsibilities(y[:6])[:, place]
            np.testing.assert_allclose(alone, shares * dist.pdf(y[:6]), rtol=1e-10)


def test_6_some_of_the_components_are_a_density_again():
    mixture = Mixture.from_logits(
        tensor([0.4, 1.0, -0.3]), blocks_of([Normal(), StudentT(), Laplace()])
    )
    for chosen in ([0], [2, 1], [0, 2]):
        part = mixture.choose(chosen)

        def density(x, part=part):
            return float(part.log_prob(tensor([x])).exp())

        total = sum(
            quad(density, a, b, limit=200)[0]
            for a, b in ((-np.inf, -3.0), (-3.0, 3.0), (3.0, np.inf))
        )
        assert total == pytest.approx(1.0, abs=1e-6)


# 7. A seed was ignored, and one draw of the parts served all rows.


@pytest.mark.parametrize("family", ["normal", "laplace", THREE], ids=str)
def test_7_a_seed_repeats_the_draws(family, data):
    X, y = data
    model = small(family).fit(X, y)
    draws = [model.sample(X, 5, random_state=seed) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).all()


def test_7_rows_choose_their_components_by_themselves():
    n = 20_000
    weights = tensor([[0.3, 0.7]]).expand(2, 2)
    chosen = choose_components(weights, n, generator()).double()
    both = float((chosen[0] * chosen[1]).mean())
    assert abs(both - 0.49) < 4.0 * math.sqrt(0.49 * 0.51 / n)


# 8. A density failed before another method had told the object its shapes.


@pytest.mark.parametrize("name", FAMILIES)
def test_8_a_family_has_no_state(name):
    params = oracle.parameters(make_family(name))
    fresh = make_family(name)
    y = tensor([[1.0, 1.0]]) if fresh.discrete else tensor([[0.3, 0.6]])
    before = pickle.dumps(fresh)
    first = fresh.log_prob(params, y)
    fresh.raw_shapes(5, 7)
    assert torch.equal(first, fresh.log_prob(params, y))
    assert pickle.dumps(fresh) == before


# 9. Batches of several axes were documented and refused.


@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (2, 1, 3)], ids=str)
def test_9_batches_have_any_shape(batch):
    blocks = blocks_of([Normal(), StudentT(), PointMass(0.5)], batch, 2, 2)
    mixture = Mixture.from_logits(randn(*batch, 6), blocks)
    assert mixture.sample(4, generator()).shape == (*batch, 4, 2)
    assert mixture.log_prob(tensor([0.1, 0.2])).shape == batch
    assert mixture.unsqueeze().log_prob(randn(5, 2)).shape == (*batch, 5)
    assert mixture.ppf(tensor([0.2, 0.8])).shape == (*batch, 2, 2)


# 10. One missing number made a network of NaN, silently; all components began at
#     about the same place.


@pytest.mark.parametrize("where", ["X", "y", "sample_weight"])
def test_10_a_number_that_is_missing_is_refused(where, data):
    X, y = data
    rows = {"X": X.copy(), "y": y.copy(), "sample_weight": np.ones(120)}
    rows[where].flat[7] = np.inf
    model = small()
    with pytest.raises(ValueError, match=rf"(Input )?{where} contains"):
        model.fit(**rows)
    assert not hasattr(model, "module_")


def test_10_components_begin_side_by_side(data):
    X, y = data
    model = small("student_t", n_components=4, learning_rate_init=1e-12, max_iter=1)
    means = model.fit(X, y).predict_distribution(X[:1]).means[0]
    assert np.diff(np.sort(means)).min() > 0.2 * y.std()


# 11. Everything was computed in single precision.


def test_11_queries_are_exact_in_double_precision(data):
    X, y = data
    model = small().fit(X.astype(np.float32), y.astype(np.float32))
    dist = model.predict_distribution(X[:10])
    bulk, tails, sharp = (dist.component(name) for name in THREE)
    t_scale = tails.stds[:, 0] / math.sqrt(3.0)
    laws = [
        stats.norm(bulk.means[:, 0], bulk.stds[:, 0]),
        stats.t(3.0, tails.means[:, 0], t_scale),
        stats.laplace(sharp.means[:, 0], sharp.stds[:, 0] / math.sqrt(2.0)),
    ]
    found = dist.log_prob(y[:10])
    assert found.dtype == np.float64
    joint = np.log(dist.weights.T) + [law.logpdf(y[:10]) for law in laws]
    np.testing.assert_allclose(found, logsumexp(joint, axis=0), rtol=1e-11)
    cdf = (dist.weights.T * [law.cdf(y[:10]) for law in laws]).sum(0)
    np.testing.assert_allclose(dist.cdf(y[:10]), cdf, rtol=1e-10)


# 12. What was right there: densities far out are finite.


@pytest.mark.parametrize("y", [-1e8, -1e4, 1e4, 1e8])
def test_12_far_tails_are_those_of_the_heaviest_component(y):
    blocks = blocks_of([Normal(), StudentT(df=3.0), Laplace()])
    log_weights = torch.log_softmax(tensor([2.0, -2.0, 0.5]), -1)
    mixture = Mixture(log_weights, blocks)
    student = blocks[1].params
    law = stats.t(3.0, student["loc"].item(), student["scale"].item())
    expected = float(log_weights[1]) + law.logpdf(y)
    assert float(mixture.log_prob(tensor([y]))) == pytest.approx(expected, rel=1e-12)


# Facts that hold for every mixture.


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_masses_and_densities_sum_to_one_with_respect_to_their_base_measure(
    temperature,
):
    blocks = blocks_of([Normal(), PointMass(0.5), Poisson(), PointMass(-2.0)])
    mixture = Mixture.from_logits(randn(4), blocks, temperature)

    def density(x):
        return float(mixture.log_prob(tensor([x])).exp())

    ends = (-np.inf, -3.0, 0.0, 3.0, np.inf)
    between = sum(quad(density, a, b)[0] for a, b in pairwise(ends))
    masses = sum(map(density, [-2.0, 0.5, *map(float, range(60))]))
    weights = mixture.weights.tolist()
    assert between == pytest.approx(weights[0], abs=1e-6)
    assert masses == pytest.approx(1.0 - weights[0], abs=1e-9)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_density_has_the_gradient_of_its_definition(temperature):
    families = [Normal(), StudentT(), Gamma()]
    raws = [random_raw(family, (), 1, 1, 4) for family in families]
    leaves = [tensor([0.3, -0.5, 0.1]), *(v for raw in raws for v in raw.values())]

    def log_prob(leaves):
        logits, *numbers = leaves
        rest, blocks = iter(numbers), []
        for family, raw in zip(families, raws, strict=True):
            params = family.from_raw({name: next(rest) for name in raw}, 0.1)
            blocks.append(Block(family, params, 1))
        mixture = Mixture.from_logits(logits, blocks, temperature)
        return mixture.log_prob(tensor([[0.4], [2.0], [-1.0]])).sum()

    leaves = [leaf.requires_grad_() for leaf in leaves]
    assert torch.autograd.gradcheck(lambda *leaves: log_prob(leaves), leaves)


@pytest.mark.parametrize("family", ["student_t", ["laplace"], {"one": "normal"}])
def test_one_component_and_one_output_are_ordinary(family, data):
    X, y = data
    flat = small(family, n_components=1).fit(X, y)
    column = small(family, n_components=1).fit(X, y[:, None])
    np.testing.assert_array_equal(flat.log_prob(X, y), column.log_prob(X, y[:, None]))
    dist = flat.predict_distribution(X)
    np.testing.assert_array_equal(dist.weights, np.ones((120, 1)))
    np.testing.assert_allclose(dist.mean(), dist.means[:, 0], rtol=1e-14)
    assert column.sample(X, 3).shape == (120, 3, 1)
    assert column.predict_quantiles(X, [0.5]).shape == (120, 1, 1)


def test_a_density_follows_the_units_of_its_target(data):
    X, y = data
    one, other = small().fit(X, y), small().fit(X, 1e3 * y - 7.0)
    moved = other.log_prob(X, 1e3 * y - 7.0)
    np.testing.assert_allclose(moved, one.log_prob(X, y) - math.log(1e3), atol=1e-6)
