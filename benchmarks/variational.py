"""How close does VariationalPosterior come to targets whose draws are known?

Run with one thread:

    OMP_NUM_THREADS=1 python benchmarks/variational.py [folder]

Every target is fitted once with the defaults and once frugally (20 000 evaluations),
through the public methods, with the seed 0. The columns:

- C2ST: the accuracy of a random forest that tells 2000 draws of q from 2000 exact ones,
  by 5-fold cross-validation; 0.5 is indistinguishable and its noise is about 0.015.
  Then the same for ``sample(method="psir")``.
- log_evidence_error: where the evidence is known, and the standard error of the report.
- efficiency, KL(p || q), and the gap between the evidence and the truncated bound.
- components; evaluations of the fit; processor seconds; whether the report has doubts.

With the folder of the three tasks of sbibm (files gaussian_linear.npz and so on, keys
x_i, reference_i; from the published repository sbi-benchmark/sbibm) these are added,
for the observations 1 to 3 and against the published posterior draws.

Then the coverage check, 20 seeds in 2 and in 10 dimensions: how often a good fit is
suspected, and how often one is whose minor mode was deleted. Last flows beside the
mixture on some of the targets, the same columns; ``--flows`` runs these alone.
"""

import argparse
import math
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from common import save
from scipy import special, stats
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import KFold, cross_val_score

from skmdn import VariationalPosterior
from skmdn.bridge import generator_from
from skmdn.covering.quality import coverage, fresh_draws

HEADER = [
    "target",
    "budget",
    "c2st",
    "c2st_psir",
    "log_evidence_error",
    "log_evidence_se",
    "efficiency",
    "divergence",
    "gap",
    "n_components",
    "n_evals",
    "seconds",
    "doubts",
]
SMOOTHNESS = np.random.RandomState(3)
ROTATION = np.linalg.qr(SMOOTHNESS.normal(size=(20, 20)))[0]
SCALES = np.geomspace(0.03, 3.2, 20)
CENTER = SMOOTHNESS.normal(size=20)
CIRCLE = 5.0 * np.stack(
    [np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)], 1
)
FLOW_TARGETS = ("funnel, 5-d", "banana")
UNIFORM_X = np.random.RandomState(5).normal(0, 0.6, size=10)


def normal(theta, mean, std, weight=1.0):
    """Return log (weight N(mean, std^2 I)) of rows."""
    square = (theta - theta.new_tensor(mean)).square().sum(1) / std**2
    unit = 0.5 * theta.shape[1] * math.log(2.0 * math.pi * std**2)
    return math.log(weight) - 0.5 * square - unit


def mixture(parts):
    """Return a potential and a sampler of normals (weight, mean, std)."""

    def potential(theta):
        logs = [normal(theta, mean, std, weight) for weight, mean, std in parts]
        return torch.logsumexp(torch.stack(logs), 0)

    def sampler(n_draws, rng):
        weights = [weight for weight, _, _ in parts]
        chosen = rng.choice(
            len(parts), size=n_draws, p=np.array(weights) / sum(weights)
        )
        means = np.array([mean for _, mean, _ in parts])[chosen]
        stds = np.array([std for _, _, std in parts])[chosen]
        return means + stds[:, None] * rng.normal(size=means.shape)

    return potential, sampler


def within(sampler, inside):
    """Return a sampler that rejects draws outside."""

    def kept(n_draws, rng):
        draws = sampler(50 * n_draws, rng)
        return draws[inside(draws)][:n_draws]

    return kept


def ring(theta):
    """Radius 3, standard deviation 0.1."""
    radius = theta.norm(dim=1)
    unit = math.log(2.0 * math.pi * 0.1 * math.sqrt(2.0 * math.pi))
    return -0.5 * ((radius - 3.0) / 0.1).square() - radius.log() - unit


def ring_draws(n_draws, rng):
    """Draw from it."""
    angle = rng.uniform(0.0, 2.0 * np.pi, size=n_draws)
    radius = 3.0 + 0.1 * rng.normal(size=n_draws)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


