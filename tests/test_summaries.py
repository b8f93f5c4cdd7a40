"""Summary networks against torch's own modules; padding, order, count."""

import pickle

import pytest
import torch
from sklearn.base import clone

from skmdn.summaries import (
    MLP,
    DeepSet,
    RecurrentSummary,
    SetTransformer,
    Summary,
    summary_from,
)
from skmdn.summaries.attention import MemberAttention
from skmdn.summaries.series import MemberGRU

MEMBERS, ROWS, ITEMS, FEATURES = 3, 5, 7, 2
LENGTHS = [7, 4, 1, 0, 6]

SUMMARIES = {
    "deep_set": DeepSet(6, hidden_layer_sizes=(8, 9), pooled_layer_sizes=(5,)),
    "deep_set, linear": DeepSet(6, hidden_layer_sizes=4, pooled_layer_sizes=()),
    "set_transformer": SetTransformer(6, width=8, n_heads=2, n_queries=2),
    "set_transformer, inducing": SetTransformer(6, width=8, n_inducing=3),
    "recurrent": RecurrentSummary(6, hidden_layer_sizes=(4, 5)),
    "recurrent, one way": RecurrentSummary(
        6, hidden_layer_sizes=(4,), bidirectional=False
    ),
    "mlp": MLP(6, hidden_layer_sizes=(8,)),
}
SETS = [name for name in SUMMARIES if "set" in name]

every_summary = pytest.mark.parametrize("name", SUMMARIES)
every_set = pytest.mark.parametrize("name", SETS)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(*shape, seed=1):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def network(name, n_members=MEMBERS, seed=0):
    return SUMMARIES[name].build(n_members, ITEMS, FEATURES, generator=generator(seed))


def data():
    """Return padded rows of different lengths, one without items, and the mask."""
    mask = torch.arange(ITEMS) < torch.tensor(LENGTHS)[:, None]
    return rows(MEMBERS, ROWS, ITEMS, FEATURES), mask


# What all of them promise.


@every_summary
def test_a_few_numbers_for_each_row_and_member(name):
    module, (x, mask) = network(name), data()
    summaries = module(x, mask)
    assert summaries.shape == (MEMBERS, ROWS, 6)
    assert module.n_out == 6
    assert summaries.isfinite().all()
    assert module.float()(x.float(), mask).dtype == torch.float32
    assert module.numbers_per_row > ITEMS


@every_summary
@pytest.mark.parametrize("filling", [0.0, 1e300, torch.inf, torch.nan])
def test_padding_never_matters(name, filling):
    module, (x, mask) = network(name), data()
    expected = module(x, mask)
    padded = torch.where(mask.unsqueeze(-1), x, filling).requires_grad_()
    summaries = module(padded, mask)
    assert torch.equal(summaries, expected)
    summaries.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())
    assert (padded.grad[:, ~mask] == 0.0).all()
    assert padded.grad[:, :1].abs().sum() > 0.0


@every_summary
def test_nan_marks_padding_where_no_mask_is_given(name):
    module, (x, mask) = network(name), data()
    padded = torch.where(mask.unsqueeze(-1), x, torch.nan)
    assert torch.equal(module(padded), module(x, mask))
    assert torch.equal(module(padded.flatten(2)), module(x, mask))


@every_summary
def test_members_can_have_rows_of_their_own(name):
    module, (x, mask) = network(name), data()
    own = torch.stack([mask.roll(m, 0) for m in range(MEMBERS)])
    summaries = module(x, own)
    for m in range(MEMBERS):
        torch.testing.assert_close(summaries[m], module(x, own[m])[m])


@every_summary
def test_members_are_independent(name):
    module, (x, mask) = network(name), data()
    expected = module(x, mask)
    for m in range(MEMBERS):
        single = network(name, 1, seed=2)
        state = {key: value[m : m + 1] for key, value in module.state_dict().items()}
        single.load_state_dict(state)
        torch.testing.assert_close(single(x[m : m + 1], mask)[0], expected[m])
    assert (expected[0] != expected[1]).any()


@every_summary
def test_every_parameter_has_the_member_axis_and_learns(name):
    module, (x, mask) = network(name), data()
    module(x, mask).square().sum().backward()
    for key, parameter in module.named_parameters():
        assert len(parameter) == MEMBERS, key
        assert parameter.grad.flatten(1).abs().sum(1).min() > 0.0, key


