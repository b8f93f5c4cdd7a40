import copy
import dataclasses
import itertools
import operator
import pickle

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm

from skmdn.distribution import PredictiveDistribution
from tests.helpers import within_standard_errors

WEIGHTS = np.array([[0.2, 0.8], [0.5, 0.5], [0.0, 1.0], [0.9, 0.1]])
MEANS = np.array([[-2.0, 1.0], [0.0, 0.0], [9.0, -1.0], [3.0, 5.0]])
STDS = np.array([[1.0, 0.5], [2.0, 0.1], [1.0, 3.0], [0.3, 0.3]])
MEANS_2 = np.stack([MEANS, MEANS[::-1] + 0.5], -1)
STDS_2 = np.stack([STDS, STDS[::-1]], -1)
CORRELATION = np.array([[1.0, 0.6], [0.6, 1.0]])
COVARIANCES = STDS_2[..., :, None] * STDS_2[..., None, :] * CORRELATION
N_ROWS = 4

KINDS = {
    "univariate": {"means": MEANS, "stds": STDS},
    "one column": {"means": MEANS[..., None], "stds": STDS[..., None]},
    "independent": {"means": MEANS_2, "stds": STDS_2},
    "correlated": {"means": MEANS_2, "covariances": COVARIANCES},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def make(kind="univariate"):
    return PredictiveDistribution.from_params(WEIGHTS, **KINDS[kind])


def event(kind):
    """Return the target's axes after those for rows."""
    return KINDS[kind]["means"].shape[2:]


def draw_points(kind, *leading, seed=0):
    rng = np.random.RandomState(seed)
    return 2.0 * rng.normal(size=leading + event(kind))


def log_prob_of(kind, row, point):
    """Log density of a row at a point, by scipy."""
    params = {name: np.asarray(values)[row] for name, values in KINDS[kind].items()}
    if kind == "univariate":
        parts = norm.logpdf(point, params["means"], params["stds"])
    else:
        covariances = params.get("covariances")
        if covariances is None:
            covariances = [np.diag(std**2) for std in params["stds"]]
        parts = [
            multivariate_normal(mean, covariance).logpdf(point)
            for mean, covariance in zip(params["means"], covariances, strict=True)
        ]
    return logsumexp(parts, b=WEIGHTS[row])


def quadrature(function, row, *more_edges):
    """Integrate over the row's distribution, panel by panel."""
    edges = (MEANS[row] + STDS[row] * np.arange(-12.0, 13.0)[:, None]).ravel()
    edges = np.union1d(edges, more_edges)
    return sum(quad(function, a, b)[0] for a, b in itertools.pairwise(edges))


AT_POINTS = ["log_prob", "pdf", "cdf", "sf", "pit", "crps", "responsibilities"]
JOINT = ["log_prob", "pdf", "responsibilities"]
PARAMETERS = ["weights", "means", "stds", "covariances"]
QUERIES = {
    "mean": lambda dist: dist.mean(),
    "var": lambda dist: dist.var(),
    "std": lambda dist: dist.std(),
    "cov": lambda dist: dist.cov(),
    "mode": lambda dist: dist.mode(),
    "ppf": lambda dist: dist.ppf([0.1, 0.5, 0.999]),
    "median": lambda dist: dist.ppf(0.5),
    "interval": lambda dist: dist.interval(0.8),
    "entropy": lambda dist: dist.marginal(0).entropy(),
}
WHOLE = QUERIES | {name: operator.attrgetter(name) for name in PARAMETERS}


def answer_shape(query, kind, leading):
    """Return what a query at points of a leading shape has to answer."""
    if query == "responsibilities":
        return (*leading, 2)
    return leading if query in JOINT else leading + event(kind)


# Making one.


def test_from_params_needs_either_stds_or_covariances():
    with pytest.raises(ValueError, match="either stds or covariances"):
        PredictiveDistribution.from_params(WEIGHTS, MEANS)
    with pytest.raises(ValueError, match="either stds or covariances"):
        PredictiveDistribution.from_params(WEIGHTS, MEANS_2, STDS_2, COVARIANCES)


@every_kind
def test_from_params_keeps_the_parameters(kind):
    dist, params = make(kind), KINDS[kind]
    np.testing.assert_allclose(dist.weights, WEIGHTS, rtol=1e-14)
    np.testing.assert_array_equal(dist.means, params["means"])
    if "stds" in params:
        np.testing.assert_allclose(dist.stds, params["stds"], rtol=1e-14)
    else:
        np.testing.assert_allclose(dist.covariances, params["covariances"], rtol=1e-12)
        np.testing.assert_allclose(dist.stds, STDS_2, rtol=1e-12)


def test_from_params_with_diagonal_covariances_is_from_params_with_stds():
    covariances = STDS_2[..., None] ** 2 * np.eye(2)
    dist = PredictiveDistribution.from_params(WEIGHTS, MEANS_2, covariances=covariances)
    y = draw_points("independent", N_ROWS)
    np.testing.assert_allclose(dist.log_prob(y), make("independent").log_prob(y))


def test_rounded_weights_give_quantiles_that_the_cdf_agrees_with():
    dist = PredictiveDistribution.from_params([[0.3333333] * 3], [[0, 2, 5]], [[1] * 3])
    levels = np.linspace(0.0, 1.0, 102)[1:-1]
    np.testing.assert_allclose(dist.cdf(dist.ppf(levels))[0], levels, atol=1e-9, rtol=0)


def test_from_params_takes_lists_and_copies_arrays():
    means = MEANS.copy()
    dist = PredictiveDistribution.from_params(WEIGHTS.tolist(), means, STDS.tolist())
    means[:] = 0.0
    np.testing.assert_array_equal(dist.means, MEANS)


# What it says.


@pytest.mark.parametrize("leading", [(N_ROWS,), (N_ROWS, 3)], ids=str)
@every_kind
def test_log_prob_and_pdf_agree_with_scipy(kind, leading):
    y = draw_points(kind, *leading)
    expected = [log_prob_of(kind, i[0], y[i]) for i in np.ndindex(*leading)]
    result = make(kind).log_prob(y)
    np.testing.assert_allclose(result, np.reshape(expected, leading), rtol=1e-10)
    np.testing.assert_array_equal(make(kind).pdf(y), np.exp(result))


@every_kind
def test_moments_agree_with_the_laws_of_total_expectation(kind):
    dist = make(kind)
    means = KINDS[kind]["means"].reshape(N_ROWS, 2, -1)
    covariances = np.reshape(dist.covariances, means.shape + means.shape[-1:])
    mean = np.einsum("nk,nkd->nd", WEIGHTS, means)
    offset = means - mean[:, None]
    covariance = np.einsum("nk,nkij->nij", WEIGHTS, covariances) + np.einsum(
        "nk,nki,nkj->nij", WEIGHTS, offset, offset
    )
    var = np.diagonal(covariance, axis1=1, axis2=2)
    shape = (N_ROWS, *event(kind))
    np.testing.assert_allclose(dist.mean(), mean.reshape(shape), atol=1e-14)
    np.testing.assert_allclose(dist.var(), var.reshape(shape), rtol=1e-12)
    np.testing.assert_allclose(dist.std(), np.sqrt(var).reshape(shape), rtol=1e-12)
    np.testing.assert_allclose(
        dist.cov(), covariance.reshape(shape + event(kind)), rtol=1e-12, atol=1e-14
    )


@every_kind
def test_distribution_functions_agree_with_scipy(kind):
    dist, y = make(kind), draw_points(kind, N_ROWS, 3)
    shape = (N_ROWS, 2, 1, *event(kind))
    weights = WEIGHTS.reshape(N_ROWS, 2, 1, *[1] * len(event(kind)))
    parts = y[:, None], dist.means.reshape(shape), dist.stds.reshape(shape)
    expected = (weights * norm.cdf(*parts)).sum(1)
    np.testing.assert_allclose(dist.cdf(y), expected, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(dist.sf(y), 1 - expected, rtol=1e-9, atol=1e-14)
    np.testing.assert_array_equal(dist.pit(y), dist.cdf(y))


@every_kind
def test_interval_is_two_quantiles_and_cdf_inverts_ppf(kind):
    dist = make(kind)
    quantiles = dist.ppf([0.05, 0.95])
    assert quantiles.shape == (N_ROWS, 2, *event(kind))
    np.testing.assert_allclose(dist.interval(0.9), quantiles, rtol=1e-12)
    np.testing.assert_array_equal(dist.interval(), dist.interval(0.9))
    np.testing.assert_array_equal(dist.ppf(0.05), dist.ppf([0.05])[:, 0])
    levels = np.array([0.05, 0.95]).reshape(2, *[1] * len(event(kind)))
    reached = dist.cdf(quantiles)
    np.testing.assert_allclose(reached, np.broadcast_to(levels, reached.shape))


@pytest.mark.parametrize("y", [-1.0, 0.3, 4.2])
@pytest.mark.parametrize("row", range(N_ROWS))
def test_crps_agrees_with_quadrature(row, y):
    def squared_error(x):
        return (WEIGHTS[row] @ norm.cdf(x, MEANS[row], STDS[row]) - (x > y)) ** 2

    expected = quadrature(squared_error, row, y)
    assert abs(make().crps(y)[row] - expected) < 1e-8


@every_kind
def test_crps_rewards_the_true_distribution(kind):
    dist = make(kind)
    y = dist.sample(2000, random_state=0)
    worse = dist[::-1]
    assert (dist.crps(y).mean(1) < worse.crps(y).mean(1)).all()


@every_kind
def test_mode_is_higher_than_any_draw(kind):
    dist = make(kind)
    draws = dist.sample(500, random_state=1)
    assert (dist.log_prob(dist.mode())[:, None] >= dist.log_prob(draws)).all()


@every_kind
def test_responsibilities_of_points_sum_to_one(kind):
    result = make(kind).responsibilities(draw_points(kind, N_ROWS, 3))
    assert result.shape == (N_ROWS, 3, 2)
    np.testing.assert_allclose(result.sum(-1), 1.0, rtol=1e-14)
    assert (result[2, :, 0] == 0).all()


@pytest.mark.parametrize("row", range(N_ROWS))
def test_entropy_of_one_output_agrees_with_quadrature(row):
    def integrand(x):
        log_prob = log_prob_of("univariate", row, x)
        return -np.exp(log_prob) * log_prob

    assert abs(make().entropy()[row] - quadrature(integrand, row)) < 1e-8


def test_entropy_of_several_outputs_is_estimated_from_draws():
    dist = PredictiveDistribution.from_params(
        np.ones((N_ROWS, 1)), MEANS_2[:, :1], covariances=COVARIANCES[:, :1]
    )
    expected = [multivariate_normal(cov=c[0]).entropy() for c in COVARIANCES]
    n_samples = 5000
    # -log p is a constant plus half a chi-squared of two degrees of freedom.
    error = 1.0 / np.sqrt(n_samples)
    result = dist.entropy(n_samples)
    assert result.shape == (N_ROWS,)
    assert (np.abs(result - expected) < 4 * error).all()
    np.testing.assert_array_equal(result, dist.entropy(n_samples))
    assert (result != dist.entropy(n_samples, random_state=1)).all()


# Sampling.


@every_kind
def test_draws_have_the_moments_of_their_row(kind):
    dist = make(kind)
    draws = dist.sample(20_000, random_state=0)
    assert draws.shape == (N_ROWS, 20_000, *event(kind))
    assert within_standard_errors(draws, dist.mean(), 1)
    squares = (draws - dist.mean()[:, None]) ** 2
    assert within_standard_errors(squares, dist.var(), 1)


def test_a_seed_gives_the_same_draws_every_time():
    dist = make()
    assert dist.sample().shape == (N_ROWS, 1)
    np.testing.assert_array_equal(dist.sample(5, 3), dist.sample(5, 3))
    assert (dist.sample(5, 3) != dist.sample(5, 4)).all()


def test_a_random_state_moves_on_with_every_call():
    dist, state = make(), np.random.RandomState(0)
    first, second = dist.sample(5, state), dist.sample(5, state)
    assert (first != second).all()
    np.testing.assert_array_equal(first, dist.sample(5, np.random.RandomState(0)))


@pytest.mark.parametrize("n_samples", [0, -1])
def test_the_number_of_draws_is_positive(n_samples):
    with pytest.raises(ValueError, match="n_samples must be at least 1"):
        make().sample(n_samples)


def test_none_gives_fresh_draws_without_touching_global_state():
    dist = make()
    numpy_state, torch_state = np.random.get_state()[1], torch.get_rng_state()
    assert (dist.sample(5) != dist.sample(5)).all()
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)
    assert torch.equal(torch.get_rng_state(), torch_state)


# The shapes of points.


@pytest.mark.parametrize("query", AT_POINTS)
@every_kind
def test_every_arrangement_of_points_means_the_same(kind, query):
    dist, y = make(kind), draw_points(kind, N_ROWS, 3)
    ask = getattr(dist, query)
    several = ask(y)
    assert several.shape == answer_shape(query, kind, (N_ROWS, 3))
    assert several.dtype == np.float64
    one_per_row = ask(y[:, 1])
    assert one_per_row.shape == answer_shape(query, kind, (N_ROWS,))
    np.testing.assert_allclose(one_per_row, several[:, 1], rtol=1e-12)
    shared = ask(y[:1])
    assert shared.shape == several.shape
    np.testing.assert_allclose(shared[0], several[0], rtol=1e-12)
    np.testing.assert_allclose(
        shared, ask(np.repeat(y[:1], N_ROWS, axis=0)), rtol=1e-12
    )
    everywhere = ask(y[0, 0])
    assert everywhere.shape == one_per_row.shape
    np.testing.assert_allclose(everywhere, shared[:, 0], rtol=1e-12)


@pytest.mark.parametrize("leading", [(1,), (5,), (N_ROWS,), (2, 5)], ids=str)
@pytest.mark.parametrize("query", AT_POINTS)
@every_kind
def test_a_single_row_takes_points_in_any_arrangement(kind, query, leading):
    dist, y = make(kind), draw_points(kind, *leading)
    result = getattr(dist[1], query)(y)
    assert result.shape == answer_shape(query, kind, leading)
    same = getattr(dist[1:2], query)(y.reshape(1, -1, *event(kind)))
    np.testing.assert_allclose(result.reshape(same[0].shape), same[0], rtol=1e-12)


@pytest.mark.parametrize("query", AT_POINTS)
@every_kind
def test_points_may_be_lists_integers_or_views(kind, query):
    ask, y = getattr(make(kind), query), np.round(draw_points(kind, N_ROWS))
    expected = ask(y)
    backwards = np.ascontiguousarray(y[::-1])[::-1]
    for same in (y.tolist(), y.astype(int), y.astype(">f4"), backwards):
        np.testing.assert_array_equal(ask(same), expected)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("univariate", (3,)),
        ("univariate", (3, 2)),
        ("univariate", (N_ROWS, 2, 1)),
        ("independent", ()),
        ("independent", (3,)),
        ("independent", (N_ROWS,)),
        ("independent", (3, 2)),
        ("correlated", (N_ROWS, 3)),
        ("correlated", (3, 5, 2)),
        ("correlated", (N_ROWS, 1, 5, 2)),
    ],
    ids=str,
)
@pytest.mark.parametrize("query", AT_POINTS)
def test_points_of_a_wrong_shape_are_refused_by_naming_shapes(query, kind, shape):
    expected = r"y has shape .*; expected \(4"
    with pytest.raises(ValueError, match=expected) as caught:
        getattr(make(kind), query)(np.zeros(shape))
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize("query", AT_POINTS)
@every_kind
def test_missing_values_among_the_points_are_refused(kind, query):
    y = draw_points(kind, N_ROWS)
    y.flat[1] = np.nan
    for dist in (make(kind), make(kind)[0]):
        with pytest.raises(ValueError, match="NaN"):
            getattr(dist, query)(y)


