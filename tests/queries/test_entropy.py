"""The entropy of mixtures, against scipy's, sums and adaptive quadrature."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from skmdn.queries.entropy import sampled_entropy
from tests.helpers import generator, normal_mixture, random_mixture
from tests.laws import CONTINUOUS, LAWS, integral, mixture_of, split_points


def in_deviates(law):
    """Integrate the surprise over the law's own quantiles."""

    def surprise(z):
        y = law.ppf(stats.norm.cdf(z)) if z < 0 else law.isf(stats.norm.sf(z))
        return -law.logpdf(y) * stats.norm.pdf(z)

    edges = range(-9, 10)
    parts = [integrate.quad(surprise, a, a + 1, epsabs=1e-13)[0] for a in edges[:-1]]
    return sum(parts)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_entropy_of_every_density_is_that_of_quadrature(name):
    found, law = float(mixture_of(name).entropy()), LAWS[name][2]
    if name == "shifted beta":
        expected = float(law.entropy())
    elif name == "truncated":
        expected = integral(lambda y: -law.pdf(y) * law.logpdf(y), [0.0, 1.0, 10.0])
    else:
        expected = in_deviates(law)
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("names", "weights"),
    [
        (("student", "gamma", "normal"), [0.2, 0.5, 0.3]),
        (("spiked gamma", "weibull"), [0.6, 0.4]),
        (("laplace", "lognormal", "truncated"), [0.1, 0.2, 0.7]),
        (("logit-normal", "normal"), [0.5, 0.5]),
    ],
    ids=str,
)
def test_entropy_of_mixtures_of_several_families(names, weights):
    laws = [LAWS[name][2] for name in names]

    def integrand(y):
        density = sum(w * law.pdf(y) for w, law in zip(weights, laws, strict=True))
        return -density * math.log(density) if density > 0.0 else 0.0

    edges = np.concatenate([split_points(law) for law in laws] + [[0.0]])
    found = float(mixture_of(*names, weights=weights).entropy())
    assert found == pytest.approx(integral(integrand, edges), abs=1e-8)


def mass_entropy(probability):
    probability = probability[probability > 0.0]
    return -(probability * np.log(probability)).sum()


def test_entropy_of_discrete_mixtures_is_a_sum():
    names, weights = ("poisson", "negative binomial", "bernoulli", "zero"), [0.4, 0.3]
    weights = [*weights, 0.2, 0.1]
    k = np.arange(2_000)
    probability = sum(
        w * (LAWS[name][2].pmf(k) if LAWS[name][2] else (k == 0.0))
        for w, name in zip(weights, names, strict=True)
    )
    found = float(mixture_of(*names, weights=weights).entropy())
    assert found == pytest.approx(mass_entropy(probability), abs=1e-10)
    for name in names[:3]:
        expected = mass_entropy(LAWS[name][2].pmf(k))
        assert float(mixture_of(name).entropy()) == pytest.approx(expected, abs=1e-10)
    assert float(mixture_of("zero").entropy()) == 0.0


def test_masses_and_a_density_add_what_each_leaves_open():
    weights = [0.3, 0.2, 0.5]
    mixture = mixture_of("zero", "bernoulli", "lognormal", weights=weights)
    chance = LAWS["bernoulli"][2].pmf([0, 1])
    masses = mass_entropy(np.array([0.3 + 0.2 * chance[0], 0.2 * chance[1]]))
    rest = 0.5 * (in_deviates(LAWS["lognormal"][2]) - math.log(0.5))
    assert float(mixture.entropy()) == pytest.approx(masses + rest, abs=1e-10)


def test_components_of_no_weight_add_nothing():
    mixture = mixture_of("normal", "spiked gamma", weights=[1.0, 0.0])
    expected = LAWS["normal"][2].entropy()
    assert float(mixture.entropy()) == pytest.approx(expected, abs=1e-12)


def test_entropy_does_not_depend_on_how_many_copies_there_are():
    alone = normal_mixture([0.3, 0.7], [0.0, 2.0], [1.0, 1e-4])
    copies = normal_mixture([0.03, 0.07] * 10, [0.0, 2.0] * 10, [1.0, 1e-4] * 10)
    assert float(copies.entropy()) == pytest.approx(float(alone.entropy()), abs=1e-11)


def test_entropy_of_several_outputs_is_estimated():
    mixture = random_mixture("full", (), n_components=1, n_outputs=2)
    expected = 0.5 * np.linalg.slogdet(2 * math.pi * math.e * mixture.covariance())[1]
    found = float(sampled_entropy(mixture, 40_000, generator()))
    # The surprise of a normal point has a standard deviation of one per two outputs.
    assert abs(found - expected) < 4.0 / math.sqrt(40_000)
