"""VariationalPosterior beside sbi's VIPosterior on exact posteriors of sbibm.

    OMP_NUM_THREADS=1 python benchmarks/variational_sbi.py FOLDER --environment SBI

FOLDER has the three tasks (see ``sbi_tasks.py``). SBI is an environment made from
``requirements/sbi.txt`` (``uci.py --make-environments`` does it). Both fit the same
potentials and the same observations with their defaults and the seed 0, in one thread;
sbi once for each of three families and four objectives. The columns:

- c2st: the accuracy of sbibm's classifier (``skmdn.diagnostics.c2st``) on 2000 draws
  and 2000 of the published ones, the mean over ``--seeds`` seeds of the classifier;
  forest, the same of a random forest.
- seconds of the processor and evaluations of the potential in the fit; for skmdn they
  include its report.
- error: what went wrong, or that the limit of processor seconds was reached; then the
  fit is judged as it was when it was stopped.

A fit of sbi by rKL under the cut of two_moons had not ended after a minute: there the
log density has no gradient. All objectives run on ``two_moons_soft``, which has a slope
instead; fKL, which needs no gradient, on both.

Results are added to ``--out`` line by line; what it already holds is not run again.
"""

import argparse
import csv
import json
import os
import subprocess
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from common import VERSIONS
from sbi_tasks import TASKS, load
from scipy import stats

from skmdn import VariationalPosterior
from skmdn.diagnostics import c2st

HERE = Path(__file__).parent
HEADER = ["task", "observation", "model", "c2st", "forest", "seconds", "n_evals"]
HEADER += ["error", "versions"]
FAMILIES = ("gaussian", "maf", "nsf")
METHODS = ("rKL", "fKL", "IW", "alpha")
N_DRAWS = 2000


class Sbi:
    """The process of sbi."""

    def __init__(self, environment, folder, limit):
        python = environment / "bin" / "python"
        self.process = subprocess.Popen(
            [python, HERE / "sbi_worker.py", folder, str(limit)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def fit(self, task, i, model):
        """Return draws and the worker's answer."""
        _, family, method = model.split("-")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "draws.npy"
            print(task, i, family, method, file, file=self.process.stdin, flush=True)
            answer = json.loads(self.process.stdout.readline())
            return (np.load(file) if file.exists() else None), answer


def fit_skmdn(folder, task, i):
    """Return draws and what the fit costs."""
    potential, (kind, scale, n_features) = TASKS[task]
    law = (-scale, scale) if kind == "box" else stats.norm(0.0, scale)
    estimator = VariationalPosterior(potential, [law] * n_features, random_state=0)
    start = time.process_time()
    with warnings.catch_warnings(record=True):
        estimator.fit(load(folder, task, i)[0])
    seconds, n_evals = time.process_time() - start, estimator.n_potential_evals_
    answer = {"seconds": seconds, "n_evals": n_evals, "versions": VERSIONS}
    return estimator.sample(N_DRAWS), answer


def scores(draws, reference, seeds):
    """Return the accuracies of both classifiers."""
    if draws is None or not np.isfinite(draws).all():
        return ["", ""]
    reference = reference[np.random.RandomState(7).permutation(len(reference))]
    reference = reference[:N_DRAWS]
    network = [c2st(draws, reference, random_state=seed) for seed in range(seeds)]
    forest = c2st(draws, reference, classifier="forest")
    return [f"{np.mean(network):.4f}", f"{forest:.4f}"]


def left_out(task, model):
    """Tell whether a fit is not wanted."""
    if model == "skmdn":
        return task == "two_moons_soft"
    return task == "two_moons" and not model.endswith("fKL")


def known(out):
    """Return which fits a file holds."""
    if not out.exists():
        return set()
    with open(out, newline="") as file:
        rows = csv.DictReader(file)
        return {(row["task"], row["observation"], row["model"]) for row in rows}


def main():
    """Run what is not known yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--environment", type=Path, help="without it skmdn only")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds of a fit")
    parser.add_argument("--seeds", type=int, default=3, help="of the classifier")
    parser.add_argument(
        "--out", type=Path, default=HERE / "results" / "variational_sbi.csv"
    )
    args = parser.parse_args()
    models = ["skmdn"]
    if args.environment:
        sbi = Sbi(args.environment, args.folder, args.limit)
        models += [f"sbi-{q}-{method}" for q in FAMILIES for method in METHODS]
    done = known(args.out)
    with open(args.out, "a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if not done:
            writer.writerow(HEADER)
        for i in (1, 2, 3):
            for task in TASKS:
                _, reference = load(args.folder, task, i)
                for model in models:
                    if (task, str(i), model) in done or left_out(task, model):
                        continue
                    if model == "skmdn":
                        draws, answer = fit_skmdn(args.folder, task, i)
                    else:
                        draws, answer = sbi.fit(task, i, model)
                    row = [task, i, model, *scores(draws, reference, args.seeds)]
                    row += [f"{answer.get('seconds', np.nan):.2f}"]
                    row += [answer.get(key, "") for key in HEADER[-3:]]
                    writer.writerow(row)
                    file.flush()
                    print(*row[:-1], sep="  ", flush=True)


if __name__ == "__main__":
    main()
