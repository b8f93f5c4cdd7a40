"""Weights and width of an ensemble against general optimisers and scipy."""

import numpy as np
import pytest
import torch
from scipy import optimize, special, stats

from skmdn.learning import stacking
from skmdn.learning.stacking import HeldOutPredictions, stacking_weights
from skmdn.likelihood import cells
from skmdn.mixture import Mixture
from tests.helpers import normal_mixture, randn, random_mixture, tensor


def held_out(views, y, weights, **kwargs):
    """Every view has one member, and all rows are one group."""
    members = [[views[v : v + 1]] for v in range(views.batch_shape[0])]
    targets = y if isinstance(y, tuple) else (y, None)
    return HeldOutPredictions(members, [targets], weights, **kwargs)


def stack(views, y, weights, **kwargs):
    predictions = held_out(views, y, weights, **kwargs)
    shares = stacking_weights(predictions.log_prob(), weights)
    return shares, predictions.best_spread(shares)


def log_densities(n_views=3, n_rows=40, seed=0):
    """Return log densities of views, the later the worse, and row weights."""
    worse = torch.linspace(0.0, 1.0, n_views, dtype=torch.float64).unsqueeze(1)
    weights = randn(n_rows, seed=seed + 1).abs() + 0.1
    return randn(n_views, n_rows, seed=seed) - worse, weights


def best_weights(log_prob, weights, n_pseudo=1.0):
    """Maximise the same function by scipy, over the logits of the weights."""
    log_prob, weights = log_prob.numpy(), weights.numpy()

    def loss(logits):
        log_shares = special.log_softmax(logits)
        pooled = special.logsumexp(log_prob + log_shares[:, None], axis=0)
        return -(pooled @ weights + n_pseudo * log_shares.sum())

    found = optimize.minimize(
        loss, np.zeros(len(log_prob)), method="BFGS", options={"gtol": 1e-9}
    )
    return special.softmax(found.x)


# Weights.


@pytest.mark.parametrize("n_views", [1, 2, 3, 5])
@pytest.mark.parametrize("n_pseudo", [0.5, 1.0, 20.0])
def test_the_weights_maximise_their_function(n_views, n_pseudo):
    log_prob, weights = log_densities(n_views)
    shares = stacking_weights(log_prob, weights, n_pseudo=n_pseudo)
    assert float(shares.sum()) == pytest.approx(1.0, abs=1e-14)
    expected = best_weights(log_prob, weights, n_pseudo)
    np.testing.assert_allclose(shares.numpy(), expected, atol=1e-4)


def test_the_weights_do_not_depend_on_the_order():
    log_prob, weights = log_densities()
    shares = stacking_weights(log_prob, weights)
    for order in ([2, 0, 1], [1, 0, 2]):
        moved = stacking_weights(log_prob[order], weights)
        torch.testing.assert_close(moved, shares[order], rtol=1e-12, atol=0)
    rows = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    moved = stacking_weights(log_prob[:, rows], weights[rows])
    torch.testing.assert_close(moved, shares, rtol=1e-12, atol=0)


def test_equal_views_share_equally_and_a_row_counts_by_its_weight():
    log_prob, weights = log_densities(1)
    equal = stacking_weights(log_prob.expand(4, 40), weights)
    torch.testing.assert_close(equal, torch.full_like(equal, 0.25))
    log_prob, _ = log_densities()
    counts = torch.arange(40) % 3
    repeated = log_prob.repeat_interleave(counts, 1)
    ones = torch.ones(repeated.shape[1], dtype=torch.float64)
    torch.testing.assert_close(
        stacking_weights(log_prob, counts.double()), stacking_weights(repeated, ones)
    )


def test_a_view_that_is_far_better_gets_all_but_the_granted_rows():
    n_rows = 500
    log_prob = torch.zeros((2, n_rows), dtype=torch.float64)
    log_prob[1] = -2000.0
    shares = stacking_weights(log_prob, torch.ones(n_rows, dtype=torch.float64))
    torch.testing.assert_close(shares, tensor([501.0, 1.0]) / 502.0)


# The common factor.


def views_of_width(scale, n_rows=400, shift=0.0):
    """Return two views with scales of their own, and targets of deviation 1."""
    means = torch.stack([torch.zeros(n_rows), torch.full((n_rows,), shift)]).double()
    views = normal_mixture(
        torch.ones(2, n_rows, 1).tolist(),
        means.unsqueeze(-1).tolist(),
        torch.full((2, n_rows, 1), scale).tolist(),
    )
    return views, randn(n_rows, 1)