def funnel(theta):
    """Neal's, with the logarithm of a variance first."""
    v, rest = theta[:, 0], theta[:, 1:]
    unit = math.log(3.0) + 2.0 * v + 2.5 * math.log(2.0 * math.pi)
    return -v.square() / 18.0 - 0.5 * rest.square().sum(1) * (-v).exp() - unit


def funnel_draws(n_draws, rng):
    """Draw from it."""
    v = 3.0 * rng.normal(size=(n_draws, 1))
    return np.concatenate([v, np.exp(v / 2) * rng.normal(size=(n_draws, 4))], 1)


def banana(theta):
    """Bend a normal along a parabola."""
    bent = theta[:, 1:] - theta[:, :1].square()
    return normal(theta[:, :1], [0.0], 1.0) + normal(bent, [0.0], 0.3)


def banana_draws(n_draws, rng):
    """Draw from it."""
    x = rng.normal(size=(n_draws, 1))
    return np.concatenate([x, x**2 + 0.3 * rng.normal(size=(n_draws, 1))], 1)


def correlated(theta):
    """Rotate standard deviations from 0.03 to 3.2 in 20 dimensions."""
    z = (theta - theta.new_tensor(CENTER)) @ theta.new_tensor(ROTATION / SCALES)
    return normal(z, [0.0] * 20, 1.0) - math.log(SCALES.prod())


def correlated_draws(n_draws, rng):
    """Draw from it."""
    return CENTER + rng.normal(size=(n_draws, 20)) * SCALES @ ROTATION.T


def gamma(theta):
    """Shape 3, rate 2."""
    t = theta[:, 0]
    return 2.0 * t.log() - 2.0 * t + 3.0 * math.log(2.0) - math.log(2.0)


def gamma_draws(n_draws, rng):
    """Draw from it."""
    return rng.gamma(3.0, 0.5, size=(n_draws, 1))


def nan_beyond(potential):
    """Return a potential that is NaN where the first parameter is above 1/2."""
    return lambda theta: torch.where(theta[:, 0] > 0.5, torch.nan, potential(theta))


def slcp(seed):
    """Return the potential, a sampler and the evidence of a simulation of SLCP."""
    rng = np.random.RandomState(seed)
    t = rng.uniform(-3.0, 3.0, size=5)
    first, second, cross = slcp_covariance(torch.from_numpy(t)[None])
    covariance = torch.stack([first, cross, cross, second]).reshape(2, 2).numpy()
    x = rng.multivariate_normal(t[:2], covariance, size=4)

    def potential(theta):
        a, b, cross = slcp_covariance(theta)
        det = a * b - cross.square()
        gap = theta.new_tensor(x) - theta[:, None, :2]
        u, v = gap[..., 0], gap[..., 1]
        form = b[:, None] * u**2 - 2.0 * cross[:, None] * u * v + a[:, None] * v**2
        return (
            -0.5 * form.sum(1) / det - 2.0 * det.log() - 4.0 * math.log(2.0 * math.pi)
        )

    theta, log_w = slcp_weighted(potential, x.mean(0), rng)
    weights = np.exp(log_w - log_w.max())
    size = weights.sum() ** 2 / (weights**2).sum()
    print(f"slcp, simulation {seed}: {size:.0f} effective reference draws")

    def sampler(n_draws, rng):
        chosen = rng.choice(len(theta), n_draws, False, weights / weights.sum())
        signs = np.ones((n_draws, 5))
        signs[:, 2:4] = rng.choice([-1.0, 1.0], size=(n_draws, 2))
        return theta[chosen] * signs

    return potential, sampler, float(log_w.max() + np.log(weights.mean()))


def slcp_covariance(theta):
    """Return both variances and the covariance."""
    first, second = theta[:, 2].square(), theta[:, 3].square()
    cross = theta[:, 4].tanh() * first * second
    return first.square() + 1e-6, second.square() + 1e-6, cross


