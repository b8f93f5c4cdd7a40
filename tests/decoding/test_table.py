"""Blocks of columns: the laws side by side, each with its own columns."""

import pytest
import torch
from torch.autograd.functional import jacobian

from skmdn.decoding.laws import Poisson
from skmdn.decoding.table import Blocks
from tests.decoding.helpers import LAWS, generator, law_of, normal, values_of

NAMES = tuple(LAWS)


def scattered():
    """Return all laws with columns that do not adjoin, and rows."""
    n_columns = 3 * len(NAMES)
    columns = [list(range(i, n_columns, len(NAMES))) for i in range(len(NAMES))]
    x = torch.empty(5, n_columns, dtype=torch.float64)
    for name, block in zip(NAMES, columns, strict=True):
        x[:, block] = values_of(name, seed=4)
    return Blocks([law_of(name) for name in NAMES], columns), x


def outputs_for(blocks, seed=2):
    return normal(5, sum(blocks.sizes), seed=seed)


def test_the_density_of_a_row_is_the_product_of_its_blocks():
    blocks, x = scattered()
    eta = outputs_for(blocks)
    whole = blocks.log_prob(eta, table := blocks.table(x)) + blocks.constant(table)
    expected = torch.zeros(5, dtype=torch.float64)
    parts = zip(blocks.laws, blocks.columns, eta.split(blocks.sizes, 1), strict=True)
    for law, columns, part in parts:
        values = x[:, columns]
        prepared = law.prepared(values)
        density = law.log_prob(prepared, part, law.log_size(values))
        expected = expected + (density + law.constant(prepared)).sum(1)
    torch.testing.assert_close(whole, expected)


def test_a_missing_value_counts_for_nothing():
    blocks, x = scattered()
    eta, holed = outputs_for(blocks), x.clone()
    gone = blocks.columns[NAMES.index("gaussian")]
    holed[2, gone] = torch.nan
    table, whole = blocks.table(holed), blocks.table(x)
    lost = blocks.cells_log_prob(eta, whole)[NAMES.index("gaussian")][2].sum()
    found = blocks.log_prob(eta, whole)[2] - blocks.log_prob(eta, table)[2]
    torch.testing.assert_close(found, lost)
    first, _ = blocks.slopes(eta, table)
    own = first.split(blocks.sizes, 1)[NAMES.index("gaussian")]
    assert bool((own[2] == 0.0).all())
    features = blocks.features(table).split(blocks.sizes, 1)
    assert bool(features[NAMES.index("gaussian")][2].isnan().all())


def test_slopes_are_the_derivatives():
    blocks, x = scattered()
    eta, table = outputs_for(blocks), blocks.table(x)
    first, _ = blocks.slopes(eta, table)
    expected = jacobian(lambda e: blocks.log_prob(e, table).sum(), eta)
    torch.testing.assert_close(first.detach(), expected)


def test_expected_rows_and_draws_stand_where_the_data_do():
    blocks, _ = scattered()
    eta = outputs_for(blocks)[:1].expand(4_000, -1)
    mean = blocks.values(blocks.mean(eta))[0].detach()
    drawn = blocks.sample(eta, generator()).detach()
    assert drawn.shape == (4_000, 3 * len(NAMES))
    for name, columns in zip(NAMES, blocks.columns, strict=True):
        law = blocks.laws[NAMES.index(name)]
        assert law.problem(drawn[:, columns]) is None
        if name == "categorical":
            continue
        error = drawn[:, columns].std(0) / 4_000**0.5
        gap = (drawn[:, columns].mean(0) - mean[columns]).abs()
        assert bool((gap < 4.0 * error).all())


def test_some_rows_of_a_table_are_those_rows():
    blocks, x = scattered()
    x[1, 0] = torch.nan
    rows = torch.tensor([3, 1])
    chosen, alone = blocks.table(x).of(rows), blocks.table(x[rows])
    for ours, theirs in zip(chosen, alone, strict=True):
        torch.testing.assert_close(ours.values, theirs.values)
        torch.testing.assert_close(ours.log_size, theirs.log_size)


@pytest.mark.parametrize("name", ["poisson", "negative_binomial"])
def test_exposures_take_the_place_of_sizes(name):
    x = values_of(name, 50)
    exposure = normal(50, 1, seed=3).exp()
    law = LAWS[name]()
    blocks = Blocks([law], [[0, 1, 2]])
    bias = blocks.start(x, exposure)
    # The most probable rate of Poisson counts with exposures.
    torch.testing.assert_close(bias.exp(), x.sum(0) / exposure.sum())
    (log_size,) = blocks.table(x, exposure).log_sizes()
    torch.testing.assert_close(log_size, exposure.log())
    mean = blocks.mean(bias.expand(50, -1), [log_size]).detach()
    torch.testing.assert_close(mean.sum(0), x.sum(0))


def test_sizes_that_are_not_given_are_in_the_units_of_the_exposures():
    rate = torch.tensor([3.0, 5.0, 2.0], dtype=torch.float64)
    exposure = torch.linspace(100.0, 900.0, 2_000, dtype=torch.float64).unsqueeze(1)
    x = torch.poisson(exposure * rate, generator=generator())
    law = Poisson(3)
    law.start(x, exposure)
    ratio = law.log_size(x).exp() / exposure
    assert abs(float(ratio.mean()) - 1.0) < 0.01
    # Features stay about as large as without exposures.
    torch.testing.assert_close(
        law.features(x, exposure.log()).mean(0), x.log1p().mean(0), rtol=0.05, atol=0
    )