@pytest.mark.parametrize("scale", [0.3, 0.6, 1.0, 2.0, 5.0])
def test_the_factor_is_that_of_brute_force(scale):
    views, y = views_of_width(scale, shift=0.5)
    weights = randn(len(y), seed=4).abs()
    weights /= weights.mean()
    shares, log_factor = stack(views, y, weights)
    # Views that say nearly the same are left before their shares are settled, so
    # what counts is what the shares achieve.
    log_prob = views.log_prob(y)
    best = tensor(best_weights(log_prob, weights).tolist())
    reached, possible = (
        float(torch.logsumexp(log_prob + w.log().unsqueeze(1), 0) @ weights)
        + float(w.log().sum())
        for w in (shares, best)
    )
    assert possible - 1e-3 * len(y) < reached <= possible + 1e-6
    start, stop, count = stacking._SPREADS
    grid = np.linspace(start, stop, count)

    def total(log_t):
        parts = [
            stats.norm.logpdf(y[:, 0].numpy(), mean, scale * np.exp(log_t))
            for mean in (0.0, 0.5)
        ]
        pooled = special.logsumexp(parts, b=shares.numpy()[:, None], axis=0)
        granted = stacking._PSEUDO_SPREAD * len(weights) * log_t**2
        return pooled @ weights.numpy() - granted

    expected = grid[np.argmax([total(log_t) for log_t in grid])]
    expected += stacking._MARGIN / len(weights)
    assert float(log_factor) == pytest.approx(expected, abs=1e-12)


def test_rows_without_weight_do_not_judge():
    views, y = views_of_width(0.6, n_rows=50)
    weights = torch.ones(50, dtype=torch.float64)
    weights[40:] = 0.0
    found = stack(views, y, weights)
    few = stack(views[:, :40], y[:40], weights[:40])
    for one, other in zip(found, few, strict=True):
        torch.testing.assert_close(one, other)


def test_forecasts_that_are_right_stay_and_others_are_moved_towards_it():
    for scale, sign in ((1.0, 0), (0.7, 1), (2.0, -1)):
        views, y = views_of_width(scale, n_rows=4000)
        log_factor = float(stack(views, y, torch.ones(4000).double())[1])
        assert np.sign(round(log_factor, 2)) == sign
        assert log_factor == pytest.approx(-np.log(scale), abs=0.06)


def test_the_factor_does_not_depend_on_the_order_of_views_and_rows():
    views, y = views_of_width(0.5, shift=1.0)
    weights = torch.ones(len(y), dtype=torch.float64)
    shares, log_factor = stack(views, y, weights)
    turned = views.map(lambda value: value.flip(0))
    again, same_factor = stack(turned, y, weights)
    torch.testing.assert_close(again, shares.flip(0))
    assert same_factor == log_factor
    backwards = views.map(lambda value: value.flip(1))
    again, same_factor = stack(backwards, y.flip(0), weights)
    torch.testing.assert_close(again, shares)
    assert same_factor == log_factor


def test_scales_are_not_narrowed_below_their_floor():
    # A third of the scale would suit the targets, but the floor is at the scale.
    views, y = views_of_width(3.0)
    weights = torch.ones(len(y), dtype=torch.float64)
    assert float(stack(views, y, weights)[1]) < -0.5
    # Every narrower factor is as good as 1, and the granted rows want 1.
    assert float(stack(views, y, weights, min_scale=3.0)[1]) == pytest.approx(
        0.0, abs=0.05
    )


@pytest.mark.parametrize("layout", ["diag", "full", "tied"])
def test_several_outputs_and_families(layout):
    views = random_mixture(layout, (3, 30), n_outputs=2)
    y = randn(30, 2)
    shares, log_factor = stack(views, y, torch.ones(30, dtype=torch.float64))
    assert float(shares.sum()) == pytest.approx(1.0)
    assert log_factor.ndim == 0
    assert log_factor.isfinite()


def test_granted_rows_hold_the_factor_at_1():
    views, y = views_of_width(0.6, n_rows=40)
    ones = torch.ones(40).double()
    predictions, shares = held_out(views, y, ones), tensor([0.5, 0.5])
    free, held, fixed = (
        float(predictions.best_spread(shares, n_pseudo)) - stacking._MARGIN / 40
        for n_pseudo in (0.0, 40.0, 1e6)
    )
    assert free > 0.35
    assert 0.0 < held < 0.7 * free
    assert fixed == pytest.approx(0.0, abs=1e-9)


# Tails.


def sure_views(n_rows=600, n_wrong=12):
    """Return a view that is sure of the wrong one of two components in some rows."""
    rng = np.random.RandomState(0)
    left = np.full(n_rows, 1e-9)
    left[:n_wrong] = 1.0 - 1e-9
    weights = np.stack([left, 1.0 - left], 1)[None]
    views = normal_mixture(
        weights.tolist(),
        np.broadcast_to([-5.0, 5.0], weights.shape).tolist(),
        np.full(weights.shape, 1.0).tolist(),
    )
    return views, tensor((5.0 + rng.normal(size=n_rows)).tolist()).unsqueeze(1)