def slcp_weighted(potential, center, rng):
    """Return draws and log weights, with respect to a length, of its posterior.

    All signs of theta_3 and theta_4 are alike. Given these two and theta_5, the others
    are normal around the data's mean, with a quarter of the covariance, and cut at the
    edges of the prior, one after the other. So only three dimensions need a
    proposal: first the prior, then a mixture of the prior and of kernels around the
    best of these draws.
    """

    def weighted(rest, log_q):
        theta = np.concatenate([np.zeros((len(rest), 2)), rest], axis=1)
        covariance = slcp_covariance(torch.from_numpy(theta))
        a, b, cross = (0.25 * part.numpy() for part in covariance)
        slope = cross / a
        # Far from the prior's edges nothing is left between them, and no weight.
        with np.errstate(divide="ignore", invalid="ignore"):
            theta[:, 0], first = cut(center[0], np.sqrt(a))
            mean = center[1] + slope * (theta[:, 0] - center[0])
            theta[:, 1], second = cut(mean, np.sqrt(b - cross * slope))
            log_w = potential(torch.from_numpy(theta)).numpy() - log_q - first - second
        inside = (np.abs(theta) < 3.0).all(1) & np.isfinite(log_w)
        return theta, np.where(inside, log_w, -np.inf)

    def cut(mean, std):
        low, high = special.ndtr((-3.0 - mean) / std), special.ndtr((3.0 - mean) / std)
        z = special.ndtri(low + (high - low) * rng.uniform(size=len(std)))
        return mean + std * z, stats.norm.logpdf(z) - np.log(std) - np.log(high - low)

    def from_prior(n_draws):
        rest = rng.uniform(-3.0, 3.0, size=(n_draws, 3))
        return np.abs(rest * [1, 1, 0]) + rest * [0, 0, 1]

    # As a density on the positive quarter it has a fourth of the mass.
    log_prior = -3.0 * np.log(6.0)
    theta, log_w = weighted(from_prior(2_000_000), log_prior)
    weights = np.exp(log_w - log_w.max())
    chosen = rng.choice(len(theta), 1000, p=weights / weights.sum())
    z = np.concatenate([np.log(theta[chosen, 2:4]), theta[chosen, 4:]], axis=1)
    law = stats.gaussian_kde(z.T)
    z = law.resample(90_000, rng).T
    rest = np.concatenate([np.exp(z[:, :2]), z[:, 2:]], axis=1)
    rest = np.concatenate([rest, from_prior(10_000)])
    z = np.concatenate([np.log(rest[:, :2]), rest[:, 2:]], axis=1)
    log_kernel = law.logpdf(z.T) - z[:, :2].sum(1) - np.log(4.0)
    log_q = np.logaddexp(np.log(0.9) + log_kernel, np.log(0.1) + log_prior)
    return weighted(rest, log_q)


def truncated(means, std, low, high):
    """Return the log mass of independent normals between the ends."""
    law = stats.norm(np.array(means), std)
    return float(np.log(law.cdf(high) - law.cdf(low)).sum())


