"""Calibration reports: what each check sees, on a posterior that is known."""

import numpy as np
import pytest
from scipy import stats
from sklearn.utils import check_random_state

from skmdn.diagnostics import CalibrationReport, calibration_report, ecdf_band, sbc
from skmdn.simulation import make_simulator
from tests.helpers import within_standard_errors


def n(rng):
    return rng.integers(10, 101)


def theta(rng):
    return rng.normal()


def x(theta, n, rng):
    return rng.normal(theta, size=n)


def simulator():
    """Return the talk's: the mean of a normal, of 10 to 100 observations."""
    return make_simulator([n, theta, x])


class ConjugateNormal:
    """The exact posterior of a normal mean, or one made wrong on purpose."""

    def __init__(self, width=1.0, shift=0.0, prior=False):
        self.width, self.shift, self.prior = width, shift, prior

    def moments(self, X):
        if self.prior:
            return np.zeros(len(X)), np.ones(len(X))
        precision = 1.0 + np.isfinite(X).sum(1)
        std = 1.0 / np.sqrt(precision)
        mean = np.nansum(X, axis=1) / precision + self.shift * std
        return mean, self.width * std

    def sample(self, X, n_samples, random_state=None):
        mean, std = self.moments(X)
        rng = np.random.default_rng(random_state)
        return rng.normal(mean[:, None], std[:, None], size=(len(X), n_samples))

    def log_prob(self, X, theta):
        mean, std = self.moments(X)
        return stats.norm.logpdf(theta[:, 0], mean, std)


def log_likelihood(X, theta):
    return np.nansum(stats.norm.logpdf(X, theta), axis=1)


def judged(**wrong):
    return sbc(
        ConjugateNormal(**wrong),
        simulator(),
        n_simulations=500,
        n_samples=200,
        quantities={"log_likelihood": log_likelihood},
        random_state=0,
    )


@pytest.fixture(scope="module")
def reports():
    return {
        "exact": judged(),
        "narrow": judged(width=0.7),
        "wide": judged(width=1.4),
        "shifted": judged(shift=0.5),
        "prior": judged(prior=True),
    }


# What is flagged of the parameter. No check of it sees the prior: that its scores are
# no better than the prior's is what gives it away.
TABLE = {
    "exact": set(),
    "narrow": {"ranks", "coverage", "spread", "tarp"},
    "wide": {"ranks", "coverage", "spread", "tarp"},
    "shifted": {"ranks", "coverage", "bias", "spread", "tarp"},
    "prior": {"information"},
}


@pytest.mark.parametrize("posterior", TABLE)
def test_what_is_made_wrong_on_purpose_is_flagged_and_nothing_else(reports, posterior):
    flags = reports[posterior].flags()
    of_theta = {
        check for check, names in flags.items() if {"theta", "joint"} & {*names}
    }
    assert of_theta == TABLE[posterior]
    assert bool(flags) == (posterior != "exact")


def test_ranks_of_the_exact_posterior_are_inside_the_band(reports):
    report = reports["exact"]
    points, low, high = ecdf_band(500, n_points=200)
    shares = np.searchsorted(np.sort(report.pit[:, 0]), points) / 500
    assert ((low <= shares) & (shares <= high)).all()
    assert report.rank_test[0][0] > 0


@pytest.mark.parametrize("posterior", ["shifted", "prior"])
def test_coverage_is_blind_to_these(reports, posterior):
    coverage = reports[posterior].coverage([0.5, 0.8, 0.95])[:, 0]
    assert np.abs(coverage - [0.5, 0.8, 0.95]).max() < 0.12


def test_calibration_is_blind_to_the_prior(reports):
    report = reports["prior"]
    assert report.rank_test[0][0] > 0
    assert report.tarp_test[0] > 0
    assert abs(report.skill[0]) < 0.02
    assert abs(report.contraction[:, 0].mean()) < 0.1
    # A quantity of the data sees it.
    assert report.rank_test[0][1] < -5


def test_overconfidence_looks_better_where_it_is_not(reports):
    exact, narrow = reports["exact"], reports["narrow"]
    assert narrow.contraction[:, 0].mean() > exact.contraction[:, 0].mean()
    assert narrow.recovery[0] == pytest.approx(exact.recovery[0], abs=0.01)
    # The proper scores are not deceived.
    assert narrow.crps[:, 0].mean() > exact.crps[:, 0].mean()
    assert narrow.log_score < exact.log_score


def test_the_exact_posterior_has_the_best_scores(reports):
    for name, report in reports.items():
        if name != "exact":
            assert report.crps[:, 0].mean() > reports["exact"].crps[:, 0].mean()
            assert report.log_score < reports["exact"].log_score


