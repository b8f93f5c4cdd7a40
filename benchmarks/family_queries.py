"""What do the CRPS, the entropy and the mode of other families cost?

Run with one thread, on an otherwise idle machine:

    OMP_NUM_THREADS=1 python benchmarks/family_queries.py

Every row is an ensemble of 12 networks with 5 components each, whose raw numbers
scatter by 0.1 around common ones; queries go through ``PredictiveDistribution``, and
the CRPS is that of the 0.4 quantile. Beside it stands plain quadrature of the
distribution function, with 12 nodes between all quantiles of all components one deviate
apart, row by row on a few rows, and by how much the two differ.

Writes ``benchmarks/results/family_queries.csv``.
"""

import numpy as np
import torch
from common import save, timed

from skmdn.distribution import PredictiveDistribution
from skmdn.families import make_family
from skmdn.mixture import Block, Mixture
from skmdn.numerics.basic import nodes_between

N_ROWS, N_MEMBERS, N_COMPONENTS, N_REPEATS = 64, 12, 5, 3
FAMILIES = ("student_t", "laplace", "logistic", "gumbel", "lognormal", "gamma")
FAMILIES += ("weibull", "exponential", "beta", "poisson", "negative_binomial")
DISCRETE = ("poisson", "negative_binomial")


def ensemble(name):
    """Return the merged mixtures of some rows."""
    family, generator = make_family(name), torch.Generator().manual_seed(0)

    def scattered(*shape):
        kinds = ((1, N_ROWS, *shape), (N_MEMBERS, N_ROWS, *shape))
        common, own = (
            torch.randn(kind, dtype=torch.float64, generator=generator)
            for kind in kinds
        )
        return common + 0.1 * own

    shapes = family.raw_shapes(N_COMPONENTS, 1)
    raw = {name: scattered(*shape) for name, shape in shapes.items()}
    block = Block(family, family.from_raw(raw, 0.01), N_COMPONENTS)
    return Mixture.from_logits(scattered(N_COMPONENTS), [block]).merge()


def plain_crps(mixture, y):
    """Integrate the squared distribution function between all quantiles."""
    z = torch.linspace(-8.0, 8.0, 17, dtype=y.dtype)
    levels = torch.special.ndtr(z).clamp(max=1.0 - 2.0**-53).view(-1, 1, 1)
    rows = mixture.unsqueeze()
    edges = rows.per_point(lambda block: block.family.ppf(block.params, levels))
    edges = torch.cat([edges.flatten(-3, -2), y.unsqueeze(-2)], -2)
    edges = edges.mT.sort(-1).values
    panels = nodes_between(edges[..., :-1], edges[..., 1:], 12)
    points, weights = (part.flatten(-2).mT for part in panels)
    below = points < y.unsqueeze(-2)
    height = torch.where(below, rows.cdf(points), rows.sf(points))
    return (weights * height.square()).sum(-2)


def figures(name):
    """Time the queries of a family, in milliseconds per row."""
    mixture = ensemble(name)
    y = mixture.ppf(torch.tensor([0.4], dtype=torch.float64)).squeeze(-2)
    dist = PredictiveDistribution(mixture, univariate=True)
    calls = {
        "crps": lambda: dist.crps(y.squeeze(-1).numpy()),
        "entropy": dist.entropy,
        "mode": dist.mode,
    }
    times = {
        query: 1e3 * np.median([timed(call) for _ in range(N_REPEATS)]) / N_ROWS
        for query, call in calls.items()
    }
    if name in DISCRETE:
        return [name, *(f"{t:.3g}" for t in times.values()), "", ""]
    rows = [slice(i, i + 1) for i in range(N_REPEATS)]
    answers = []
    plain = timed(lambda: answers.extend(plain_crps(mixture[r], y[r]) for r in rows))
    exact = torch.cat(answers)[:, 0].numpy()
    differ = np.abs(exact / dist.crps(y[:, 0].numpy())[:N_REPEATS] - 1.0).max()
    texts = [f"{t:.3g}" for t in (*times.values(), 1e3 * plain / N_REPEATS)]
    return [name, *texts, f"{differ:.1e}"]


def main():
    """Time, print and save."""
    header = ["family", "crps_ms", "entropy_ms", "mode_ms", "plain_crps_ms", "differ"]
    results = [figures(name) for name in FAMILIES]
    for row in [header, *results]:
        print("".join(f"{text:>19}" for text in row))
    save("family_queries", header, results)


if __name__ == "__main__":
    main()
