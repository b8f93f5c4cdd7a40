import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.stats import norm

from skmdn.families import Beta, Family, Logistic
from skmdn.mixture import Block, Mixture
from skmdn.queries.crps import normal_crps
from tests.helpers import randn, random_mixture, tensor
from tests.laws import CONTINUOUS, LAWS, integral, mixture_of, row, split_points


def random_parts(batch=(6,), n_components=4, n_outputs=2):
    weights = torch.softmax(randn(*batch, n_components, seed=1), -1)
    shape = (*batch, n_components, n_outputs)
    return weights, 3.0 * randn(*shape, seed=2), randn(*shape, seed=3).exp()


def mean_abs(mean, std):
    z = mean / std
    return mean * (2.0 * norm.cdf(z) - 1.0) + 2.0 * std * norm.pdf(z)


def by_pairs(weights, means, stds, y):
    """The formula, pair by pair, for one output of one mixture."""
    parts = list(zip(weights, means, stds, strict=True))
    near = sum(w * mean_abs(y - m, s) for w, m, s in parts)
    apart = sum(
        v * w * mean_abs(a - b, math.hypot(s, t))
        for v, a, s in parts
        for w, b, t in parts
    )
    return near - 0.5 * apart


@pytest.mark.parametrize("block", [1, 8, 2**15])
@pytest.mark.parametrize("batch", [(), (6,), (2, 3)], ids=str)
def test_crps_is_a_sum_over_pairs(batch, block, monkeypatch):
    monkeypatch.setattr("skmdn.queries.crps._BLOCK", block)
    weights, means, stds = random_parts(batch)
    y = randn(*batch, 2, seed=4)
    result = normal_crps(weights, means, stds, y)
    assert result.shape == (*batch, 2)
    for *place, output in np.ndindex(*batch, 2):
        at = tuple(place)
        columns = [part[at][:, output].tolist() for part in (means, stds)]
        expected = by_pairs(weights[at].tolist(), *columns, y[at][output].item())
        np.testing.assert_allclose(result[at][output], expected, rtol=1e-12)


@pytest.mark.parametrize("unit", [1e-250, 1e-12, 1e12, 1e250])
def test_crps_has_the_units_of_y_however_large_they_are(unit):
    weights, means, stds = random_parts()
    y = randn(6, 2, seed=4)
    expected = normal_crps(weights, means, stds, y)
    result = normal_crps(weights, unit * means, unit * stds, unit * y) / unit
    torch.testing.assert_close(result, expected, rtol=1e-13, atol=0)


def test_crps_of_one_component_is_the_known_formula():
    y = tensor([[-1.0], [0.3], [40.0]])
    two = tensor([[[2.0]]] * 3)
    result = normal_crps(tensor([[1.0]] * 3), two, two, y)
    z = (y.numpy() - 2.0) / 2.0
    expected = 2.0 * (
        z * (2.0 * norm.cdf(z) - 1.0) + 2.0 * norm.pdf(z) - 1.0 / math.sqrt(math.pi)
    )
    np.testing.assert_allclose(result, expected, rtol=1e-14)


def test_crps_can_be_differentiated():
    parts = [part.requires_grad_() for part in random_parts((3,))]
    assert torch.autograd.gradcheck(
        lambda *some: normal_crps(*some, torch.zeros(3, 2, dtype=torch.float64)), parts
    )


# By quadrature, of any families.


def oracle(names, weights, y):
    """Integrate the squared error of the distribution function."""
    laws = [LAWS[name][2] for name in names]
    parts = list(zip(weights, laws, strict=True))

    def height(x):
        tail = sum(w * (law.cdf(x) if x < y else law.sf(x)) for w, law in parts)
        return tail**2

    edges = np.concatenate([split_points(law) for law in laws])
    edges = np.concatenate([edges[np.isfinite(edges)], [y, 0.0]])
    return integral(height, edges)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_crps_of_every_family_is_that_of_quadrature(name):
    law = LAWS[name][2]
    points = law.ppf([0.001, 0.3, 0.97]).tolist()
    found = row(mixture_of(name)).crps(tensor(points).unsqueeze(-1))[:, 0]
    expected = [oracle([name], [1.0], y) for y in points]
    np.testing.assert_allclose(found, expected, rtol=1e-8)


@pytest.mark.parametrize(
    ("names", "weights"),
    [
        (("student", "gamma", "normal"), [0.2, 0.5, 0.3]),
        (("spiked gamma", "cauchy", "weibull"), [0.5, 0.1, 0.4]),
        (("laplace", "lognormal", "truncated"), [0.1, 0.2, 0.7]),
        (("shifted beta", "beta", "gumbel"), [0.3, 0.3, 0.4]),
        (("logit-normal", "normal"), [0.5, 0.5]),
    ],
    ids=str,
)
def test_crps_of_mixtures_of_several_families(names, weights):
    mixture = row(mixture_of(*names, weights=weights))
    points = [-1.3, 0.4, 3.0]
    found = mixture.crps(tensor(points).unsqueeze(-1))[:, 0]
    expected = [oracle(names, weights, y) for y in points]
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def stairs(names, weights, y):
    """Add up the steps between integers."""
    low, high = -5.0, 3_000.0
    edges = np.unique([*np.arange(low, high), y])
    parts = [
        w * (LAWS[name][2].cdf(edges[:-1]) if LAWS[name][2] else edges[:-1] >= 0.0)
        for w, name in zip(weights, names, strict=True)
    ]
    return (np.diff(edges) * (sum(parts) - (edges[:-1] >= y)) ** 2).sum()