@every_summary
def test_the_start_is_small_and_comes_from_the_generator(name):
    module, twin = network(name), network(name)
    for a, b in zip(module.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)
    other = network(name, seed=1)
    assert any(
        (a != b).any()
        for a, b in zip(module.parameters(), other.parameters(), strict=True)
    )
    x, mask = data()
    assert module(x, mask).abs().max() < 5.0


@every_summary
def test_more_padding_changes_nothing_but_for_fixed_places(name):
    module, (x, mask) = network(name), data()
    wide, more = torch.cat([x, x], 2), torch.cat([mask, torch.zeros_like(mask)], 1)
    if name == "mlp":
        with pytest.raises(ValueError, match="made for 7 items in a row, got 14"):
            module(wide, more)
        return
    torch.testing.assert_close(module(wide, more), module(x, mask))


# Order and count.


@every_set
def test_sets_have_no_order(name):
    module, (x, mask) = network(name), data()
    expected = module(x, mask)
    for seed in range(3):
        order = torch.randperm(ITEMS, generator=generator(seed))
        difference = module(x[:, :, order], mask[:, order]) - expected
        assert difference.abs().max() < 1e-12


@pytest.mark.parametrize("name", ["recurrent", "recurrent, one way", "mlp"])
def test_series_have_an_order(name):
    module, (x, mask) = network(name), data()
    difference = module(x.flip(2), mask) - module(x, mask)
    assert difference[:, 0].abs().max() > 1e-3


@every_set
def test_the_count_matters(name):
    module, mask = network(name), torch.eye(ITEMS).cumsum(1).bool()
    # Copies of one item: means, largest items and attention are all the same.
    x = rows(1, 1, 1, FEATURES).expand(MEMBERS, ITEMS, ITEMS, FEATURES)
    summaries = module(x, mask)
    steps = summaries.diff(dim=1).abs().amax(-1)
    assert steps.min() > 1e-3


@pytest.mark.parametrize("name", ["recurrent", "recurrent, one way"])
def test_padding_of_a_series_can_be_anywhere(name):
    module, (x, mask) = network(name), data()
    expected = module(x, mask)
    for m, r in ((0, 1), (2, 4)):
        places = torch.tensor([0, 2, 3, 6, 1, 4, 5][: LENGTHS[r]]).sort().values
        moved = torch.full((1, 1, ITEMS, FEATURES), torch.nan, dtype=torch.float64)
        moved[0, 0, places] = x[m, r, : LENGTHS[r]]
        there = module(moved.expand(MEMBERS, -1, -1, -1))
        torch.testing.assert_close(there[m, 0], expected[m, r])


# Oracles.


@pytest.mark.draws_from_torch
@pytest.mark.parametrize("n_directions", [1, 2])
def test_recurrent_layers_are_those_of_torch(n_directions):
    width = 4
    layer = MemberGRU(MEMBERS, FEATURES, width, n_directions, generator())
    x = rows(MEMBERS, ROWS, ITEMS, FEATURES)
    states, final = layer(x, torch.ones(MEMBERS, ROWS, ITEMS, dtype=torch.bool))
    for m in range(MEMBERS):
        oracle = torch.nn.GRU(
            FEATURES, width, batch_first=True, bidirectional=n_directions == 2
        ).double()
        for d, suffix in enumerate(["", "_reverse"][:n_directions]):
            for key, value in {
                "weight_ih": layer.enter_weight[m, d].T,
                "weight_hh": layer.again_weight[m, d].T,
                "bias_ih": layer.enter_bias[m, d, 0],
                "bias_hh": layer.again_bias[m, d, 0],
            }.items():
                getattr(oracle, f"{key}_l0{suffix}").data.copy_(value)
        expected, last = oracle(x[m])
        torch.testing.assert_close(states[m], expected, rtol=0, atol=1e-10)
        torch.testing.assert_close(
            final[m], last.transpose(0, 1).flatten(1), rtol=0, atol=1e-10
        )