def test_infinity_has_no_density_and_all_the_probability_below():
    dist = make()
    assert (dist.log_prob(np.inf) == -np.inf).all()
    assert (dist.pdf(-np.inf) == 0.0).all()
    np.testing.assert_allclose(dist.cdf([[-np.inf, np.inf]]), [[0.0, 1.0]] * N_ROWS)
    np.testing.assert_allclose(dist.sf([[-np.inf, np.inf]]), [[1.0, 0.0]] * N_ROWS)
    assert (dist[[0, 1, 3]].crps(np.inf) == np.inf).all()
    both = make("independent").log_prob([[np.inf, 0.0], [0.0, -np.inf]] * 2)
    assert (both == -np.inf).all()


# Levels.


@pytest.mark.parametrize("q", [0, 1, 1.5, -0.1, np.nan, [0.5, 1.0], [[0.1, 0.2]]])
def test_levels_outside_the_open_interval_are_refused(q):
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        make().ppf(q)


@pytest.mark.parametrize("coverage", [0, 1, 1.5, -0.5, np.nan])
def test_coverages_outside_the_open_interval_are_refused(coverage):
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        make().interval(coverage)


# A sequence of rows.

INDICES = {
    "slice": slice(1, 3),
    "backwards": slice(None, None, -1),
    "list": [2, 0, 2],
    "negative list": [-1, 0],
    "mask": np.array([True, False, True, True]),
    "integers": np.array([3, 1]),
}


