"""How do time and memory of a fit grow with the rows, and can a fit stream?

Run with one thread; the files of rows are made in the folder for temporary files and
take several GB there:

    OMP_NUM_THREADS=1 python benchmarks/scaling.py

Every fit has a process of its own.

- Seconds of a pass and the peak of memory for 1e4 to 1e6 rows of 20 features, with
  ``embedding="none"`` and "auto": processor time from the end of the first pass to the
  end of the last, over their number, summed over the views; the peak is above the
  process after a first small fit, without and with the data (X of doubles, and y). Four
  passes, one network per view with 32 hidden units, all else as it stands.
- The same for a file of rows, ``numpy.memmap``.
- A file four times as large as what the process may have: fitted as a whole, where the
  limit is on private memory (RLIMIT_DATA: a file that is only read does not count), and
  by windows of ``partial_fit``, where it is on all addresses (RLIMIT_AS).
"""

import contextlib
import io
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import save

from skmdn import MixtureDensityRegressor

N_FEATURES, N_WIDE = 20, 500
N_PASSES = 4
SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
# What a limited process may have beyond what it has after a first small fit, in MiB.
SPARE = 400
MIB = 2**20


class Clock(io.StringIO):
    """Note the processor time of each line that a fit prints."""

    def __init__(self):
        super().__init__()
        self.epochs = []

    def write(self, text):
        """Note the time instead of the line."""
        self.epochs.append(time.process_time())
        return len(text)

    def seconds(self):
        """Return the seconds of an epoch after the first, summed over the views."""
        starts, ends = self.epochs[::N_PASSES], self.epochs[N_PASSES - 1 :: N_PASSES]
        return (sum(ends) - sum(starts)) / (N_PASSES - 1)


def process(name):
    """Return what the system says about this process, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(name + ":"))
    return int(line.split()[1]) / 1024


def fill(X, seed=0):
    """Fill an array with normal numbers, some rows at a time; return targets."""
    rng = np.random.default_rng(seed)
    y = np.empty(len(X))
    for start in range(0, len(X), 10_000):
        part = rng.standard_normal((min(10_000, len(X) - start), X.shape[1]), "f4")
        X[start : start + 10_000] = part
        noise = part[:, 1] * rng.standard_normal(len(part))
        y[start : start + 10_000] = np.sin(part[:, 0]) + noise
    return y


def write(path, n_rows, n_features):
    """Write a file of rows and return their targets."""
    with open(path, "wb") as file:
        file.truncate(n_rows * n_features * 8)
    window, targets = 100_000, []
    for start in range(0, n_rows, window):
        size = min(window, n_rows - start)
        # One window is mapped at a time, so that it can be let go.
        X = np.memmap(path, "f8", "r+", start * n_features * 8, (size, n_features))
        targets.append(fill(X, start))
    return np.concatenate(targets)


def warm_up():
    """Fit once, so that what torch takes for itself is not counted."""
    rng = np.random.RandomState(0)
    MixtureDensityRegressor(max_iter=1).fit(rng.normal(size=(60, 2)), rng.rand(60))


def growth(n_rows, embedding, kind, folder):
    """Print the seconds of a pass, those of the fit and the growth of memory."""
    n_rows, path = int(n_rows), Path(folder) / "rows"
    warm_up()
    if kind == "array":
        before = process("VmRSS")
        X = np.empty((n_rows, N_FEATURES))
        y = fill(X)
        data = (X.nbytes + y.nbytes) / MIB
    else:
        y = write(path, n_rows, N_FEATURES)
        before = process("VmRSS") - y.nbytes / MIB
        X = np.memmap(path, "f8", "r", shape=(n_rows, N_FEATURES))
        data = y.nbytes / MIB
    model = MixtureDensityRegressor(
        hidden_layer_sizes=(32,),
        n_estimators=1,
        embedding=embedding,
        max_iter=N_PASSES,
        verbose=2,
        random_state=0,
    )
    # The peak is counted from here.
    Path("/proc/self/clear_refs").write_text("5")
    start, clock = time.process_time(), Clock()
    with contextlib.redirect_stdout(clock):
        model.fit(X, y)
    total = time.process_time() - start
    peak = process("VmHWM") - before
    print(clock.seconds(), total, peak, data)


def limited(way, folder):
    """Print how a fit does whose process is limited to a quarter of the file."""
    warm_up()
    kind, name = {
        "fit": (resource.RLIMIT_DATA, "VmData"),
        "partial_fit": (resource.RLIMIT_AS, "VmSize"),
    }[way]
    limit = int((process(name) + SPARE) * MIB)
    n_rows, path = 4 * limit // (8 * N_WIDE) + 1, Path(folder) / "rows"
    y = write(path, n_rows, N_WIDE)
    resource.setrlimit(kind, (limit, limit))
    refused = ""
    try:
        np.ones((n_rows, N_WIDE))
    except MemoryError:
        refused = "refused"
    model = MixtureDensityRegressor(
        hidden_layer_sizes=(16,),
        n_estimators=1,
        embedding="none",
        batch_size=1024,
        max_iter=1,
        random_state=0,
    )
    start = time.process_time()
    if way == "fit":
        model.fit(np.memmap(path, "f8", "r", shape=(n_rows, N_WIDE)), y)
    else:
        for first in range(0, n_rows, 20_000):
            shape = (min(20_000, n_rows - first), N_WIDE)
            X = np.memmap(path, "f8", "r", first * 8 * N_WIDE, shape)
            model.partial_fit(X, y[first : first + 20_000])
    seconds = time.process_time() - start
    size = os.path.getsize(path) / MIB
    print(n_rows, size, limit / MIB, seconds, refused, model.loss_curve_[-1])


def alone(*arguments):
    """Run a part of this script in a process of its own and return its words."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, *map(str, arguments), folder]
        result = subprocess.run(command, check=True, capture_output=True, text=True)
    return result.stdout.split()


def main():
    """Measure, print and save."""
    results = []
    for way in ("fit", "partial_fit"):
        n_rows, size, limit, seconds, refused, loss = alone("limited", way)
        name = f"{way} of a file under a limit"
        print(
            f"{name}: {n_rows} rows x {N_WIDE}, file {float(size):.0f} MiB, limit "
            f"{float(limit):.0f}, a copy is {refused}, {float(seconds):.0f} s, loss "
            f"{float(loss):.3f}"
        )
        results += [(name, n_rows, N_WIDE, "", f"{float(seconds):.1f}", "")]
        results[-1] += (f"{float(size):.0f}", f"{float(limit):.0f}")
    runs = [(n, e, "array") for e in ("none", "auto") for n in SIZES]
    for n_rows, embedding, kind in [*runs, (SIZES[-1], "none", "file")]:
        words = alone("growth", n_rows, embedding, kind)
        a_pass, total, peak, data = map(float, words)
        print(
            f"{kind:5} {embedding:4} {n_rows:8} rows: {a_pass:7.2f} s a pass, "
            f"{1e6 * a_pass / n_rows:6.1f} us a row, fit {total:7.1f} s, "
            f"peak {peak:5.0f} MiB, {peak - data:5.0f} beyond the data"
        )
        row = (f"{kind}, {embedding}", n_rows, N_FEATURES)
        row += (f"{a_pass:.3f}", f"{total:.2f}", f"{peak:.0f}", f"{data:.0f}", "")
        results.append(row)
    header = ["run", "rows", "features", "seconds of a pass"]
    header += ["seconds of the fit", "peak, MiB", "data, MiB", "limit, MiB"]
    save("scaling", header, results)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        {"growth": growth, "limited": limited}[sys.argv[1]](*sys.argv[2:])
