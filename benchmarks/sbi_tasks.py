"""The exact posteriors of three tasks of sbibm, for every environment: numpy and torch.

``load(folder, task, i)`` returns an observation and its published posterior draws
(``folder/TASK.npz``, keys x_i, reference_i; from the repository sbi-benchmark/sbibm).
"""

import math

import numpy as np
import torch


def normal(theta, mean, std, weight=1.0):
    """Return log (weight N(mean, std^2 I)) of rows."""
    square = (theta - torch.as_tensor(mean, dtype=theta.dtype)).square().sum(1)
    unit = 0.5 * theta.shape[1] * math.log(2.0 * math.pi * std**2)
    return math.log(weight) - 0.5 * square / std**2 - unit


def two_moons(theta, x):
    """Return that of two crescents; it is -inf on half of each circle."""
    x = x.reshape(-1)
    first, second = theta.unbind(1)
    u = x[0] + (first + second).abs() / math.sqrt(2.0) - 0.25
    v = x[1] + (first - second) / math.sqrt(2.0)
    radius = torch.hypot(u, v)
    log_p = -0.5 * ((radius - 0.1) / 0.01).square() - radius.log()
    return torch.where(u > 0, log_p, -torch.inf)


def two_moons_soft(theta, x):
    """Return the same with a steep slope instead of a cut."""
    x = x.reshape(-1)
    u = x[0] + theta.sum(1).abs() / math.sqrt(2.0) - 0.25
    v = x[1] + (theta[:, 0] - theta[:, 1]) / math.sqrt(2.0)
    radius = torch.hypot(u, v)
    log_p = -0.5 * ((radius - 0.1) / 0.01).square() - radius.log()
    return log_p - 0.5 * (u.clamp(max=0.0) / 0.01).square()


def gaussian_mixture(theta, x):
    """Add a wide and a narrow normal at one place."""
    wide, narrow = normal(theta, x.reshape(-1), 1.0), normal(theta, x.reshape(-1), 0.1)
    return torch.logaddexp(wide, narrow) - math.log(2.0)


def gaussian_linear(theta, x):
    """Multiply a normal prior and normal noise, both of variance 0.1."""
    std = math.sqrt(0.1)
    return normal(theta, x.reshape(-1), std) + normal(theta, [0.0] * 10, std)


# The potential, and the prior: the ends of a box, or the scale of a normal law.
TASKS = {
    "two_moons": (two_moons, ("box", 1.0, 2)),
    "two_moons_soft": (two_moons_soft, ("box", 1.0, 2)),
    "gaussian_mixture": (gaussian_mixture, ("box", 10.0, 2)),
    "gaussian_linear": (gaussian_linear, ("normal", math.sqrt(0.1), 10)),
}


def load(folder, task, i):
    """Return an observation, as a row, and the published draws."""
    data = np.load(f"{folder}/{task.removesuffix('_soft')}.npz")
    return data[f"x_{i}"], data[f"reference_{i}"]