def test_numbers_of_the_exact_posterior(reports):
    report = reports["exact"]
    assert report.names == ("theta", "log_likelihood")
    data = simulator().sample(500, random_state=check_random_state(0))
    std = 1.0 / np.sqrt(data["n"] + 1.0)
    contraction = 1.0 - np.square(std) / report.theta[:, 0].var(ddof=1)
    np.testing.assert_allclose(report.contraction[:, 0], contraction, atol=0.03)
    assert np.isnan(report.contraction[:, 1]).all()
    z = report.z_scores[:, 0]
    assert within_standard_errors(z, 0.0, 0)
    assert z.std() == pytest.approx(1.0, abs=0.13)
    assert within_standard_errors(report.crps[:, 0] / std, 1.0 / np.sqrt(np.pi), 0)
    assert report.skill[0] == pytest.approx(1.0 - std.mean(), abs=0.05)
    entropy = stats.norm(scale=std).entropy().mean()
    assert report.log_score == pytest.approx(-entropy, abs=0.15)


def test_bias_and_spread_say_how_much(reports):
    # The truth lies half a standard deviation below the shifted mean.
    assert reports["shifted"].bias[0] == pytest.approx(-0.5, abs=0.15)
    assert reports["narrow"].spread[0] == pytest.approx(1 / 0.7, abs=0.15)
    assert reports["wide"].spread[0] == pytest.approx(1 / 1.4, abs=0.1)
    assert reports["exact"].bias_p_value[0] > 0.01
    assert reports["exact"].spread_p_value[0] > 0.01


def test_the_table_can_be_read(reports):
    text = str(reports["narrow"])
    assert text.splitlines()[0].split()[:2] == ["log", "gamma"]
    assert "flagged: ranks: theta" in text
    assert "log score" in text
    assert "flagged: nothing" in str(reports["exact"])


def test_checks_hold_their_level():
    rng = np.random.default_rng(0)
    n_flagged = 0
    for seed in range(200):
        draws, truth = rng.normal(size=(60, 49)), rng.normal(size=60)
        flags = calibration_report(draws, truth, random_state=seed).flags(0.05)
        n_flagged += sum(check != "information" for check in flags)
    # Five checks at 5 %.
    assert n_flagged < stats.binom.isf(1e-4, 1000, 0.05)


def test_several_parameters_jointly():
    # Margins are right, the correlation is missing: only the joint check can see it.
    rng = np.random.default_rng(0)
    n, covariance = 1000, [[1.0, 0.95], [0.95, 1.0]]
    truth = rng.multivariate_normal(np.zeros(2), covariance, size=n)
    right = rng.multivariate_normal(np.zeros(2), covariance, size=(n, 200))
    wrong = rng.normal(size=(n, 200, 2))
    assert "tarp" not in calibration_report(right, truth, random_state=0).flags()
    flags = calibration_report(wrong, truth, random_state=0).flags()
    assert flags["tarp"] == ["joint"]
    assert "ranks" not in flags


def test_seeds_determine_the_report():
    a, b = (judged() for _ in range(2))
    np.testing.assert_array_equal(a.pit, b.pit)
    np.testing.assert_array_equal(a.tarp, b.tarp)


def test_simulations_can_be_given():
    data = simulator().sample(100, random_state=0)
    pairs = data.padded("x"), data["theta"][:, None]
    report = sbc(ConjugateNormal(), pairs, random_state=0)
    assert isinstance(report, CalibrationReport)
    assert report.names == ("theta",)
    assert len(report.ranks) == 100
    by_function = sbc(
        ConjugateNormal(),
        simulator(),
        n_simulations=50,
        data=lambda data: data.padded("x"),
        parameters=["theta"],
        random_state=0,
    )
    assert by_function.names == ("theta",)


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match=r"returns no 'mu' but \['n', 'theta', 'x',"):
        sbc(
            ConjugateNormal(),
            simulator(),
            parameters="mu",
            random_state=0,
        )
    draws, truth = np.zeros((5, 4, 2)), np.zeros((5, 2))
    with pytest.raises(ValueError, match="draws must have the shape"):
        calibration_report(draws, truth[:4])
    with pytest.raises(ValueError, match="draws have 2 parameters, theta has 1"):
        calibration_report(draws, truth[:, :1])
    with pytest.raises(ValueError, match="draws contains NaN"):
        calibration_report(np.full((5, 4), np.nan), truth[:, 0])
    with pytest.raises(ValueError, match="two draws"):
        calibration_report(np.zeros((5, 1)), truth[:, 0])
    with pytest.raises(ValueError, match="two simulations"):
        calibration_report(np.zeros((1, 5)), truth[:1, 0])
    with pytest.raises(ValueError, match="1 names for 2"):
        calibration_report(draws, truth, names=["a"], random_state=0)
    with pytest.raises(ValueError, match="one number per draw"):
        calibration_report(
            draws, truth, quantities={"q": (draws, truth)}, random_state=0
        )