@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize("query", WHOLE)
@every_kind
def test_indexing_selects_rows(kind, query, index):
    dist, index = make(kind), INDICES[index]
    chosen = dist[index]
    assert len(chosen) == len(np.arange(N_ROWS)[index])
    np.testing.assert_allclose(
        WHOLE[query](chosen), WHOLE[query](dist)[index], rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("row", [0, -1, np.int64(2)])
@pytest.mark.parametrize("query", WHOLE)
@every_kind
def test_an_integer_gives_one_row_without_the_axis_of_rows(kind, query, row):
    dist = make(kind)
    result, expected = WHOLE[query](dist[row]), WHOLE[query](dist)[row]
    assert np.shape(result) == expected.shape
    np.testing.assert_allclose(result, expected, rtol=1e-9, atol=1e-12)


@every_kind
def test_a_single_row_is_sampled_without_the_axis_of_rows(kind):
    draws = make(kind)[0].sample(7, random_state=0)
    assert draws.shape == (7, *event(kind))


def test_rows_can_be_iterated():
    dist = make()
    assert [float(one.mean()) for one in dist] == dist.mean().tolist()


def test_a_single_row_is_no_sequence():
    single = make()[0]
    with pytest.raises(TypeError, match="cannot be indexed"):
        single[0]
    with pytest.raises(TypeError, match="has no length"):
        len(single)


@pytest.mark.parametrize(
    "index", [N_ROWS, -N_ROWS - 1, [0, 9], [[0, 1]], np.array([True])]
)
def test_rows_that_do_not_exist_are_refused(index):
    with pytest.raises(IndexError, match=r"out of bounds|Only rows|boolean index"):
        make()[index]


@every_kind
def test_repr_tells_the_sizes(kind):
    dist, n_outputs = make(kind), 2 if kind in ("independent", "correlated") else 1
    sizes = f"n_outputs={n_outputs}, n_components=2"
    assert repr(dist) == f"PredictiveDistribution(n_samples=4, {sizes})"
    assert repr(dist[0]) == f"PredictiveDistribution({sizes})"
    assert len(dist) == N_ROWS
    assert (dist.n_outputs, dist.n_components) == (n_outputs, 2)


# A value that does not change.


@pytest.mark.parametrize("name", PARAMETERS)
@every_kind
def test_parameters_are_read_only(kind, name):
    dist = make(kind)
    for values in (getattr(dist, name), getattr(dist[0], name)):
        with pytest.raises(ValueError, match="read-only"):
            values[...] = 1.0
    with pytest.raises(AttributeError):
        setattr(dist, name, 1.0)


def test_attributes_cannot_be_replaced():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().univariate = False


@pytest.mark.parametrize("query", QUERIES)
@every_kind
def test_answers_can_be_changed_without_changing_the_distribution(kind, query):
    dist = make(kind)
    answer = QUERIES[query](dist)
    before = answer.copy()
    answer[...] = 99.0
    np.testing.assert_array_equal(QUERIES[query](dist), before)


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda dist: pickle.loads(pickle.dumps(dist))],
    ids=["copy", "deepcopy", "pickle"],
)
@every_kind
def test_copies_answer_alike(kind, copied):
    for dist in (make(kind), make(kind)[1]):
        twin = copied(dist)
        assert repr(twin) == repr(dist)
        for query in WHOLE.values():
            np.testing.assert_array_equal(query(twin), query(dist))
        np.testing.assert_array_equal(twin.sample(3, 0), dist.sample(3, 0))


