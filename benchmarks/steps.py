"""What does a training step cost beyond its matrix products?

    OMP_NUM_THREADS=1 python benchmarks/steps.py

For each shape (batch, features, hidden layers x width, components) and number of
members, three things take turns in one process, in float32 on one core: a step of the
library's training loop (gather, forward, gradient by hand, clipping, AdamW; the loss on
every eighth step), the bare matrix products of that step (eight batched or looped
products into memory that is taken once, whichever is faster), and the same model as
plain torch modules with ``MixtureSameFamily``, autograd and ``torch.optim.Adam``, one
after the other for each member. Prints and writes medians in microseconds and their
ratios to ``benchmarks/results/steps.csv``.
"""

import itertools
import statistics
import time
from functools import partial

import torch
from common import save
from torch import nn
from torch.distributions import Categorical, MixtureSameFamily, Normal

from skmdn.composition import Composition
from skmdn.learning.closed_form import ClosedFormGradient
from skmdn.learning.embeddings import FeatureEmbedding
from skmdn.learning.networks import MLP, MixtureHead, MixtureNetwork
from skmdn.learning.objectives import MixtureObjective
from skmdn.learning.penalty import MixturePrior
from skmdn.learning.steps import Differentiator, FlatParameters, Optimizer, Settings
from skmdn.priors import InverseGamma

SHAPES = [
    (128, 8, (64, 64), 5),
    (256, 8, (128, 128), 5),
    (1024, 8, (128, 128), 10),
    (4096, 16, (256, 256), 10),
]
MEMBERS = (1, 8)
N_ROWS = 16384
REPEATS = 9


def library_step(n_members, batch, n_features, hidden, n_components):
    """Return a function that takes one step of the training loop."""
    source = torch.Generator().manual_seed(0)
    block = FeatureEmbedding(n_members, n_features, generator=source)
    trunk = MLP(n_members, block.n_out, hidden, "silu", generator=source)
    composition = Composition.make("normal", n_components)
    head = MixtureHead(
        n_members, trunk.n_out, 1, composition, min_scale=1e-3, generator=source
    )
    network = MixtureNetwork(block, trunk, head).float()
    objective = MixtureObjective(
        network,
        torch.randn(N_ROWS, n_features, generator=source),
        torch.randn(N_ROWS, 1, generator=source),
        torch.ones(N_ROWS),
        prior=MixturePrior(scales=InverseGamma(1.0, 0.2)),
        n_rows=N_ROWS,
        log_scale=0.0,
        x_noise=0.0,
        y_noise=0.0,
        generator=source,
    )
    flat = FlatParameters(network.named_parameters())
    settings = Settings(1, batch, 1e-4, weight_decay=0.01)
    optimizer = Optimizer(flat, settings, 10**6, None)
    differentiate = Differentiator(
        flat, objective.training_loss, partial(ClosedFormGradient, objective)
    )
    order = torch.rand((n_members, N_ROWS), generator=source).argsort(1)
    slices = list(order.split(batch, 1))
    count = 0

    def step():
        nonlocal count
        differentiate(slices[count % len(slices)], count % 8 == 0)
        optimizer.step()
        count += 1

    step()
    if differentiate.by_hand is None:
        raise RuntimeError("The gradient by hand does not agree with autograd.")
    return torch.inference_mode()(step)


def bare_products(n_members, batch, n_features, hidden, n_components):
    """Return the products of a step: batched, and looped over members."""
    n_raw = 3 * n_components
    first, second = hidden

    def new(*shape):
        return torch.randn((n_members, *shape))

    x, h1, h2 = new(batch, n_features), new(batch, first), new(batch, second)
    w1, w2, w3 = new(n_features, first), new(first, second), new(n_raw, second)
    g, d1, d2 = new(n_raw, batch), new(batch, first), new(batch, second)
    out = new(n_raw, batch)
    triples = [
        (x, w1, h1),
        (h1, w2, h2),
        (w3, h2.mT, out),
        (g, h2, torch.empty_like(w3)),
        (g.mT, w3, d2),
        (h1.mT, d2, torch.empty_like(w2)),
        (d2, w2.mT, d1),
        (x.mT, d1, torch.empty_like(w1)),
    ]
    each = [[(a[m], b[m], c[m]) for a, b, c in triples] for m in range(n_members)]

    def batched():
        for a, b, c in triples:
            torch.bmm(a, b, out=c)

    def looped():
        for member in each:
            for a, b, c in member:
                torch.mm(a, b, out=c)

    return batched, looped


class PlainNetwork(nn.Module):
    """The model as one would write it."""

    def __init__(self, n_features, hidden, n_components):
        super().__init__()
        sizes = [n_features, *hidden]
        layers = []
        for n_in, n_out in itertools.pairwise(sizes):
            layers += [nn.Linear(n_in, n_out), nn.SiLU()]
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Linear(sizes[-1], 3 * n_components)

    def forward(self, x):
        """Return one mixture per row."""
        logits, means, raw = self.head(self.trunk(x)).chunk(3, -1)
        scales = 1e-3 + nn.functional.softplus(raw)
        return MixtureSameFamily(Categorical(logits=logits), Normal(means, scales))


def plain_step(n_members, batch, n_features, hidden, n_components):
    """Return a step of separate modules, autograd and Adam."""
    models = [PlainNetwork(n_features, hidden, n_components) for _ in range(n_members)]
    optimizers = [torch.optim.Adam(model.parameters(), 1e-4) for model in models]
    x, y = torch.randn(N_ROWS, n_features), torch.randn(N_ROWS)

    def step():
        for model, optimizer in zip(models, optimizers, strict=True):
            rows = torch.randint(N_ROWS, (batch,))
            optimizer.zero_grad()
            loss = -model(x[rows]).log_prob(y[rows]).mean()
            loss.backward()
            optimizer.step()

    return step


def medians(functions, n_calls):
    """Return microseconds per call, the functions taking turns."""
    times = [[] for _ in functions]
    for _ in range(REPEATS):
        for function, record in zip(functions, times, strict=True):
            start = time.perf_counter()
            for _ in range(n_calls):
                function()
            record.append((time.perf_counter() - start) / n_calls * 1e6)
    return [statistics.median(record) for record in times]


def main():
    """Time every shape."""
    rows = []
    for shape in SHAPES:
        for n_members in MEMBERS:
            arguments = (n_members, *shape)
            functions = [
                library_step(*arguments),
                *bare_products(*arguments),
                plain_step(*arguments),
            ]
            batch, _, hidden, _ = shape
            work = n_members * batch * hidden[0]
            n_calls = max(2, 2_000_000 // (work + 10_000))
            step, batched, looped, plain = medians(functions, n_calls)
            bare = min(batched, looped)
            print(
                f"{shape!s:28} members {n_members}  step {step:8.0f} us  "
                f"bare {bare:8.0f} us  step/bare {step / bare:5.2f}  "
                f"plain/step {plain / step:5.2f}",
                flush=True,
            )
            figures = (step, bare, plain, step / bare, plain / step)
            rows.append([*shape, n_members, *(f"{value:.2f}" for value in figures)])
    header = ["batch", "features", "hidden", "components", "members"]
    header += ["step_us", "bare_us", "plain_us", "step_over_bare", "plain_over_step"]
    save("steps", header, rows)


if __name__ == "__main__":
    main()
