"""The scores of the benchmarks against their definitions; adapters and driver."""

import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NAMES = ("scores", "peers", "uci_sets", "uci_summary", "uci")


@pytest.fixture(scope="module")
def bench():
    """The scripts, which find each other by their folder, as modules."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield SimpleNamespace(**{name: import_module(name) for name in NAMES})
    for name in set(NAMES) - before:
        del sys.modules[name]


@pytest.fixture(scope="module")
def scores(bench):
    return bench.scores


@pytest.fixture
def mixture(scores):
    rng = np.random.RandomState(0)
    weights = rng.dirichlet(np.ones(3), size=4)
    return scores.NormalMixture(
        weights, rng.normal(0, 3, (4, 3)), rng.uniform(0.1, 2, (4, 3))
    )


def frozen(mixture, row):
    """The pdf and cdf of a row, from scipy."""
    weights, means, stds = (array[row] for array in mixture)
    normals = stats.norm(means, stds)
    return (
        lambda y: np.sum(weights * normals.pdf(y)),
        lambda y: np.sum(weights * normals.cdf(y)),
    )


def draws(mixture, row, n_draws):
    rng = np.random.RandomState(1)
    which = rng.choice(mixture.weights.shape[1], n_draws, p=mixture.weights[row])
    return rng.normal(mixture.means[row][which], mixture.stds[row][which])


def repeated(scores, mixture, row, n_rows):
    """The same distribution for many rows."""
    return scores.NormalMixture(
        *(np.tile(array[row], (n_rows, 1)) for array in mixture)
    )


def test_log_density_is_that_of_scipy(scores, mixture):
    y = np.array([-4.0, 0.0, 1.5, 6.0])
    expected = [np.log(frozen(mixture, i)[0](y[i])) for i in range(4)]
    np.testing.assert_allclose(scores.log_density(mixture, y), expected, rtol=1e-12)
    assert np.isfinite(scores.log_density(mixture, y + 1e6)).all()


def test_cells_are_differences_of_the_distribution_function(scores, mixture):
    y = np.array([-4.0, 0.0, 1.5, 6.0])
    expected = [
        np.log(frozen(mixture, i)[1](y[i] + 0.25) - frozen(mixture, i)[1](y[i] - 0.25))
        for i in range(4)
    ]
    np.testing.assert_allclose(scores.log_cell(mixture, y, 0.5), expected, rtol=1e-9)


def test_cells_keep_their_digits_in_both_tails(scores):
    standard = scores.normal([0.0, 0.0], [1.0, 1.0])
    lower, upper = scores.log_cell(standard, np.array([-30.5, 30.5]), 1.0)
    assert lower == upper
    np.testing.assert_allclose(lower, stats.norm.logsf(30.0), rtol=1e-12)


def test_narrow_cells_tend_to_the_density(scores, mixture):
    y = np.array([-4.0, 0.0, 1.5, 6.0])
    cell = scores.log_cell(mixture, y, 1e-5) - np.log(1e-5)
    np.testing.assert_allclose(cell, scores.log_density(mixture, y), atol=1e-6)


def test_crps_is_the_integral_of_its_definition(scores, mixture):
    y = np.array([-4.0, 0.0, 1.5, 6.0])
    expected = []
    for i in range(4):
        cdf = frozen(mixture, i)[1]
        below = quad(lambda t, cdf=cdf: cdf(t) ** 2, -40, y[i], limit=500)[0]
        above = quad(lambda t, cdf=cdf: (1 - cdf(t)) ** 2, y[i], 40, limit=500)[0]
        expected.append(below + above)
    np.testing.assert_allclose(scores.crps(mixture, y), expected, rtol=1e-7)


def test_crps_does_not_depend_on_chunks(scores, mixture, monkeypatch):
    y = np.arange(4.0)
    whole = scores.crps(mixture, y)
    monkeypatch.setattr(scores, "CHUNK", 9)
    np.testing.assert_array_equal(scores.crps(mixture, y), whole)


def test_crps_of_the_true_normal_is_sigma_over_root_pi(scores):
    y = np.random.RandomState(0).normal(1.0, 2.0, 20_000)
    values = scores.crps(scores.normal(np.full(y.shape, 1.0), 2.0), y)
    error = values.std() / np.sqrt(len(y))
    assert abs(values.mean() - 2.0 / np.sqrt(np.pi)) < 4 * error


def test_crps_of_samples_is_that_of_the_definition(scores):
    rng = np.random.RandomState(0)
    values, y = rng.poisson(3.0, (5, 8)).astype(float), rng.normal(3, 2, 5)
    pairs = np.abs(values[:, :, None] - values[:, None, :]).mean((1, 2))
    expected = np.abs(values - y[:, None]).mean(1) - pairs / 2
    np.testing.assert_allclose(scores.crps(scores.Sample(values), y), expected)


def test_pit_of_samples_takes_the_middle_of_a_jump(scores):
    sample = scores.Sample(np.array([[1.0, 2.0, 2.0, 3.0]] * 3))
    assert scores.pit(sample, np.array([0.0, 2.0, 2.5])).tolist() == [0.0, 0.5, 0.75]


def test_scores_of_the_true_distribution(scores, mixture):
    n_draws = 20_000
    y = draws(mixture, 0, n_draws)
    found = scores.score(repeated(scores, mixture, 0, n_draws), y, spacing=None)
    for level in (50, 90):
        p = level / 100
        error = np.sqrt(p * (1 - p) / n_draws)
        assert abs(found[f"coverage_{level}"] - p) < 4 * error
    # Beyond 2.2 / sqrt(n) lies less than one in ten thousand Kolmogorov distances.
    assert found["pit_distance"] < 2.2 / np.sqrt(n_draws)
    pdf = frozen(mixture, 0)[0]
    entropy = quad(lambda t: -pdf(t) * np.log(max(pdf(t), 1e-300)), -40, 40, limit=500)
    log_prob = np.log([pdf(value) for value in y])
    assert abs(found["nll"] - entropy[0]) < 4 * log_prob.std() / np.sqrt(n_draws)
    np.testing.assert_allclose(found["nll_median"], -np.median(log_prob))
    mean = np.sum(mixture.weights[0] * mixture.means[0])
    np.testing.assert_allclose(found["rmse"], np.sqrt(np.mean((y - mean) ** 2)))
    assert found["nll_cell"] is None


def test_pit_distance_is_kolmogorovs(scores):
    u = np.random.RandomState(0).beta(2, 3, 50)
    np.testing.assert_allclose(scores.pit_distance(u), stats.kstest(u, "uniform")[0])


def test_scores_that_do_not_apply_are_none(scores):
    found = scores.score(scores.Sample(np.zeros((2, 3))), np.zeros(2), spacing=1.0)
    assert [name for name in scores.SCORES if found[name] is None] == [
        "nll",
        "nll_median",
        "nll_cell",
    ]


@pytest.mark.parametrize(
    ("y", "spacing"),
    [
        (np.repeat([3, 4, 5, 6, 7, 8], 60), 1.0),
        (np.tile(np.arange(51) / 1000 + 0.95, 60), 0.001),
        (np.repeat([0, 1, 3], 100), None),
        (np.arange(300.0), None),
        (np.zeros(300), None),
    ],
)
def test_lattices(scores, y, spacing):
    assert scores.lattice_spacing(y) == pytest.approx(spacing)


@pytest.mark.parametrize("wrong", ["weights", "means", "stds"])
def test_no_distribution_is_refused(scores, mixture, wrong):
    broken = {"weights": 0.9, "means": np.nan, "stds": 0.0}[wrong]
    array = getattr(mixture, wrong) * broken
    with pytest.raises(ValueError, match=r"finite|positive|sum to 1"):
        scores.score(mixture._replace(**{wrong: array}), np.zeros(4))


def test_the_adapter_of_skmdn(bench):
    table = bench.uci_sets.toy()
    test = table.test_masks[0]
    fit = bench.peers.skmdn
    predict = fit(table.X[~test], table.y[~test], 0, n_estimators=1, max_iter=30)
    found = bench.scores.score(predict(table.X[test]), table.y[test])
    entropy = 0.5 * np.log(2 * np.pi * np.e * 2.0**2)
    assert abs(found["nll"] - entropy) < 0.2
    assert found["crps"] == pytest.approx(2 / np.sqrt(np.pi), rel=0.1)
    assert found["coverage_90"] == pytest.approx(0.9, abs=0.05)


def test_scaling_around_a_peer_is_undone(bench):
    rng = np.random.RandomState(0)
    X, y = rng.normal(5, 3, (50, 2)), rng.normal(100, 7, 50)
    seen = {}

    def fit(X, y, seed):
        seen["X"], seen["y"] = X, y
        return lambda X: (np.ones((3, 1)), X[:, :1], np.full((3, 1), 0.5))

    predict = bench.peers.standardised(fit)(X, y, 0)
    for array in (seen["X"], seen["y"]):
        np.testing.assert_allclose(array.mean(0), 0, atol=1e-12)
        np.testing.assert_allclose(array.std(0), 1)
    mixture = predict(X[:3])
    expected = y.mean() + y.std() * (X[:3, :1] - X[:, 0].mean()) / X[:, 0].std()
    np.testing.assert_allclose(mixture.means, expected)
    np.testing.assert_allclose(mixture.stds, 0.5 * y.std())


def test_published_files(bench, tmp_path):
    rng = np.random.RandomState(0)
    masks = rng.uniform(size=(20, 13)) < 0.1
    arrays = {"X": rng.normal(size=(13, 2)), "y": rng.normal(size=13)}
    packed = np.packbits(masks, axis=1)
    for name in ("yacht", "energy"):
        np.savez(tmp_path / f"{name}.npz", **arrays, test_mask=packed, n_rows=13)
    assert bench.uci_sets.names(tmp_path) == ["diabetes", "energy", "yacht"]
    table = bench.uci_sets.load("yacht", tmp_path)
    np.testing.assert_array_equal(table.test_masks, masks)
    np.testing.assert_array_equal(table.X, arrays["X"])


def test_random_splits_test_a_tenth(bench):
    table = bench.uci_sets.load("diabetes", None)
    assert table.test_masks.shape == (20, 442)
    assert set(table.test_masks.sum(1)) == {45}


def test_a_run_goes_on_where_it_ended(bench, tmp_path):
    out = tmp_path / "uci.csv"
    arguments = ["--sets", "diabetes", "--models", "boosted-trees", "--out", str(out)]
    bench.uci.run(bench.uci.arguments([*arguments, "--splits", "0"]))
    with pytest.raises(SystemExit, match="exists"):
        bench.uci.run(bench.uci.arguments([*arguments, "--splits", "0"]))
    bench.uci.run(bench.uci.arguments([*arguments, "--splits", "0-1", "--resume"]))
    rows = bench.uci_summary.read([out])
    assert [row["split"] for row in rows] == ["0", "1"]
    for row in rows:
        assert row["error"] == ""
        assert "scikit-learn" in row["versions"]
        assert 5.2 < float(row["nll"]) < 6.2
        assert float(row["fit_s"]) > 0
        assert float(row["peak_mb"]) >= float(row["base_mb"]) > 0


def test_the_check_notices_a_wrong_density(bench):
    good = {
        "nll": 2.13,
        "crps": 2 / np.sqrt(np.pi),
        "coverage_50": 0.5,
        "coverage_90": 0.9,
        "mass_error": 1e-6,
    }
    assert bench.uci.problems_of(good, 2.12, 2.0, 0.1) == []
    wrong = good | {"nll": 1.0, "mass_error": 0.5}
    assert bench.uci.problems_of(wrong, 2.12, 2.0, 0.1) == ["NLL is off", "mass is off"]
    assert bench.uci.problems_of({"error": "no"}, 2.12, 2.0, 0.1) == ["no"]


def test_splits_are_numbers_and_ranges(bench):
    assert bench.uci.splits_of("0-2,7") == [0, 1, 2, 7]


def test_the_summary_pairs_splits(bench):
    empty = dict.fromkeys(bench.uci.COLUMNS, "") | {"set": "a", "file": "one"}

    def row(model, split, nll, **more):
        return empty | {"model": model, "split": str(split), "nll": nll} | more

    rows = [
        row("skmdn", 0, "1.0", fit_s="2.0"),
        row("skmdn", 1, "3.0", fit_s="2.0"),
        row("other", 0, "1.5", fit_s="1.0"),
        row("other", 1, "4.5", fit_s="8.0", file="two"),
        row("other", 2, "", error="it broke"),
        row("never", 0, "", error="it broke"),
    ]
    found = {
        (line["model"], line["score"]): line
        for line in bench.uci_summary.summarise(rows)
    }
    other = found["other", "nll"]
    assert (other["mean"], other["median"], other["n_splits"]) == (3.0, 3.0, 2)
    assert (other["difference"], other["n_failed"]) == (1.0, 1)
    np.testing.assert_allclose(other["difference_se"], 0.5)
    assert found["other", "fit_ratio"]["median"] == 0.5
    assert found["never", "crps"]["n_splits"] == 0
    assert found["skmdn", "nll"]["difference"] is None


def test_the_share_that_the_cheaper_setting_keeps(bench, capsys):
    empty = dict.fromkeys(bench.uci.COLUMNS, "") | {"set": "a", "file": "one"}
    rows = [
        empty | {"model": model, "split": str(split), "nll": str(nll), "fit_s": seconds}
        for model, levels, seconds in [
            ("skmdn", [1.0, 2.0], "4.0"),
            ("skmdn-cheap", [1.5, 2.0, 9.0], "1.0"),
            ("scikit-mdn", [3.0, 4.0], "2.0"),
        ]
        for split, nll in enumerate(levels)
    ]
    bench.uci_summary.show_kept(rows, "skmdn")
    first = capsys.readouterr().out.splitlines()[0]
    assert first.split() == ["a", "kept", "0.875", "time", "0.50", "of", "2"]
