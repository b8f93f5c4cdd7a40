"""What every family has to agree on with scipy, whatever it is."""

import math

import numpy as np
import pytest
import torch

from skmdn.families import inverse_softplus
from tests.helpers import generator, random_raw, tensor

LEVELS = [1e-250, 1e-30, 1e-8, 0.01, 0.3, 0.5, 0.9, 0.9999]


def parameters(family, n_components=3, n_outputs=2, seed=0, min_scale=0.05):
    """Return random valid parameters as a network's links make them."""
    raw = random_raw(family, (), n_components, n_outputs, seed)
    return family.from_raw(raw, min_scale)


def at(value):
    """Return a point for every component and output."""
    return torch.full((1, 1), value, dtype=torch.float64)


def cells(params):
    """Yield each component and output with its parameters as numbers."""
    shape = next(iter(params.values())).shape
    for index in np.ndindex(*shape):
        yield index, {name: float(value[index]) for name, value in params.items()}


def table(function, params):
    """Apply a function of numbers to the parameters of each component and output."""
    shape = next(iter(params.values())).shape
    out = np.empty(shape)
    for index, numbers in cells(params):
        out[index] = function(**numbers)
    return out


def check_density(family, params, frozen, points, rtol=1e-8):
    """Compare log densities at points per component and output."""
    for y in points:
        found = family.log_density(params, at(y))
        log = "logpmf" if family.discrete else "logpdf"
        expected = table(lambda **p: getattr(frozen(**p), log)(y), params)  # noqa: B023
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-10)
        assert not found.isnan().any()
    many = tensor(points).reshape(-1, 1, 1).expand(-1, 1, 2)
    joint = family.log_prob(params, many)
    torch.testing.assert_close(joint, family.log_density(params, many).sum(-1))


def check_tails(family, params, frozen, points, rtol=1e-8):
    """Compare both tails, relative to themselves as far as scipy has them."""
    for y in points:
        point = at(y)
        for name in ("cdf", "sf"):
            found = getattr(family, name)(params, point)
            log = "logcdf" if name == "cdf" else "logsf"
            with np.errstate(all="ignore"):
                logs = table(lambda **p: getattr(frozen(**p), log)(y), params)  # noqa: B023
                expected = np.exp(logs)
            np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-300)
            in_logs = getattr(family, log.replace("log", "log_"))(params, point)
            seen = expected > 1e-300
            np.testing.assert_allclose(in_logs[seen], logs[seen], rtol=1e-8, atol=1e-12)
            assert not in_logs.isnan().any()


def check_quantiles(family, params, frozen, levels=LEVELS, rtol=1e-8):
    """Compare quantiles with scipy and, if there are no atoms, with the cdf."""
    for q in levels:
        found = family.ppf(params, at(q))
        expected = table(lambda q=q, **p: frozen(**p).ppf(q), params)
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-12)
        if not family.discrete and q > 1e-30:
            back = family.cdf(params, found)
            np.testing.assert_allclose(back, q, rtol=1e-7)


def check_moments(family, params, frozen, rtol=1e-8):
    """Compare mean and standard deviation, and what is made of them."""
    for name in ("mean", "std"):
        found = getattr(family, name)(params)
        expected = table(lambda name=name, **p: getattr(frozen(**p), name)(), params)
        np.testing.assert_allclose(found, expected, rtol=rtol)
    variance = family.covariance(params).diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(variance, family.std(params).square())


def check_draws(family, params, n=20_000):
    """Compare the draws' means, variances and ranks with the family's own."""
    taken = {name: value.expand(n, *value.shape) for name, value in params.items()}
    draws = family.draw(taken, generator())
    assert draws.isfinite().all()
    mean, std = family.mean(params), family.std(params)
    error = std / math.sqrt(n)
    assert ((draws.mean(0) - mean).abs() < 4.5 * error).all()
    fourth = (draws - mean).pow(4).mean(0)
    error = (fourth - std.pow(4)).clamp_min(1e-12).div(n).sqrt()
    assert ((draws.var(0) - std.square()).abs() < 4.5 * error + 1e-12).all()
    if not family.discrete:
        below = family.cdf(params, draws)
        assert ((below.mean(0) - 0.5).abs() < 4.5 * math.sqrt(1 / 12 / n)).all()


