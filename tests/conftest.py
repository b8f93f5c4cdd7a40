"""The guard: no test may leave the process other than it found it."""

import os

# Small networks gain nothing from threads and lose much when cores are shared.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# One of scikit-learn's checks runs only with this.
os.environ.setdefault("SCIPY_ARRAY_API", "1")

import random
import warnings

import matplotlib as mpl
import numpy as np
import pytest
import torch

# torch.testing imports it at its first use, and with it a warning filter.
import torch._dynamo

mpl.use("Agg")


def global_state():
    """Return everything the library promises never to touch."""
    distributions = torch.distributions.Distribution
    return {
        "torch generator": torch.random.get_rng_state().numpy().tobytes(),
        "numpy generator": repr(np.random.get_state(legacy=False)),
        "python generator": random.getstate(),
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "validate_args": distributions._validate_args,
        "errors": np.geterr(),
        "warning filters": list(warnings.filters),
    }


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    """Compare the global state before and after each test."""
    before = global_state()
    result = yield
    after = global_state()
    changed = {name for name in before if before[name] != after[name]}
    if pyfuncitem.get_closest_marker("draws_from_numpy"):
        changed -= {"numpy generator"}
    if pyfuncitem.get_closest_marker("draws_from_torch"):
        changed -= {"torch generator"}
    assert not changed, f"the test changed global state: {', '.join(sorted(changed))}"
    return result
