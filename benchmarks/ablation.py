"""What does each part of MixtureDensityRegressor's defaults cost and bring?

    OMP_NUM_THREADS=1 python benchmarks/ablation.py --data FOLDER
    OMP_NUM_THREADS=1 python benchmarks/ablation.py --data FOLDER --sets kin8nm power
        --repeats 1 --out NAME

FOLDER holds the sets of the UCI regression benchmark as ``uci.py`` describes them;
without it there is scikit-learn's diabetes only.

Only training rows are read: those of split 7, divided again at random into 90 % to fit
and 10 % to score, ``--repeats`` times, the same for every variant. A variant differs
from the defaults in what its name says: a parameter, or a step of the training that has
no parameter and is taken out by changing constants of the library while it runs.

Prints, for each set, mean held-out negative log-likelihood (nats, original units; of
the cell around each target if these are rounded), its difference from the defaults
with the standard error over the repeats, CRPS, coverage of the 90 % interval and
processor seconds of a fit. Writes every repeat to ``benchmarks/results/NAME.csv``
after each variant, so that a run can be cut off.
"""

import argparse
import math
from contextlib import ExitStack
from typing import NamedTuple
from unittest import mock

import numpy as np
import uci_sets
from common import save, timed
from scores import NormalMixture, lattice_spacing, score
from sklearn.model_selection import ShuffleSplit

import skmdn
from skmdn.conditional import fit as conditional
from skmdn.learning import ensemble, objectives, penalty, stacking

SPLIT = 7
COLUMNS = ["set", "variant", "repeat", "nll", "crps", "coverage_90", "fit_s"]

# Steps of the training without a parameter: module, constant, value without the step.
NO_WIDTH = (stacking, "_SPREADS", (0.0, 0.0, 1))
NO_MARGIN = (stacking, "_MARGIN", 0.0)
NO_TAILS = (stacking, "_PSEUDO_LEVEL", (1e12, 0.0))
FREE_WIDTH = (ensemble, "_PSEUDO_BEFORE", 0.0)
NO_RACE = (ensemble, "_FEWEST_STEPS", math.inf)
NO_FINISH = (ensemble, "_FEWEST_KEPT", math.inf)
NO_MEMORY = (ensemble, "_FEWEST_OF_A_KIND", math.inf)
MORE_STEPS = (conditional, "_STEPS", (1_500, 6_000))
STRONG_PRIOR = (penalty, "_AUTO_EACH", math.inf)
NO_CALIBRATION = (objectives, "_SPREAD_STEPS", (0.0,))


class Variant(NamedTuple):
    """Parameters of the estimator and constants of the library that are changed."""

    params: dict
    constants: tuple = ()


TWO = ("none", "ple+cos")

VARIANTS = {
    "default": Variant({}),
    "embedding=none": Variant({"embedding": "none"}),
    "embedding=ple": Variant({"embedding": "ple"}),
    "embedding=ple+cos": Variant({"embedding": "ple+cos"}),
    "no race": Variant({}, (NO_RACE,)),
    "no common width": Variant({}, (NO_WIDTH, NO_MARGIN)),
    "no tails": Variant({}, (NO_TAILS,)),
    "no rows for the width before the finish": Variant({}, (FREE_WIDTH,)),
    "no finish": Variant({}, (NO_FINISH,)),
    "no networks for rows seen before": Variant({}, (NO_MEMORY,)),
    "no calibrated early stopping": Variant({}, (NO_CALIBRATION,)),
    "none of the last three": Variant(
        {}, (NO_WIDTH, NO_MARGIN, NO_FINISH, NO_CALIBRATION)
    ),
    "a prior of 0.2 on the scales of every table": Variant({}, (STRONG_PRIOR,)),
    "1500 steps at least": Variant({}, (MORE_STEPS,)),
    "n_components=1": Variant({"n_components": 1}),
    "n_components=10": Variant({"n_components": 10}),
    "n_estimators=1": Variant({"n_estimators": 1}),
    "n_estimators=2": Variant({"n_estimators": 2}),
    "n_estimators=8": Variant({"n_estimators": 8}),
    "n_estimators=3": Variant({"n_estimators": 3}),
    "two views of 5, hidden=(48,)": Variant(
        {"embedding": TWO, "n_estimators": 5, "hidden_layer_sizes": (48,)}
    ),
    "two views of 4, hidden=(48, 48, 48)": Variant(
        {"embedding": TWO, "hidden_layer_sizes": (48, 48, 48)}
    ),
    "weight_decay=0.01": Variant({"weight_decay": 0.01}),
    "weight_decay=0.1": Variant({"weight_decay": 0.1}),
    "hidden=(48, 48, 48)": Variant({"hidden_layer_sizes": (48, 48, 48)}),
    "hidden=(64, 64, 64)": Variant({"hidden_layer_sizes": (64, 64, 64)}),
    "hidden=(96, 96)": Variant({"hidden_layer_sizes": (96, 96)}),
    "hidden=(128,)": Variant({"hidden_layer_sizes": (128,)}),
    "hidden=(64, 64)": Variant({"hidden_layer_sizes": (64, 64)}),
    "hidden=(128, 128)": Variant({"hidden_layer_sizes": (128, 128)}),
    "learning_rate_init=0.005": Variant({"learning_rate_init": 0.005}),
    "learning_rate_init=0.02": Variant({"learning_rate_init": 0.02}),
    "early_stopping=False": Variant({"early_stopping": False}),
}