@pytest.mark.parametrize(
    ("names", "weights"),
    [
        (("poisson",), [1.0]),
        (("bernoulli",), [1.0]),
        (("negative binomial", "poisson", "zero"), [0.5, 0.3, 0.2]),
    ],
    ids=str,
)
def test_crps_of_discrete_mixtures_adds_up_steps(names, weights):
    mixture = row(mixture_of(*names, weights=weights))
    points = [-3.0, 0.0, 0.4, 7.0, 60.5]
    found = mixture.crps(tensor(points).unsqueeze(-1))[:, 0]
    expected = [stairs(names, weights, y) for y in points]
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_crps_of_masses_beside_a_density():
    mixture = row(mixture_of("zero", "poisson", "lognormal", weights=[0.3, 0.2, 0.5]))
    poisson, lognormal = LAWS["poisson"][2], LAWS["lognormal"][2]
    for y in (-0.5, 0.0, 1.7, 12.0):

        def height(x, y=y):
            below = 0.3 * (x >= 0) + 0.2 * poisson.cdf(x) + 0.5 * lognormal.cdf(x)
            above = 0.3 * (x < 0) + 0.2 * poisson.sf(x) + 0.5 * lognormal.sf(x)
            return (below if x < y else above) ** 2

        edges = np.concatenate([split_points(lognormal), np.arange(60.0), [y, -0.5]])
        found = float(mixture.crps(tensor([[y]])))
        assert found == pytest.approx(integral(height, edges), rel=1e-8)


def test_points_of_a_row_share_the_work_and_do_not_change_the_answer():
    mixture = random_mixture("diag", (3,), n_outputs=2)
    params = mixture.blocks[0].params
    params = {"loc": params["mean"], "scale": params["scale"]}
    rows = Mixture(mixture.log_weights, [Block(Logistic(), params, 3)])
    points = 5.0 * randn(3, 7, 2, seed=3)
    together = rows.unsqueeze().crps(points)
    one_by_one = torch.stack([rows.crps(points[:, i]) for i in range(7)], 1)
    torch.testing.assert_close(together, one_by_one, rtol=1e-10, atol=1e-12)
    single = rows[0].crps(points[0, 0])
    torch.testing.assert_close(single, together[0, 0], rtol=1e-10, atol=1e-12)
    outputs = [rows.marginal([d]).crps(points[:, 0, d : d + 1]) for d in (0, 1)]
    torch.testing.assert_close(torch.cat(outputs, -1), one_by_one[:, 0])


def test_far_away_the_score_is_the_distance():
    mixture = row(mixture_of("gamma"))
    mean = LAWS["gamma"][2].mean()
    spread = float(mixture.crps(tensor([[1e9]]))) - (1e9 - mean)
    assert -1.0 < spread < 0.0
    below = float(mixture.crps(tensor([[-1e9]]))) - (1e9 + mean)
    assert below == pytest.approx(spread, abs=1e-6)


def test_on_an_interval_points_outside_are_scored_too():
    mixture = row(mixture_of("logit-normal"))
    inside, ends = tensor([[1.9999999]]), tensor([[2.0]])
    at_end = float(mixture.crps(ends))
    assert at_end == pytest.approx(float(mixture.crps(inside)), abs=1e-6)
    assert float(mixture.crps(ends + 3.0)) == pytest.approx(at_end + 3.0, abs=1e-12)


@pytest.mark.parametrize(("b", "rtol"), [(0.3, 1e-9), (0.02, 1e-4)])
def test_densities_that_cannot_be_seen_at_an_end_are_no_loss(b, rtol):
    # Almost half of the second law lies nearer to 1 than the next number does.
    law, mirrored = stats.beta(0.5, b), stats.beta(b, 0.5)
    values = {"a": 0.5, "b": b, "low": 0.0, "high": 1.0}
    params = {name: tensor([[[value]]]) for name, value in values.items()}
    mixture = Mixture(tensor([[0.0]]), [Block(Beta(), params, 1)])
    for y in (0.1, 0.9):
        below = integral(lambda x: law.cdf(x) ** 2, [1e-300, y])
        above = integral(lambda d: mirrored.cdf(d) ** 2, [1e-300, 1.0 - y])
        found = float(mixture.crps(tensor([[y]])))
        assert found == pytest.approx(below + above, rel=rtol)


class Uniform(Logistic):
    """A family that says nothing about where it is smooth."""

    kinks = Family.kinks

    def _log_density(self, z):
        return torch.where(z.abs() <= 1.0, -math.log(2.0), -math.inf).to(z)

    def _cdf(self, z):
        return (0.5 + 0.5 * z).clamp(0.0, 1.0)

    def _ppf(self, q):
        return 2.0 * q - 1.0


def test_families_that_say_little_are_scored_well():
    params = {"loc": tensor([[[1.0], [1.7]]]), "scale": tensor([[[2.0], [0.5]]])}
    mixture = Mixture(tensor([[0.4, 0.6]]).log(), [Block(Uniform(), params, 2)])

    def height(x):
        cdf = 0.4 * stats.uniform.cdf(x, -1, 4) + 0.6 * stats.uniform.cdf(x, 1.2, 1)
        return (cdf - (x >= 0.5)) ** 2

    expected = integral(height, [-1.0, 0.5, 1.2, 2.2, 3.0])
    assert float(mixture.crps(tensor([[0.5]]))) == pytest.approx(expected, rel=1e-8)
    expected = 0.0
    for density, length in ((0.1, 2.2), (0.1 + 0.6, 1.0), (0.1, 0.8)):
        expected -= length * density * math.log(density)
    assert float(mixture.entropy()) == pytest.approx(expected, rel=1e-8)
