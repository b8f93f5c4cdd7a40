"""The main job: ``python -m skmdn [FILE.csv --target COLUMN]``.

Fits a mixture density network to a table, compares its held-out scores with two
baselines and writes a figure, per-row quantiles and the model to a folder.
"""

import argparse
import sys
from pathlib import Path

from .base import import_extra
from .report import InputError, Report, load_table


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Parameters
    ----------
    argv : list of str, optional
        Arguments; those of the process by default.

    Returns
    -------
    code : int
        0 if all went well, 2 if the input cannot be used.
    """
    options = _parse(argv)
    try:
        for package in ("pandas", "matplotlib"):
            import_extra(package, "cli", "python -m skmdn")
        features, target, title = load_table(options.file, options.target)
        report = Report(
            features,
            target,
            components=options.components,
            test_size=options.test_size,
            seed=options.seed,
            n_jobs=options.jobs,
        )
        print(f"{title}: {len(target)} rows, {features.shape[1]} features")
        report.fit()
        report.print_scores()
        report.write(Path(options.output))
    except (InputError, ImportError) as error:
        print(f"skmdn: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"skmdn: cannot write to {options.output}: {error}", file=sys.stderr)
        return 2
    return 0


def _parse(argv):
    parser = argparse.ArgumentParser(
        prog="python -m skmdn",
        description="Fit the whole predictive distribution of a column of a table.",
        epilog="Exit codes: 0 done, 2 the input or an option cannot be used.",
    )
    parser.add_argument(
        "file", nargs="?", help="a CSV file; without one, scikit-learn's diabetes data"
    )
    parser.add_argument("--target", help="the column to predict (needed with a file)")
    parser.add_argument(
        "--output", default="skmdn-report", help="the folder to write (%(default)s)"
    )
    parser.add_argument(
        "--components",
        type=_positive,
        nargs="+",
        default=[1, 3, 8],
        metavar="K",
        help="numbers of components to choose from (1 3 8)",
    )
    parser.add_argument(
        "--test-size",
        type=_share,
        default=0.2,
        help="share of rows held out for the scores (%(default)s)",
    )
    parser.add_argument(
        "--seed", type=_seed, default=0, help="seed of all randomness (%(default)s)"
    )
    parser.add_argument(
        "--jobs", type=_jobs, default=None, help="processes of the search (1)"
    )
    options = parser.parse_args(argv)
    if options.file is not None and options.target is None:
        parser.error("with a file, say which column to predict: --target COLUMN")
    return options


def _positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def _seed(text):
    number = int(text)
    if not 0 <= number < 2**32:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 2**32 - 1")
    return number


def _jobs(text):
    number = int(text)
    if number == 0:
        raise argparse.ArgumentTypeError("0 processes cannot work; -1 takes all cores")
    return number


def _share(text):
    number = float(text)
    if not 0.0 < number < 1.0:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