def targets():
    """Yield name, potential, prior, sampler or None, and log evidence or None."""
    wide, unit = [stats.norm(0, 5)], [(-1, 1)]
    circle = mixture([(0.125, center.tolist(), 0.3) for center in CIRCLE])
    yield "8 modes", circle[0], [(-10, 10)] * 2, circle[1], 0.0
    for n_features, prior in ((2, [(-15, 15)] * 2), (10, wide * 10)):
        parts = [(0.9, [-3.0] * n_features, 1.0), (0.1, [3.0] * n_features, 0.5)]
        yield f"0.9 and 0.1, {n_features}-d", *_with_prior(mixture(parts), prior), 0.0
    hard = mixture([(0.7, [-4.0, -4.0], 0.5), (0.3, [5.0, 6.0], 0.05)])
    yield "narrow and wide, 2-d", *_with_prior(hard, [(-15, 15)] * 2), 0.0
    needle = mixture([(0.7, [-3.0] * 5, 1.0), (0.3, [4.0] * 5, 0.2)])
    yield "needle, 5-d", *_with_prior(needle, wide * 5), 0.0
    yield "ring", ring, [(-10, 10)] * 2, ring_draws, 0.0
    yield "funnel, 5-d", funnel, [stats.norm(0, 10)] * 5, funnel_draws, 0.0
    yield "banana", banana, wide * 2, banana_draws, 0.0
    yield "correlated, 20-d", correlated, wide * 20, correlated_draws, 0.0
    yield "gamma, half-line", gamma, [(0, math.inf)], gamma_draws, 0.0
    mean = [0.3, -0.5, 0.9, -0.2, 0.6]
    tiny = mixture([(1.0, mean, 0.04)])
    inside = within(tiny[1], lambda draws: (np.abs(draws) < 1).all(1))
    yield "tiny, 5-d", tiny[0], unit * 5, inside, truncated(mean, 0.04, -1, 1)
    for n_features in (2, 5):
        mean = np.linspace(-0.3, 0.3, n_features).tolist()
        smooth = mixture([(1.0, mean, 0.4)])
        high = np.array([0.5] + [1.0] * (n_features - 1))
        inside = within(smooth[1], lambda d, h=high: ((d > -1) & (d < h)).all(1))
        known = truncated(mean, 0.4, -1.0, high)
        yield (
            f"NaN, {n_features}-d",
            nan_beyond(smooth[0]),
            unit * n_features,
            inside,
            known,
        )
    uniform = mixture([(1.0, UNIFORM_X.tolist(), math.sqrt(0.1))])
    known = truncated(UNIFORM_X, math.sqrt(0.1), -1.0, 1.0)
    rows = _truncated_draws(UNIFORM_X, math.sqrt(0.1))
    yield "linear, uniform prior, 10-d", uniform[0], unit * 10, rows, known


def simulations():
    """Yield the same of four simulations of SLCP."""
    for seed in (1, 2, 3, 4):
        potential, sampler, known = slcp(seed)
        yield f"slcp, simulation {seed}", potential, [(-3, 3)] * 5, sampler, known


def _with_prior(pair, prior):
    return pair[0], prior, pair[1]


def _truncated_draws(mean, std):
    law = stats.truncnorm((-1 - mean) / std, (1 - mean) / std, mean, std)
    return lambda n_draws, rng: law.rvs(size=(n_draws, len(mean)), random_state=rng)


def sbi_tasks(folder):
    """Yield the tasks of sbibm with their published draws."""
    for name, potential, prior in (
        ("two_moons", two_moons, [(-1, 1)] * 2),
        ("gaussian_mixture", gaussian_mixture, [(-10, 10)] * 2),
        ("gaussian_linear", gaussian_linear, [stats.norm(0, math.sqrt(0.1))] * 10),
    ):
        data = np.load(folder / f"{name}.npz")
        for i in (1, 2, 3):
            reference, x = data[f"reference_{i}"], data[f"x_{i}"][0]

            def chosen(n_draws, rng, reference=reference):
                return reference[rng.permutation(len(reference))[:n_draws]]

            yield f"{name} {i}", potential(x), prior, chosen, None


def two_moons(x):
    """Return the potential, -inf on half of each moon's circle."""

    def potential(theta):
        first, second = theta.unbind(1)
        u = x[0] + (first + second).abs() / math.sqrt(2.0) - 0.25
        v = x[1] + (first - second) / math.sqrt(2.0)
        radius = torch.hypot(u, v)
        log_p = -0.5 * ((radius - 0.1) / 0.01).square() - radius.log()
        return torch.where(u > 0, log_p, -torch.inf)

    return potential


def gaussian_mixture(x):
    """Return the potential of a wide and a narrow component at the same place."""
    return mixture([(0.5, x.tolist(), 1.0), (0.5, x.tolist(), 0.1)])[0]


def gaussian_linear(x):
    """Return the potential of a normal prior and normal noise."""
    std, zero = math.sqrt(0.1), [0.0] * 10
    return lambda theta: normal(theta, x.tolist(), std) + normal(theta, zero, std)