@every_kind
def test_answers_do_not_depend_on_how_many_rows_are_worked_at_a_time(kind, monkeypatch):
    dist, y = make(kind), draw_points(kind, N_ROWS, 3)

    def answers():
        whole = {name: query(dist) for name, query in WHOLE.items()}
        points = {name: getattr(dist, name)(y) for name in AT_POINTS}
        return whole | points

    at_once = answers()
    monkeypatch.setattr("skmdn.rowwise._CHUNK_SIZE", 1)
    for name, answer in answers().items():
        np.testing.assert_allclose(answer, at_once[name], rtol=1e-9, atol=1e-12)


# Outputs.


@pytest.mark.parametrize("kind", ["independent", "correlated"])
def test_marginal_of_an_integer_is_a_one_dimensional_target(kind):
    dist = make(kind)
    for output in (0, 1, -1, np.int64(1)):
        marginal = dist.marginal(output)
        np.testing.assert_allclose(marginal.mean(), dist.mean()[:, output])
        np.testing.assert_allclose(marginal.std(), dist.std()[:, output])
        np.testing.assert_allclose(marginal.ppf(0.3), dist.ppf(0.3)[:, output])
        assert marginal.log_prob(np.zeros(N_ROWS)).shape == (N_ROWS,)


@pytest.mark.parametrize(
    "outputs", [[0], [1, 0], [-1], (1,), np.array([0, 1])], ids=str
)
@pytest.mark.parametrize("kind", ["independent", "correlated"])
def test_marginal_of_a_list_keeps_the_axis_of_outputs_in_that_order(kind, outputs):
    dist = make(kind)
    marginal, outputs = dist.marginal(outputs), list(outputs)
    assert marginal.n_outputs == len(outputs)
    np.testing.assert_allclose(marginal.mean(), dist.mean()[:, outputs])
    np.testing.assert_allclose(
        marginal.cov(), dist.cov()[:, outputs][:, :, outputs], atol=1e-14
    )
    assert dist[0].marginal(outputs).mean().shape == (len(outputs),)


