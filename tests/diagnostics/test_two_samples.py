"""C2ST, MMD and the test of misspecification."""

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression

from skmdn.diagnostics import c2st, misspecification_test, squared_mmd
from tests.helpers import within_standard_errors


def normals(n, d=2, seed=0, shift=0.0):
    return np.random.default_rng(seed).normal(shift, size=(n, d))


@pytest.mark.parametrize("classifier", ["mlp", "forest", LogisticRegression()])
def test_c2st_cannot_tell_equal_samples(classifier):
    accuracy = c2st(normals(60), normals(60, seed=1), classifier=classifier, n_folds=2)
    assert abs(accuracy - 0.5) < 4 * 0.5 / np.sqrt(120)


@pytest.mark.parametrize("classifier", ["forest", LogisticRegression()])
def test_c2st_tells_distant_samples(classifier):
    a, b = normals(60), normals(60, seed=1)
    assert c2st(a, b + 20.0, classifier=classifier, n_folds=2) == 1.0
    first, again = (c2st(a, b, classifier=classifier, n_folds=2) for _ in range(2))
    assert first == again


def test_c2st_is_the_best_accuracy_for_a_shift():
    # The Bayes classifier of two normals half a unit apart on each side.
    a, b = normals(2000, 1), normals(2000, 1, seed=1, shift=1.0)
    found = c2st(a, b, classifier=LogisticRegression())
    exact = stats.norm.cdf(0.5)
    assert abs(found - exact) < 4 * np.sqrt(exact * (1 - exact) / 4000)


def test_c2st_does_not_depend_on_units_and_sizes():
    a, b = normals(100), normals(100, seed=1, shift=1.0)
    forest = LogisticRegression()
    scaled = c2st(1e6 * a + 3.0, 1e6 * b + 3.0, classifier=forest)
    assert scaled == c2st(a, b, classifier=forest)
    # Otherwise always answering with the larger sample would look like success.
    many = c2st(normals(5000), normals(100, seed=1), classifier=forest)
    assert abs(many - 0.5) < 4 * 0.5 / np.sqrt(200)


def test_mmd_is_its_definition():
    a, b = normals(5), normals(4, seed=1)

    def kernel(u, v):
        return np.exp(-0.5 * np.square(u[:, None] - v).sum(2) / 0.7**2)

    expected = (kernel(a, a).sum() - 5) / 20 + (kernel(b, b).sum() - 4) / 12
    expected -= 2 * kernel(a, b).mean()
    assert squared_mmd(a, b, bandwidth=0.7) == pytest.approx(expected, abs=1e-14)
    one = (kernel(b, b).sum() - 4) / 12 - 2 * kernel(a[:1], b).mean()
    assert squared_mmd(a[:1], b, bandwidth=0.7) == pytest.approx(one, abs=1e-14)


def test_mmd_is_unbiased():
    rng = np.random.default_rng(0)
    equal = [
        squared_mmd(rng.normal(size=(8, 2)), rng.normal(size=(8, 2)), bandwidth=1.0)
        for _ in range(1000)
    ]
    assert within_standard_errors(np.array(equal), 0.0, 0)
    assert min(equal) < 0
    apart = [
        squared_mmd(rng.normal(size=(8, 1)), 1 + rng.normal(size=(8, 1)), bandwidth=1.0)
        for _ in range(1000)
    ]
    # E k(a, b) of normals of variance 1 whose means are m apart.
    exact = 2 / np.sqrt(3) * (1 - np.exp(-0.5 / 3))
    assert within_standard_errors(np.array(apart), exact, 0)


@pytest.mark.parametrize("m", [1, 10])
def test_misspecification_holds_its_level(m):
    simulated = normals(300)
    rng = np.random.default_rng(1)
    p_values = np.array(
        [
            misspecification_test(
                rng.normal(size=(m, 2)), simulated, n_null=99, random_state=i
            ).p_value
            for i in range(80)
        ]
    )
    assert (p_values <= 0.1).sum() < stats.binom.isf(1e-3, 80, 0.1)
    assert (p_values <= 0.5).sum() > stats.binom.ppf(1e-3, 80, 0.5)


def test_misspecification_is_seen():
    simulated = normals(500)
    assert misspecification_test([[5.0, 5.0]], simulated, random_state=0).p_value < 0.01
    wide = 3.0 * normals(50, seed=1)
    result = misspecification_test(wide, simulated, random_state=0)
    assert result.p_value < 0.01
    assert result.statistic > result.null.max()
    assert result.null.shape == (500,)
    # Groups have a mean discrepancy of 0: the estimate is unbiased.
    assert abs(result.null.mean()) < result.null.std()


def test_a_summary_without_spread_is_harmless():
    simulated = np.column_stack([normals(100, 1), np.ones(100)])
    assert (
        misspecification_test(
            [[0.0, 1.0]], simulated, n_null=50, random_state=0
        ).p_value
        > 0.05
    )


def test_wrong_input_is_named():
    a = normals(30)
    with pytest.raises(ValueError, match="2 and 1 columns"):
        c2st(a, a[:, :1])
    with pytest.raises(ValueError, match="classifier must be one of"):
        c2st(a, a, classifier="svm")
    with pytest.raises(ValueError, match="too few for 5 folds"):
        c2st(a[:3], a)
    with pytest.raises(ValueError, match="bandwidth"):
        squared_mmd(a, a, bandwidth=0.0)
    with pytest.raises(ValueError, match="at least two rows"):
        squared_mmd(a, a[:1])
    with pytest.raises(ValueError, match="too few"):
        misspecification_test(a, a, random_state=0)
    with pytest.raises(ValueError, match="NaN"):
        misspecification_test([[np.nan, 1.0]], a)