def c2st(draws, reference):
    """Return how well a random forest tells draws from others."""
    mean, std = reference.mean(0), reference.std(0)
    rows = np.concatenate([(draws - mean) / std, (reference - mean) / std])
    labels = np.repeat([0, 1], [len(draws), len(reference)])
    folds = KFold(5, shuffle=True, random_state=1)
    forest = RandomForestClassifier(random_state=1)
    return cross_val_score(forest, rows, labels, cv=folds).mean()


def measure(name, potential, prior, sampler, known, budget, q="mixture"):
    """Return a row of the table."""
    estimator = VariationalPosterior(potential, prior, q=q, random_state=0)
    estimator.set_params(max_potential_evals=budget)
    start = time.process_time()
    with warnings.catch_warnings(record=True):
        estimator.fit()
    seconds = time.process_time() - start
    n_evals, report = estimator.n_potential_evals_, estimator.report_
    scores = ["", ""]
    if sampler is not None:
        reference = sampler(2000, np.random.RandomState(7))
        for i, method in enumerate(("q", "psir")):
            draws = estimator.sample(2000, method=method, random_state=1)
            scores[i] = f"{c2st(draws, reference):.3f}"
    error = "" if known is None else f"{report.log_evidence - known:.4f}"
    row = [
        name,
        budget,
        *scores,
        error,
        f"{report.log_evidence_se:.4f}",
        f"{report.efficiency:.3f}",
        f"{report.divergence:.4f}",
        f"{report.log_evidence - report.truncated_elbo:.4f}",
        estimator.posterior_.n_components if q == "mixture" else "",
        n_evals,
        f"{seconds:.2f}",
        len(report.doubts),
    ]
    print(q, *row, sep="  ", flush=True)
    return row


def flow_rows():
    """Return the rows of mixtures and of flows over them."""
    chosen = [p for p in targets() if p[0] in FLOW_TARGETS]
    return [
        [q, *measure(*problem, budget, q)]
        for problem in chosen
        for budget in (400_000, 50_000)
        for q in ("mixture", "maf", "nsf")
    ]


def coverage_counts(n_features, prior, n_seeds=20):
    """Return how often a good fit and one with a deleted mode are suspected."""
    parts = [(0.9, [-3.0] * n_features, 1.0), (0.1, [3.0] * n_features, 0.5)]
    potential, _ = mixture(parts)
    good, deleted, weights = 0, 0, []
    for seed in range(n_seeds):
        estimator = VariationalPosterior(potential, prior, random_state=seed).fit()
        good += estimator.report_.suspicious
        fit = estimator._fits[0]
        major = estimator.posterior_.means[:, 0] < 0.0
        weights.append(estimator.posterior_.weights[~major].sum())
        normals = fit.covering.normals.choose(torch.from_numpy(major).nonzero()[:, 0])
        generator = generator_from(seed)
        u, log_p = fresh_draws(fit.problem.target(2000), normals, 2000, generator)
        deleted += coverage(normals, u, log_p, fit.covering.batches).suspicious
    spread = f"{np.mean(weights):.4f}", f"{np.std(weights):.4f}"
    row = [n_features, n_seeds, *spread, good, deleted]
    print(*row, sep="  ", flush=True)
    return row


def mixtures(folder):
    """Fit mixtures to all targets, and try the coverage check."""
    problems = [*targets(), *simulations(), *(sbi_tasks(folder) if folder else [])]
    rows = [measure(*p, budget) for p in problems for budget in (400_000, 20_000)]
    save("variational", HEADER, rows)
    header = [
        "n_features",
        "n_seeds",
        "minor_weight",
        "its_std",
        "suspected",
        "deleted",
    ]
    wide = [stats.norm(0, 5)] * 10
    counts = [coverage_counts(2, [(-15, 15)] * 2), coverage_counts(10, wide)]
    save("variational_coverage", header, counts)


def main():
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, help="the tasks of sbibm")
    parser.add_argument("--flows", action="store_true", help="these alone")
    arguments = parser.parse_args()
    if not arguments.flows:
        mixtures(arguments.folder)
    save("variational_flows", ["q", *HEADER], flow_rows())


if __name__ == "__main__":
    main()
