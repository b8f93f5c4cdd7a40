"""Validate the public docstrings with the checks that setup.cfg names.

python doc/check_docstrings.py
"""

import configparser
import importlib
import inspect
import sys
from pathlib import Path

from numpydoc.validate import ERROR_MSGS, validate

MODULES = (
    "skmdn",
    "skmdn.bridge",
    "skmdn.calibrated",
    "skmdn.calibration",
    "skmdn.calibrators",
    "skmdn.coordinates",
    "skmdn.covering",
    "skmdn.datasets",
    "skmdn.diagnostics",
    "skmdn.distribution",
    "skmdn.learning.embeddings",
    "skmdn.queries.entropy",
    "skmdn.families",
    "skmdn.numerics.halving",
    "skmdn.mapped",
    "skmdn.metrics",
    "skmdn.mixture",
    "skmdn.queries.modes",
    "skmdn.learning.networks",
    "skmdn.queries.normal_scores",
    "skmdn.numerics.basic",
    "skmdn.learning.objectives",
    "skmdn.parameter_space",
    "skmdn.queries.panels",
    "skmdn.queries.peaks",
    "skmdn.plotting",
    "skmdn.posterior_density",
    "skmdn.variational.potentials",
    "skmdn.report",
    "skmdn.score_maps",
    "skmdn.simulation",
    "skmdn.spaces",
    "skmdn.numerics.special",
    "skmdn.supports",
    "skmdn.numerics.tails",
    "skmdn.learning.training",
)
# What a user calls must document every parameter and result; inside the torch core
# a line that states the shapes is enough.
FULL = {"skmdn", "skmdn.datasets", "skmdn.distribution", "skmdn.metrics"}
FULL |= {"skmdn.calibrated", "skmdn.calibration"}
FULL |= {"skmdn.plotting", "skmdn.posterior_density"}
FULL |= {"skmdn.simulation", "skmdn.diagnostics", "skmdn.spaces"}
SHORT = {"PR01", "RT01", "RT03", "YD01"}


def public_names():
    """Yield (module, dotted name) of public classes, functions and methods."""
    for module in MODULES:
        loaded = importlib.import_module(module)
        for name in loaded.__all__:
            member = getattr(loaded, name)
            if not (inspect.isclass(member) or inspect.isfunction(member)):
                continue
            yield module, f"{module}.{name}"
            if inspect.isclass(member):
                for method, value in vars(member).items():
                    documented = inspect.isfunction(value) or isinstance(
                        value, property | classmethod
                    )
                    if documented and not method.startswith("_"):
                        yield module, f"{module}.{name}.{method}"


def main():
    """Print what is wrong; exit with 1 if anything is."""
    config = configparser.ConfigParser()
    config.read(Path(__file__).parents[1] / "setup.cfg")
    checks = config["tool:numpydoc_validation"]["checks"].replace(",", " ").split()
    wanted = set(ERROR_MSGS) - set(checks) if "all" in checks else set(checks)
    n_errors = 0
    for module, name in public_names():
        for code, message in validate(name)["errors"]:
            if code in wanted and not (module not in FULL and code in SHORT):
                n_errors += 1
                print(f"{name}: {code} {message}")
    print(f"{n_errors} errors")
    return int(n_errors > 0)


if __name__ == "__main__":
    sys.exit(main())