def check_links(family, points, min_scale=0.05):
    """Compare gradients through links and density with central differences."""
    raw = random_raw(family, (), 2, 1, 3)
    for y in points:
        point = at(y)

        def loss(raw, point=point):
            return family.log_prob(family.from_raw(raw, min_scale), point).sum()

        leaves = {name: value.clone().requires_grad_() for name, value in raw.items()}
        loss(leaves).backward()
        for name, leaf in leaves.items():
            for index in np.ndindex(*leaf.shape):
                step = torch.zeros_like(leaf)
                step[index] = 1e-5
                up = loss({**raw, name: raw[name] + step})
                down = loss({**raw, name: raw[name] - step})
                expected = float(up - down) / 2e-5
                assert float(leaf.grad[index]) == pytest.approx(
                    expected, rel=1e-6, abs=1e-7
                )


def check_outside(family, points, min_scale=0.05):
    """There is no density, nothing is NaN, and no gradient is either."""
    raw = random_raw(family, (), 2, 1, 3)
    for y in points:
        leaves = {name: value.clone().requires_grad_() for name, value in raw.items()}
        params, point = family.from_raw(leaves, min_scale), at(y)
        density = family.log_density(params, point)
        assert (density == -math.inf).all()
        interval = family.log_interval(params, point - 0.5, point + 0.5)
        for value in (density, *family.log_tails(params, point), interval):
            assert not value.isnan().any()
            total = torch.where(value.isfinite(), value, 0.0).sum()
            for gradient in torch.autograd.grad(
                total, leaves.values(), allow_unused=True, retain_graph=True
            ):
                assert gradient is None or gradient.isfinite().all()


def check_start(family, centers, spreads, rtol=1e-6):
    """The start has the means and deviations that were asked for, where it can."""
    raw = family.start(tensor(centers), tensor(spreads), 0.01)
    params = family.from_raw(raw, 0.01)
    np.testing.assert_allclose(family.mean(params), centers, rtol=rtol)
    np.testing.assert_allclose(family.std(params), spreads, rtol=rtol)


def check_units(family, params, points, scale=2.5, shift=-1.0):
    """A change of units moves the density by its Jacobian."""
    factor, offset = tensor([scale, 0.5 * scale]), tensor([shift, shift])
    if family.units == "scale":
        offset = offset * 0.0
    moved = family.affine(params, factor, offset)
    target = family.in_units((1 / scale, 2 / scale), tuple((-offset / factor).tolist()))
    for y in points:
        point = at(y).expand(1, 2)
        before = family.log_density(params, point) - factor.log()
        after = target.log_density(moved, point * factor + offset)
        torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)


def check_widening(family, params, factor=1.7):
    """Deviations grow and means stay."""
    wide = family.widen(params, tensor(factor))
    torch.testing.assert_close(family.mean(wide), family.mean(params))
    torch.testing.assert_close(family.std(wide), factor * family.std(params))


def recovered(family, raw, y):
    """Return maximum-likelihood numbers of one component, and standard errors.

    The errors come from the products of the rows' scores, which exist where second
    derivatives do not.
    """
    names = list(raw)
    start = family.start(y.mean().view(1, 1), y.std().view(1, 1), 1e-6)
    vector = torch.cat([start[name].flatten() for name in names]).requires_grad_()

    def log_prob(vector):
        parts = {name: vector[i].view(1, 1) for i, name in enumerate(names)}
        return family.log_prob(family.from_raw(parts, 1e-6), y.view(-1, 1, 1)).flatten()

    optimiser = torch.optim.LBFGS([vector], max_iter=300, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        value = -log_prob(vector).mean()
        value.backward()
        return value

    optimiser.step(closure)
    with torch.no_grad():
        steps = 1e-4 * torch.eye(len(names), dtype=torch.float64)
        scores = torch.stack(
            [(log_prob(vector + h) - log_prob(vector - h)) / 2e-4 for h in steps]
        )
    information = scores @ scores.mT
    return vector.detach(), torch.linalg.inv(information).diagonal().sqrt()


def check_recovery(family, raw, n=20_000):
    """Fit 20 000 draws and find the numbers that made them."""
    params = family.from_raw(raw, 1e-6)
    taken = {name: value.expand(n, 1, 1) for name, value in params.items()}
    y = family.draw(taken, generator(5)).flatten()
    found, error = recovered(family, raw, y)
    truth = torch.cat([value.flatten() for value in raw.values()])
    assert ((found - truth).abs() < 4.0 * error).all(), (found, truth, error)


def raw_scale(value):
    """Return the unconstrained number of a scale."""
    return inverse_softplus(tensor([[value]]))