BAD_OUTPUTS = [2, -3, [0, 0], [0, -2], [5], []]


@pytest.mark.parametrize("outputs", BAD_OUTPUTS, ids=str)
def test_outputs_that_do_not_exist_or_repeat_are_refused(outputs):
    dist = make("correlated")
    with pytest.raises(ValueError, match="different outputs out of 2"):
        dist.marginal(outputs)
    with pytest.raises(ValueError, match="different outputs out of 2"):
        dist.condition(outputs, 0.0)


def test_conditioning_on_everything_is_refused():
    with pytest.raises(ValueError, match="stay unknown"):
        make("correlated").condition([0, 1], [0.0, 0.0])


@pytest.mark.parametrize("known", [0, 1, -1, [0]], ids=str)
@pytest.mark.parametrize("kind", ["independent", "correlated"])
def test_conditional_density_is_joint_over_marginal(kind, known):
    dist, y = make(kind), draw_points(kind, N_ROWS, seed=3)
    known_column = np.atleast_1d(known) % 2
    rest = 1 - known_column
    conditional = dist.condition(known, y[:, known_column])
    marginal = dist.marginal(known_column.tolist())
    expected = dist.log_prob(y) - marginal.log_prob(y[:, known_column])
    np.testing.assert_allclose(conditional.log_prob(y[:, rest]), expected, rtol=1e-9)
    np.testing.assert_allclose(
        conditional.weights, marginal.responsibilities(y[:, known_column])
    )


