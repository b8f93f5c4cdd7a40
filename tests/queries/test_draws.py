import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm

from skmdn.queries.draws import choose_components, normal_draws
from tests.helpers import generator, randn, tensor

WEIGHTS = tensor([[0.3, 0.0, 0.2, 0.5, 0.0], [0.0, 1e-4, 0.0, 0.9, 0.0999]])
MEANS = tensor([[-4.0, 90.0, 0.1, 0.4, 90.0], [90.0, -7.0, 90.0, 0.0, 3.0]])
STDS = tensor([[0.5, 1.0, 1e-2, 2.0, 1.0], [1.0, 0.1, 1.0, 1.0, 0.2]])
N_DRAWS = 200_000


def distribution_function(row):
    parts = WEIGHTS[row].numpy(), MEANS[row].numpy(), STDS[row].numpy()

    def cdf(y):
        return norm.cdf(np.asarray(y)[:, None], *parts[1:]) @ parts[0]

    return cdf


@pytest.mark.parametrize("row", [0, 1])
def test_draws_follow_the_distribution_function(row):
    draws = normal_draws(WEIGHTS, MEANS, STDS, N_DRAWS, generator(row)).numpy()[row]
    cdf = distribution_function(row)
    for y in (-7.2, -4.5, -1.0, 0.08, 0.12, 1.0, 2.0, 3.0, 6.0):
        p = cdf([y])[0]
        error = math.sqrt(p * (1.0 - p) / N_DRAWS)
        assert abs((draws <= y).mean() - p) <= 4.0 * error + 1e-300
    assert kstest(draws, cdf).pvalue > 1e-4
    assert len(np.unique(draws)) == N_DRAWS


def test_noise_has_normal_tails_and_no_memory():
    n_draws = 2_000_000
    one = torch.ones(1, 1, dtype=torch.float64)
    draws = normal_draws(one, 0.0 * one, one, n_draws, generator(3)).numpy()[0]
    for z in (3.0, 4.0, 4.5):
        p = 2.0 * norm.sf(z)
        error = math.sqrt(p / n_draws)
        assert abs((np.abs(draws) > z).mean() - p) <= 4.0 * error
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        error = math.sqrt(variance / n_draws)
        assert abs((draws**power).mean() - moment) <= 4.0 * error
    assert abs((draws[1:] * draws[:-1]).mean()) <= 4.0 / math.sqrt(n_draws)


@pytest.mark.parametrize("n_draws", [10, N_DRAWS])
def test_components_are_chosen_as_often_as_their_weights_say(n_draws):
    weights = WEIGHTS.repeat(1 if n_draws > 10 else 2000, 1)
    chosen = choose_components(weights, n_draws, generator(1))
    counts = torch.nn.functional.one_hot(chosen.reshape(-1, 2, n_draws), 5).double()
    n_all = counts.shape[0] * n_draws
    share = counts.mean((0, 2))
    error = (WEIGHTS * (1.0 - WEIGHTS) / n_all).sqrt()
    assert bool(((share - WEIGHTS).abs() <= 4.0 * error).all())


def test_a_table_finds_what_a_search_finds(monkeypatch):
    weights = torch.softmax(5.0 * randn(7, 40, seed=1), -1)
    weights[3, 5:] = 0.0
    weights[4] = torch.eye(40, dtype=torch.float64)[17]
    # Edges that fall on a bucket's end, and many within one bucket.
    weights[5] = 1.0 / 40
    weights[6] = torch.cat([torch.full((39,), 1e-6), tensor([1.0 - 39e-6])])
    draws = {}
    for n_buckets in (1, 16, 10**6):
        monkeypatch.setattr("skmdn.queries.draws._BUCKETS", n_buckets)
        draws[n_buckets] = choose_components(weights, 5000, generator(2))
    assert torch.equal(draws[1], draws[10**6])
    assert torch.equal(draws[16], draws[10**6])


def test_draws_do_not_depend_on_how_many_rows_are_worked_at_a_time(monkeypatch):
    parts = [part.repeat(20, 1) for part in (WEIGHTS, MEANS, STDS)]
    at_once = normal_draws(*parts, 50, generator(4))
    for block in (1, 60, 300):
        monkeypatch.setattr("skmdn.queries.draws._BLOCK", block)
        assert torch.equal(normal_draws(*parts, 50, generator(4)), at_once)


@pytest.mark.parametrize("ends", [0.0, 1.0 - 2.0**-53])
def test_the_ends_of_the_uniform_numbers_give_finite_draws(ends, monkeypatch):
    def fill(self, generator=None):
        return self.fill_(ends)

    monkeypatch.setattr(torch.Tensor, "uniform_", fill)
    draws = normal_draws(WEIGHTS, MEANS, STDS, 100, None)
    assert bool(draws.isfinite().all())
    assert bool((draws < 80.0).all())


@pytest.mark.parametrize("shape", [(0, 5), (2, 0)])
def test_no_rows_or_no_draws(shape):
    n_rows, n_draws = shape
    parts = [part[:n_rows] for part in (WEIGHTS, MEANS, STDS)]
    assert normal_draws(*parts, n_draws, generator()).shape == shape
    assert choose_components(parts[0], n_draws, generator()).shape == shape