def training_rows(name, folder):
    """Return features and targets of a set, without the test rows of the split."""
    table = uci_sets.load(name, folder)
    rows = ~table.test_masks[SPLIT]
    return table.X[rows], table.y[rows]


def measure(X, y, variant, n_repeats):
    """Return NLL, CRPS, coverage and seconds of every nested split."""
    spacing = lattice_spacing(y)
    nll = "nll" if spacing is None else "nll_cell"
    results = []
    splits = ShuffleSplit(n_repeats, test_size=0.1, random_state=0).split(X)
    for seed, (fit, held_out) in enumerate(splits):
        model = skmdn.MixtureDensityRegressor(random_state=seed, **variant.params)
        with ExitStack() as stack:
            for constant in variant.constants:
                stack.enter_context(mock.patch.object(*constant))
            seconds = timed(lambda m=model, rows=fit: m.fit(X[rows], y[rows]))
        dist = model.predict_distribution(X[held_out])
        mixture = NormalMixture(dist.weights, dist.means, dist.stds)
        scores = score(mixture, y[held_out], spacing)
        results.append([scores[nll], scores["crps"], scores["coverage_90"], seconds])
    return np.array(results)


def report(variant, results, default):
    """Print a line of means, and how sure the difference from the defaults is."""
    nll, crps, coverage, seconds = results.mean(axis=0)
    difference = results[:, 0] - default[:, 0]
    error = math.nan
    if len(difference) > 1:
        error = difference.std(ddof=1) / math.sqrt(len(difference))
    print(
        f"{variant:33} {nll:7.3f} {difference.mean():+7.3f} +- {error:5.3f} "
        f"{crps:8.4f} {coverage:5.2f} {seconds:7.1f}",
        flush=True,
    )


def main():
    """Score every variant on every set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder of the UCI files")
    parser.add_argument("--sets", nargs="+", help="names; by default all in FOLDER")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", default="ablation", help="name of the results")
    options = parser.parse_args()
    known = uci_sets.names(options.data) if options.data else ["diabetes"]
    chosen = ["default", *(name for name in options.variants if name != "default")]
    rows = []
    for name in options.sets or known:
        X, y = training_rows(name, options.data)
        print(
            f"{name}: {len(X)} rows\n{'':33}     NLL   minus default      CRPS", end=""
        )
        print(" cover seconds")
        default = None
        for variant in chosen:
            results = measure(X, y, VARIANTS[variant], options.repeats)
            default = results if default is None else default
            report(variant, results, default)
            for repeat, values in enumerate(results):
                numbers = (f"{value:.4f}" for value in values)
                rows.append([name, variant, repeat, *numbers])
            save(options.out, COLUMNS, rows)


if __name__ == "__main__":
    main()