def test_values_to_condition_on_come_per_row_or_for_all():
    dist, values = make("correlated"), np.array([0.1, -2.0, 0.4, 3.0])
    per_row = dist.condition(0, values)
    assert per_row.mean().shape == (N_ROWS, 1)
    np.testing.assert_array_equal(
        dist.condition([0], values[:, None]).mean(), per_row.mean()
    )
    for row, value in enumerate(values):
        same = dist.condition(0, value).mean()[row]
        np.testing.assert_allclose(same, per_row.mean()[row])
        np.testing.assert_allclose(dist[row].condition(0, value).mean(), same)


def test_conditioning_knows_several_of_three_outputs():
    rng = np.random.RandomState(0)
    means, roots = rng.normal(size=(2, 2, 3)), rng.normal(size=(2, 2, 3, 3))
    covariances = roots @ np.swapaxes(roots, -1, -2) + np.eye(3)
    weights = [[0.4, 0.6], [0.3, 0.7]]
    dist = PredictiveDistribution.from_params(weights, means, None, covariances)
    y = rng.normal(size=(2, 3))
    conditional = dist.condition([2, 0], y[:, [2, 0]])
    expected = dist.log_prob(y) - dist.marginal([2, 0]).log_prob(y[:, [2, 0]])
    np.testing.assert_allclose(conditional.log_prob(y[:, [1]]), expected)
    shared = dist.condition([2, 0], y[0, [2, 0]])
    np.testing.assert_allclose(shared.mean()[0], conditional.mean()[0])


