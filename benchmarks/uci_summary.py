"""Means, standard errors and paired differences of what ``uci.py`` wrote.

    python benchmarks/uci_summary.py FILE [FILE ...]
    python benchmarks/uci_summary.py uci.csv uci_cheap.csv --kept

Prints a table per set and writes ``benchmarks/results/uci_summary.csv``: one line per
set, model and score. A difference is that of a model to ``--reference`` on the splits
which both have; its standard error is that of paired differences. Where files share a
result, the last one counts. ``fit_ratio`` compares processor seconds of fits within one
file only, because there the models took turns.

With ``--kept`` it only prints, for the sets of the cheaper setting, which share it
keeps of the mean likelihood (of rounded cells, if y is rounded) by which the reference
beats scikit-mdn, on the splits that all three have, and the ratio of the median times.

Standard errors are those of independent splits. The test sets of 20 splits overlap, so
they say how well this protocol is averaged, not what new data would give.
"""

import argparse
import csv
from collections import Counter
from pathlib import Path

import numpy as np
from scores import SCORES

NUMBERS = (*SCORES, "fit_s", "predict_s", "peak_mb")
HEADER = (
    *("set", "model", "score", "n_splits", "mean", "se", "median"),
    *("difference", "difference_se", "n_failed"),
)
# What is printed: a title, the score, digits, and which of its numbers.
PRINTED = (
    ("NLL", "nll", 3, "mean"),
    ("+-", "nll", 3, "se"),
    ("median", "nll_median", 3, "mean"),
    ("rounded", "nll_cell", 3, "mean"),
    ("CRPS", "crps", 4, "mean"),
    ("RMSE", "rmse", 4, "mean"),
    ("in 50%", "coverage_50", 2, "mean"),
    ("in 90%", "coverage_90", 2, "mean"),
    ("PIT", "pit_distance", 3, "mean"),
    ("fit s", "fit_s", 2, "mean"),
    ("ratio", "fit_ratio", 2, "median"),
    ("MB", "peak_mb", 0, "mean"),
    ("d NLL", "nll", 3, "difference"),
    ("+-", "nll", 3, "difference_se"),
    ("d CRPS", "crps", 4, "difference"),
    ("+-", "crps", 4, "difference_se"),
)


def read(files):
    """Return the rows of some results, with the file they come from."""
    rows = []
    for name in files:
        with open(name, newline="") as file:
            rows += [row | {"file": name} for row in csv.DictReader(file)]
    return rows


def numbers(rows):
    """Return {(set, model, score): {split: number}} of what is there."""
    table = {}
    for row in rows:
        for score in NUMBERS:
            if row[score]:
                key = (row["set"], row["model"], score)
                table.setdefault(key, {})[row["split"]] = float(row[score])
    return table


def latest(rows):
    """Return the last row of every set, model and split."""
    return {(row["set"], row["model"], row["split"]): row for row in rows}.values()


def fit_ratios(rows, reference):
    """Return {(set, model, "fit_ratio"): {(file, split): number}}."""
    fits = {
        (row["file"], row["set"], row["split"]): float(row["fit_s"])
        for row in rows
        if row["model"] == reference and row["fit_s"]
    }
    table = {}
    for row in rows:
        own = fits.get((row["file"], row["set"], row["split"]))
        if own and row["fit_s"]:
            key = (row["set"], row["model"], "fit_ratio")
            ratios = table.setdefault(key, {})
            ratios[row["file"], row["split"]] = float(row["fit_s"]) / own
    return table


def mean_and_error(values):
    """Return a mean and its standard error; None for what one number cannot give."""
    if len(values) == 0:
        return None, None
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else None
    return np.mean(values), error


def summarise(rows, reference="skmdn"):
    """Return a dict per set, model and score, with the keys of ``HEADER``."""
    last = latest(rows)
    table = numbers(last) | fit_ratios(rows, reference)
    n_failed = Counter((r["set"], r["model"]) for r in last if r["error"])
    for name, model in n_failed:
        # A model that always fails must not vanish.
        table.setdefault((name, model, "crps"), {})
    summary = []
    for (name, model, score), values in table.items():
        mean, error = mean_and_error(list(values.values()))
        other = table.get((name, reference, score), {})
        paired = [values[split] - other[split] for split in values if split in other]
        if model == reference or score == "fit_ratio":
            paired = []
        difference, difference_error = mean_and_error(paired)
        median = np.median(list(values.values())) if values else None
        found = (name, model, score, len(values), mean, error, median)
        found += (difference, difference_error, n_failed[name, model])
        summary.append(dict(zip(HEADER, found, strict=True)))
    return summary


def write(summary, path):
    """Write the summary as CSV."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, HEADER, lineterminator="\n")
        writer.writeheader()
        for row in summary:
            writer.writerow(
                {
                    key: f"{value:.6g}" if isinstance(value, float) else value
                    for key, value in row.items()
                }
            )


def show(summary):
    """Print a table per set, the best mean likelihood first."""
    by_model = {}
    for row in summary:
        scores = by_model.setdefault((row["set"], row["model"]), {})
        scores[row["score"]] = row

    def order(model):
        likelihood = by_model[name, model].get("nll")
        return likelihood["mean"] if likelihood else np.inf

    for name in dict.fromkeys(row["set"] for row in summary):
        models = [model for where, model in by_model if where == name]
        titles = "".join(f"{title:>9}" for title, *_ in PRINTED)
        print(f"\n{name:24}{titles}  splits (failed)")
        for model in sorted(models, key=order):
            scores = by_model[name, model]
            cells = "".join(f"{cell(scores, *which):>9}" for _, *which in PRINTED)
            row = scores["crps"]
            print(f"{model:24}{cells}  {row['n_splits']} ({row['n_failed']})")


def cell(scores, score, digits, which):
    """Return a number of the printed table."""
    value = scores.get(score, {}).get(which)
    return "" if value is None else f"{value:.{digits}f}"


def show_kept(rows, reference, cheap="skmdn-cheap", base="scikit-mdn"):
    """Print what the cheaper setting keeps of the gain over the base, and its time."""
    table = numbers(latest(rows))
    shares, ratios = [], []
    for name in sorted({where for where, model, _ in table if model == cheap}):
        rounded = (name, reference, "nll_cell") in table
        score = "nll_cell" if rounded else "nll"
        models = [table[name, model, score] for model in (reference, cheap, base)]
        splits = set.intersection(*map(set, models))
        full, some, none = (np.mean([m[split] for split in splits]) for m in models)
        times = [table[name, model, "fit_s"] for model in (cheap, base)]
        seconds, other = (np.median([t[split] for split in splits]) for t in times)
        shares.append((none - some) / (none - full))
        ratios.append(seconds / other)
        print(
            f"{name:10} kept {shares[-1]:.3f}  time {ratios[-1]:.2f}  of {len(splits)}"
        )
    print(f"{'mean':10} kept {np.mean(shares):.3f}  time {np.mean(ratios):.2f}")


def main():
    """Summarise files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--reference", default="skmdn")
    parser.add_argument("--kept", action="store_true", help="the cheaper setting only")
    args = parser.parse_args()
    rows = read(args.files)
    if args.kept:
        show_kept(rows, args.reference)
        return
    summary = summarise(rows, args.reference)
    show(summary)
    write(summary, Path(__file__).parent / "results" / "uci_summary.csv")


if __name__ == "__main__":
    main()
