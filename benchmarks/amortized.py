"""Amortized posteriors beside those of sbi and BayesFlow: quality and cost.

    python benchmarks/amortized.py FOLDER --environments ENVIRONMENTS [options]

``FOLDER`` has the tasks two_moons, gaussian_mixture and gaussian_linear of sbibm (files
``NAME.npz`` with ``x_i`` and ``reference_i``; from the published repository
sbi-benchmark/sbibm). ``ENVIRONMENTS`` has a virtual environment for every peer, ``sbi``
and ``bayesflow``, made from the list of the same name in ``requirements``; without it
only skmdn runs. Every fit is a process of its own with one thread. ``--models`` can
also name skmdn with flows, ``skmdn-nsf`` and ``skmdn-maf``.

``results/amortized.csv`` has a line for each task, number of simulations and model:

- the mean C2ST of the observations 1 to 3: the accuracy of a network with two layers of
  10 d units, on draws standardised by the reference, in five folds. 0.5 is
  indistinguishable, and the number rises with that of the draws (``--draws``);
- the mean log posterior of 5000 fresh parameters, in their own units. Densities of sbi
  are not corrected for mass outside of a box; its draws are;
- processor seconds of fitting and, with ``--sampling``, of 1000 draws for each of 1000
  observations.

slcp and gaussian_linear_uniform, which have no published file there, get no C2ST.

Results are added to ``--out`` line by line; what it already holds is not run again.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import KFold, cross_val_score
from sklearn.neural_network import MLPClassifier

from skmdn.datasets import inference_task

BOXES = {"two_moons": 1.0, "gaussian_mixture": 10.0, "slcp": 3.0}
BOXES["gaussian_linear_uniform"] = 1.0
TASKS = ("two_moons", "gaussian_mixture", "gaussian_linear", "slcp")
TASKS = (*TASKS, "gaussian_linear_uniform")
FLOWS = ("skmdn-nsf", "skmdn-maf")
PEERS = ("sbi-mdn", "sbi-maf", "sbi-nsf", "bayesflow-mixture", "bayesflow-default")
HEADER = ("task", "n_simulations", "seed", "model", "c2st", "c2st_each", "n_draws")
HEADER = (*HEADER, "score", "fit_seconds", "sample_seconds", "versions")
N_TEST = 5000
WORKER = Path(__file__).with_name("amortized_worker.py")


def simulations(name, n_simulations, seed, folder, n_draws):
    """Return what a worker needs, and the reference draws."""
    task = inference_task(name)
    data = task.sample(n_simulations, random_state=1000 + seed)
    fresh = task.sample(N_TEST, random_state=77)
    made = {
        "theta": data["theta"],
        "x": data["x"],
        "theta_test": fresh["theta"],
        "x_test": fresh["x"],
        "seed": seed,
        "n_draws": n_draws,
    }
    if name in BOXES:
        end = np.full(task.n_parameters, BOXES[name])
        made |= {"low": -end, "high": end}
    else:
        made["std"] = np.full(task.n_parameters, np.sqrt(0.1))
    path = folder / f"{name}.npz"
    references = []
    made["observed"] = fresh["x"][:1]
    if path.exists():
        published = np.load(path)
        made["observed"] = np.concatenate([published[f"x_{i}"] for i in (1, 2, 3)])
        references = [published[f"reference_{i}"] for i in (1, 2, 3)]
    return made, references


def c2st(draws, reference):
    """Return how well a network tells draws from those of the reference."""
    reference = reference[: len(draws)]
    mean, std = reference.mean(axis=0), reference.std(axis=0)
    rows = np.concatenate([(draws - mean) / std, (reference - mean) / std])
    labels = np.repeat([0, 1], [len(draws), len(reference)])
    width = 10 * rows.shape[1]
    network = MLPClassifier(
        (width, width), activation="relu", solver="adam", max_iter=1000, random_state=1
    )
    folds = KFold(5, shuffle=True, random_state=1)
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        return cross_val_score(network, rows, labels, cv=folds).mean()


def ask(model, made, environments, folder, sampling):
    """Run a worker and return its answer and its draws."""
    python = sys.executable
    own = model.startswith("skmdn")
    if not own:
        python = environments / model.split("-")[0] / "bin" / "python"
    file, result = folder / "data.npz", folder / "result.npz"
    np.savez(file, **made)
    command = [str(python), str(WORKER), model, str(file), str(result)]
    single = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    root = str(WORKER.parent.parent)
    path = {"PYTHONPATH": root} if own else {}
    done = subprocess.run(
        command + ["--sampling"] * sampling,
        env={**os.environ, **single, **path},
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
        return None, None
    return json.loads(done.stdout.splitlines()[-1]), np.load(result)["draws"]


def known(out):
    """Return which fits a file holds."""
    if not out.exists():
        return set()
    with open(out, newline="") as file:
        return {tuple(row[key] for key in HEADER[:4]) for row in csv.DictReader(file)}


def main():
    """Run what is not known yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--environments", type=Path)
    parser.add_argument("--models", nargs="+", choices=("skmdn", *FLOWS, *PEERS))
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--simulations", nargs="+", type=int, default=(1000, 10_000))
    parser.add_argument("--seeds", nargs="+", type=int, default=(0,))
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--sampling", action="store_true")
    results = Path(__file__).parent / "results" / "amortized.csv"
    parser.add_argument("--out", type=Path, default=results)
    given = parser.parse_args()
    models = given.models or ("skmdn", *(PEERS if given.environments else ()))
    done = known(given.out)
    with (
        open(given.out, "a", newline="") as file,
        tempfile.TemporaryDirectory() as folder,
    ):
        writer = csv.writer(file, lineterminator="\n")
        if not done:
            writer.writerow(HEADER)
        for n in given.simulations:
            for seed in given.seeds:
                for name in given.tasks:
                    made, references = simulations(
                        name, n, seed, given.folder, given.draws
                    )
                    for model in models:
                        if (name, str(n), str(seed), model) in done:
                            continue
                        answer, draws = ask(
                            model,
                            made,
                            given.environments,
                            Path(folder),
                            given.sampling,
                        )
                        if answer is None:
                            continue
                        row = line((name, n, seed, model), answer, draws, references)
                        writer.writerow(row)
                        file.flush()
                        print(*row[:-1], sep="  ", flush=True)


def line(labels, answer, draws, references):
    """Return a line of the table."""
    each = [c2st(d, r) for d, r in zip(draws, references, strict=False)]
    return [
        *labels,
        f"{np.mean(each):.3f}" if each else "",
        " ".join(f"{value:.3f}" for value in each),
        draws.shape[1],
        "" if answer["score"] is None else f"{answer['score']:.3f}",
        f"{answer['fit_seconds']:.2f}",
        f"{answer['sample_seconds']:.2f}" if "sample_seconds" in answer else "",
        answer["versions"],
    ]


if __name__ == "__main__":
    main()