@pytest.mark.parametrize("values", [np.zeros(3), np.zeros((3, 1)), np.zeros((4, 2))])
def test_values_to_condition_on_must_fit(values):
    with pytest.raises(ValueError, match="shape"):
        make("correlated").condition(0, values)


def test_missing_values_to_condition_on_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        make("correlated").condition(0, [0.0, np.nan, 0.0, 0.0])


@pytest.mark.parametrize("query", AT_POINTS)
@every_kind
def test_a_single_row_answers_a_single_point_with_a_single_answer(kind, query):
    result = getattr(make(kind)[1], query)(draw_points(kind))
    assert np.shape(result) == answer_shape(query, kind, ())


@pytest.mark.parametrize("query", AT_POINTS)
@every_kind
def test_no_rows_have_no_answers(kind, query):
    nothing = make(kind)[[]]
    for leading in [(0,), (0, 3), (1, 3)]:
        result = getattr(nothing, query)(draw_points(kind, *leading))
        assert result.shape == answer_shape(query, kind, (0, *leading[1:]))


def test_entropy_needs_draws():
    with pytest.raises(ValueError, match="n_samples must be at least 1"):
        make("correlated").entropy(0)


@every_kind
def test_infinite_points_have_no_density(kind):
    for sign in (-np.inf, np.inf):
        y = sign * np.ones_like(draw_points(kind, 4))
        assert (make(kind).log_prob(y) == -np.inf).all()
        assert (make(kind).crps(y) == np.inf).all()


@pytest.mark.parametrize("outputs", [[True, False], 0.7, [0.5]], ids=str)
def test_outputs_are_integers(outputs):
    with pytest.raises((TypeError, ValueError)):
        make("independent").marginal(outputs)


@pytest.mark.parametrize(
    "params",
    [
        {"weights": [[1.0, 1.0]]},
        {"weights": [[1.5, -0.5]]},
        {"weights": [[1.0]]},
        {"weights": [0.5, 0.5]},
        {"stds": [[1.0, -1.0]]},
        {"stds": [[1.0, 0.0]]},
        {"stds": [[1.0], [1.0]]},
        {"means": [[0.0, np.nan]]},
        {"stds": None, "covariances": [[1.0, 1.0]]},
        {"stds": None, "covariances": -np.ones((1, 2, 1, 1))},
    ],
    ids=str,
)
def test_from_params_refuses_what_is_no_distribution(params):
    good = {"weights": [[0.5, 0.5]], "means": [[0.0, 1.0]], "stds": [[1.0, 1.0]]}
    with pytest.raises(ValueError):  # noqa: PT011
        PredictiveDistribution.from_params(**(good | params))


def test_values_to_condition_on_are_not_shared_between_outputs():
    dist = PredictiveDistribution.from_params(
        np.ones((4, 1)), np.zeros((4, 1, 3)), np.ones((4, 1, 3))
    )
    with pytest.raises(ValueError, match="shape"):
        dist.condition([0, 1], np.zeros((4, 1)))


def test_probabilities_never_exceed_one():
    rng = np.random.RandomState(0)
    weights = rng.dirichlet(np.ones(5), 500)
    dist = PredictiveDistribution.from_params(
        weights, rng.normal(size=(500, 5)), np.ones((500, 5))
    )
    assert (dist.cdf(100.0) <= 1.0).all()
    assert (dist.sf(-100.0) <= 1.0).all()
