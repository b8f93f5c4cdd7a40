"""The process in which one model meets one set; ``uci.py`` starts it.

    python uci_worker.py MODEL FILE [--mass]

It reads split numbers from the standard input, one per line, and answers each with a
line of JSON: scores, processor seconds and memory, or what went wrong. ``FILE`` holds
``X``, ``y``, ``test_masks`` and ``spacing`` (0 where y is not rounded). Processor
seconds include those of children and threads. Memory is the largest resident size of
the process so far, in MB: once before the data are read (``base_mb``), and after each
fit and prediction, before their scores (``peak_mb``). With ``--mass`` an answer also
has ``mass_error``, the largest distance from 1 of the integral of a row's density.
"""

import json
import os
import platform
import resource
import sys
import time
import traceback
from importlib import metadata
from pathlib import Path

import numpy as np
from peers import MODELS
from scipy.integrate import trapezoid
from scores import NormalMixture, log_density, score


def cpu_seconds():
    """Return the processor seconds of this process and its finished children."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def peak_mb():
    """Return the largest resident size so far, in MB."""
    status = Path("/proc/self/status")
    if status.exists():
        # What getrusage says starts, on Linux, at the size of the driver.
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def versions(package):
    """Return what ran, in a line."""
    found = []
    for name in dict.fromkeys([package, "torch", "scikit-learn", "numpy", "scipy"]):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            # This project is used from its folder, without being installed.
            if name == "skmdn":
                found.append(f"{name} {sys.modules['skmdn'].__version__}")
    return ", ".join([*found, f"python {platform.python_version()}"])


def warm_up(model):
    """Fit something small, so that imports and first calls are not timed."""
    rng = np.random.RandomState(0)
    X = rng.normal(size=(100, 3))
    model.fit(X, X[:, 0] + rng.normal(size=100), 0)(X)


def mass_error(prediction):
    """Return how far the integral of any row's density is from 1."""
    if not isinstance(prediction, NormalMixture):
        return None
    worst = 0.0
    offsets = np.linspace(-9, 9, 721)
    for row in range(min(50, len(prediction.means))):
        mixture = NormalMixture(*(np.asarray(a[row], float)[None] for a in prediction))
        grid = mixture.means[0, :, None] + mixture.stds[0, :, None] * offsets
        grid = np.unique(grid)
        rows = NormalMixture(*(np.repeat(a, len(grid), axis=0) for a in mixture))
        mass = trapezoid(np.exp(log_density(rows, grid)), grid)
        worst = max(worst, abs(mass - 1))
    return worst


def run(model, X, y, test, spacing, seed, with_mass=False):
    """Return what one split gives."""
    start = cpu_seconds()
    predict = model.fit(X[~test], y[~test], seed)
    fitted = cpu_seconds()
    prediction = predict(X[test])
    predicted = cpu_seconds()
    return {
        "peak_mb": peak_mb(),
        "fit_s": fitted - start,
        "predict_s": predicted - fitted,
        **score(prediction, y[test], spacing),
        **({"mass_error": mass_error(prediction)} if with_mass else {}),
    }


def main(name, file, *options):
    """Answer until the input ends."""
    # Peers print; the answers need a channel of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    model = MODELS[name]
    warm_up(model)
    about = {"base_mb": peak_mb(), "versions": versions(model.environment)}
    data = np.load(file)
    X, y, masks = data["X"], data["y"], data["test_masks"]
    spacing, with_mass = float(data["spacing"]) or None, "--mass" in options
    for line in sys.stdin:
        split = int(line)
        try:
            answer = run(model, X, y, masks[split], spacing, split, with_mass)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"[:200]}
        print(json.dumps(about | answer), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