@pytest.mark.draws_from_torch
@pytest.mark.parametrize("masked", [True, False])
def test_attention_is_that_of_torch(masked):
    width, n_heads = 8, 2
    layer = MemberAttention(MEMBERS, width, n_heads, generator())
    items, queries = rows(MEMBERS, ROWS, ITEMS, width), rows(MEMBERS, ROWS, 4, width)
    mask = rows(MEMBERS, ROWS, ITEMS, seed=2) > 0.0
    mask[..., 0] = True
    found = layer(queries, items, mask if masked else None)
    for m in range(MEMBERS):
        oracle = torch.nn.MultiheadAttention(width, n_heads, batch_first=True).double()
        with torch.no_grad():
            oracle.in_proj_weight.copy_(
                torch.cat([layer.query.weight[m].T, layer.key_value.weight[m].T])
            )
            oracle.in_proj_bias.copy_(
                torch.cat([layer.query.bias[m, 0], layer.key_value.bias[m, 0]])
            )
            oracle.out_proj.weight.copy_(layer.out.weight[m].T)
            oracle.out_proj.bias.copy_(layer.out.bias[m, 0])
        hidden = ~mask[m] if masked else None
        expected, _ = oracle(queries[m], items[m], items[m], key_padding_mask=hidden)
        torch.testing.assert_close(found[m], expected, rtol=0, atol=1e-10)


def test_a_deep_set_by_its_definition():
    module, (x, mask) = network("deep_set"), data()
    summaries = module(x, mask)
    for m, r in ((0, 0), (1, 1), (2, 2)):
        items = x[m, r, : LENGTHS[r]]
        hidden = items
        for layer in module.items.layers:
            hidden = torch.relu(hidden @ layer.weight[m] + layer.bias[m])
        features = torch.cat([items, hidden], 1)
        count = torch.tensor([(1 + LENGTHS[r]) / (1 + ITEMS)], dtype=torch.float64)
        pooled = torch.cat(
            [
                features.mean(0),
                features.sum(0) / ITEMS,
                features.max(0).values,
                count.log(),
            ]
        )
        (layer,) = module.pooled.layers
        inner = torch.relu(pooled @ layer.weight[m] + layer.bias[m, 0])
        last = torch.cat([pooled, inner]) @ module.last.weight[m]
        torch.testing.assert_close(summaries[m, r], last + module.last.bias[m, 0])


# Descriptions.


@every_summary
def test_descriptions_are_cloned_changed_and_pickled(name):
    summary = SUMMARIES[name]
    twin = clone(summary)
    assert twin == summary
    assert twin is not summary
    assert pickle.loads(pickle.dumps(summary)) == summary
    assert (
        twin.set_params(n_summaries=3)
        .build(1, ITEMS, FEATURES, generator=generator())
        .n_out
        == 3
    )
    assert twin != summary
    assert repr(twin).startswith(f"{type(twin).__name__}(n_summaries=3")
    with pytest.raises(ValueError, match="has no parameter 'depth'"):
        twin.set_params(depth=2)


def test_summaries_by_name_object_and_factory():
    for name, kind in {
        "deep_set": DeepSet,
        "set_transformer": SetTransformer,
        "recurrent": RecurrentSummary,
        "mlp": MLP,
    }.items():
        assert summary_from(name) == kind()
        assert summary_from(kind) == kind()
    summary = DeepSet(3)
    assert summary_from(summary) is summary
    assert summary_from(None) is None
    assert isinstance(summary, Summary)


@pytest.mark.parametrize(
    ("summary", "message"),
    [
        (DeepSet(0), "n_summaries of DeepSet must be positive whole numbers, got 0"),
        (DeepSet(hidden_layer_sizes=()), "needs a layer"),
        (DeepSet(hidden_layer_sizes=(8, 1.5)), "got \\(8, 1.5\\)"),
        (DeepSet(activation="swish"), "activation of DeepSet must be one of"),
        (SetTransformer(width=9), "width=9 cannot be divided by n_heads=2"),
        (SetTransformer(n_inducing=0), "n_inducing of SetTransformer must be"),
        (RecurrentSummary(hidden_layer_sizes=True), "got True"),
        (MLP(n_summaries="many"), "got 'many'"),
    ],
)
def test_parameters_that_cannot_be_used_are_named(summary, message):
    with pytest.raises(ValueError, match=message):
        summary.build(1, ITEMS, FEATURES, generator=generator())


def test_what_is_no_summary_is_named():
    with pytest.raises(ValueError, match="summary must be one of"):
        summary_from("deepset")
    with pytest.raises(TypeError, match="got 3"):
        summary_from(3)
    with pytest.raises(TypeError, match="summary must be a name"):
        summary_from(lambda: torch.nn.Identity())