def test_the_levelled_share_is_the_best():
    views, y = sure_views()
    weights = randn(len(y), seed=4).abs()
    predictions, one = held_out(views, y, weights), tensor([1.0])
    kept, granted = stacking._PSEUDO_LEVEL

    def loss(share):
        log_prob = float(views.level(share).log_prob(y)[0] @ weights)
        return -(log_prob + kept * np.log1p(-share) + granted * np.log(share))

    expected = optimize.minimize_scalar(loss, bounds=(1e-6, 0.5), method="bounded").x
    found = predictions.best_level(one, tensor(0.0))
    assert float(found) == pytest.approx(expected, rel=1e-3)
    # Half of the share goes to the component that is right already.
    assert float(found) == pytest.approx(2 * 12 / 600, rel=0.5)
    torch.testing.assert_close(
        predictions.level(found).log_prob()[0], views.level(found).log_prob(y)[0]
    )


def test_where_nothing_surprises_little_is_levelled():
    views, y = sure_views(n_wrong=0)
    share, log_factor = held_out(views, y, torch.ones(600).double()).level_and_spread(
        tensor([1.0])
    )
    assert 0.0 < float(share) < 0.005
    assert float(log_factor) == pytest.approx(0.0, abs=0.1)


def test_share_and_factor_are_the_best_together():
    views, y = sure_views()
    y = 5.0 + 0.6 * (y - 5.0)
    ones, one = torch.ones(len(y)).double(), tensor([1.0])
    predictions = held_out(views, y, ones)
    share, log_factor = predictions.level_and_spread(one)

    def total(share, log_factor):
        return float(predictions.level(share).total(one, tensor(log_factor)))

    reached = total(share, float(log_factor))
    possible = max(
        total(share, log_factor)
        for share in (0.01, 0.02, 0.04, 0.08)
        for log_factor in np.linspace(-0.8, 0.0, 17)
    )
    assert reached > possible - 2.0


# Cells.


def test_targets_on_a_lattice_are_judged_by_cells():
    """Points would ask for components of no width at all."""
    rng = np.random.RandomState(0)
    latent = rng.normal(size=2000)
    y = tensor(np.round(latent).tolist()).unsqueeze(1)
    views = Mixture.concatenate(
        [
            normal_mixture(
                np.ones((1, 2000, 1)).tolist(),
                y.numpy()[None].tolist() if exact else np.zeros((1, 2000, 1)).tolist(),
                np.full((1, 2000, 1), scale).tolist(),
            )
            for exact, scale in ((False, 1.0), (False, 2.0))
        ]
    )
    weights = torch.ones(2000, dtype=torch.float64)
    shares, log_factor = stack(views, cells(y, None, 1.0), weights)
    assert shares[0] > 0.9
    # The latent deviation is 1; the rounded one sqrt(1 + 1 / 12).
    assert float(log_factor) == pytest.approx(0.0, abs=0.051)


def test_a_row_that_nothing_explains_does_not_decide():
    views, y = views_of_width(2.0, shift=0.5)
    weights = torch.ones(len(y)).double()
    shares, log_factor = stack(views, y, weights)
    y[0] = 1e200
    with_outlier, factor = stack(views, y, weights)
    assert torch.isfinite(with_outlier).all()
    torch.testing.assert_close(with_outlier, shares, rtol=0, atol=0.05)
    assert abs(float(factor - log_factor)) < 0.1


# Widths beyond chance.


def widths(y, **settings):
    """Return the factor that some rows choose for a standard normal, alone."""
    ones = np.ones((1, len(y), 1))
    views = normal_mixture(ones, 0.0 * ones, ones)
    rows = held_out(views, tensor(y)[:, None], torch.ones(len(y), dtype=torch.float64))
    return float(rows.best_spread(torch.ones(1, dtype=torch.float64), **settings))


def test_a_doubtful_width_is_that_of_james_and_stein():
    for seed, scale in enumerate((0.8, 1.0, 1.05, 1.5)):
        y = scale * np.random.default_rng(seed).normal(size=400)
        # The likelihood of a scale in closed form, with the rows that speak for 1.
        log_t = np.linspace(-1.0, 0.6, 4001)
        likelihood = -400 * log_t - 0.5 * (y**2).sum() * np.exp(-2 * log_t)
        best = (likelihood - 20.0 * log_t**2).argmax()
        gain = likelihood[best] + 0.5 * (y**2).sum()
        doubt = 0.5 if log_t[best] > 0.0 else 2.0
        expected = log_t[best] * max(0.0, 1.0 - doubt / max(gain, doubt))
        assert widths(y, doubtful=True) == pytest.approx(expected, abs=3e-3)


def test_a_doubtful_width_is_nearer_to_the_right_one():
    rng = np.random.default_rng(0)
    found = [
        [widths(y, doubtful=doubt) for doubt in (True, False)]
        for y in rng.normal(size=(60, 250))
    ]
    doubted, plain = np.abs(found).mean(axis=0)
    assert doubted < 0.6 * plain
