"""The rules of the house, as doc/developer/house.rst states them."""

import ast
import configparser
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from ruff import find_ruff_bin

import skmdn

ROOT = Path(__file__).parents[1]
# A package is a module that has grown.
PACKAGES = sorted(p.parent for p in (ROOT / "skmdn").glob("*/__init__.py"))
MODULES = sorted((ROOT / "skmdn").rglob("*.py"))


def python(code, **kwargs):
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        **kwargs,
    )


def test_imports_run_downwards_only():
    from importlinter.cli import lint_imports

    assert lint_imports(config_filename=str(ROOT / "setup.cfg"), no_cache=True) == 0


def test_every_layer_is_listed():
    config = (ROOT / "setup.cfg").read_text()
    listed = set(re.findall(r"skmdn\.(\w+)", config.split("[importlinter:")[1]))
    flat = {m.stem for m in MODULES if m.parent.name == "skmdn"} - {"__init__"}
    assert listed == flat | {package.name for package in PACKAGES}


def test_every_package_is_installed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found = {"skmdn", *(f"skmdn.{package.name}" for package in PACKAGES)}
    assert set(listed["tool"]["setuptools"]["packages"]) == found


def torch_only():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = config["importlinter:contract:mathematics"]["source_modules"]
    return tuple(f"{name}." for name in listed.split())


def test_only_the_bridge_turns_numpy_into_torch():
    door = re.compile(r"torch\.(tensor|from_numpy|as_tensor)\(|\.numpy\(\)")
    for module in MODULES:
        name = ".".join(module.relative_to(ROOT).with_suffix("").parts)
        if f"{name}.".startswith((*torch_only(), "skmdn.bridge.")):
            continue
        assert not door.search(module.read_text()), module.name


def ruff(*arguments, **kwargs):
    command = [find_ruff_bin(), "check", "--no-cache", "--select", "TID251", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, **kwargs
    )


def test_the_library_sets_nothing_global():
    result = ruff("skmdn", "tests", "examples", "benchmarks")
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    "setter",
    [
        "import torch; torch.manual_seed(0)",
        "import torch; torch.set_default_dtype(torch.float64)",
        "import torch; torch.set_num_threads(1)",
        "import numpy as np; np.random.seed(0)",
        "import warnings; warnings.filterwarnings('ignore')",
        "import random; random.seed(0)",
    ],
)
def test_global_setters_are_banned(setter):
    result = ruff("-", "--stdin-filename", "skmdn/new.py", input=setter)
    assert "TID251" in result.stdout


def test_private_scikit_learn_names_live_in_one_file():
    for module in MODULES:
        if module.stem == "_sklearn":
            continue
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                "sklearn"
            ):
                parts = node.module.split(".") + [alias.name for alias in node.names]
                assert not any(part.startswith("_") for part in parts), module.name


def test_files_stay_readable():
    for module in MODULES:
        assert len(module.read_text().splitlines()) <= 500, module.name


def test_importing_changes_nothing_and_prints_nothing():
    code = (
        "import warnings, numpy as np, torch, sklearn\n"
        "before = (list(warnings.filters), torch.get_default_dtype(),"
        " torch.get_num_threads(), torch.distributions.Distribution._validate_args,"
        " torch.random.get_rng_state().sum(), repr(np.random.get_state()))\n"
        "import skmdn\n"
        "after = (list(warnings.filters), torch.get_default_dtype(),"
        " torch.get_num_threads(), torch.distributions.Distribution._validate_args,"
        " torch.random.get_rng_state().sum(), repr(np.random.get_state()))\n"
        "assert before == after\n"
    )
    result = python(code)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_a_first_fit_changes_nothing_and_loads_no_plots():
    code = (
        "import sys, warnings, numpy as np, torch, skmdn.plotting\n"
        "before = list(warnings.filters)\n"
        "X = np.random.RandomState(0).normal(size=(60, 2))\n"
        "model = skmdn.MixtureDensityRegressor("
        "max_iter=2, covariance_type='full', random_state=0).fit(X, X)\n"
        "dist = model.predict_distribution(X)\n"
        "dist.ppf(0.5), dist.mode(), dist.sample(2), dist.cov(), dist.crps(X)\n"
        "dist.marginal(0).entropy(), dist.condition(0, X[:, 0])\n"
        "assert warnings.filters == before, warnings.filters\n"
        "assert 'matplotlib' not in sys.modules\n"
    )
    result = python(code)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_every_public_name_is_documented():
    api = (ROOT / "doc" / "api.rst").read_text()
    for name in skmdn.__all__:
        if not name.startswith("_"):
            assert name in api
    for module in (
        "metrics",
        "plotting",
        "datasets",
        "mixture",
        "likelihood",
        "priors",
        "distribution",
        "calibrated",
        "calibration",
        "posterior_density",
        "simulation",
        "diagnostics",
        "spaces",
        "summaries",
    ):
        loaded = __import__(f"skmdn.{module}", fromlist=["__all__"])
        for name in loaded.__all__:
            assert name in api, f"{module}.{name} is missing in doc/api.rst"


def test_the_readmes_code_runs():
    readme = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert len(names["dist"]) == len(names["y_test"])


def test_the_readme_has_two_set_up_commands():
    readme = (ROOT / "README.md").read_text()
    commands = re.findall(r"^pip install .*", readme, re.MULTILINE)
    assert len(commands) == 2
    assert all("-c constraints.txt" in command for command in commands)
    assert "python -m skmdn" in commands[0]
    assert "python -m pytest" in commands[1]


def test_a_foreign_package_around_our_modules_is_refused():
    code = (
        "import sys, types\n"
        "foreign = types.ModuleType('skmdn')\n"
        "foreign.__path__ = ['skmdn']\n"
        "sys.modules['skmdn'] = foreign\n"
        "import skmdn.regression\n"
    )
    result = python(code)
    assert result.returncode != 0
    assert "ImportError: The distribution scikit-mdn" in result.stderr


def test_the_rival_beside_us_is_reported():
    from skmdn._version import check_namesake

    # pytest is surely installed and stands in for the rival.
    with pytest.warns(UserWarning, match="scikit-mdn"):
        check_namesake(rival="pytest")
