"""The command line, as a stranger uses it."""

import os
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest

from skmdn.__main__ import main
from skmdn.metrics import predict_distribution

ROOT = Path(__file__).parents[1]


def mixed_table(n_samples=90, seed=0):
    rng = np.random.RandomState(seed)
    frame = pd.DataFrame(
        {
            "size": rng.uniform(size=n_samples),
            "kind": rng.choice(["a", "b", None], n_samples),
            "sold": rng.choice([True, False], n_samples),
            "nothing": np.nan,
        }
    )
    frame["price"] = 3 * frame["size"] + 0.1 * rng.normal(size=n_samples)
    frame.loc[::9, "size"] = np.nan
    frame.loc[5, "price"] = np.nan
    return frame


def run(tmp_path, frame, *arguments, **to_csv):
    path = tmp_path / "table.csv"
    frame.to_csv(path, index=False, **to_csv)
    return main([str(path), "--output", str(tmp_path / "out"), *arguments])


def refused(capsys, code):
    assert code == 2
    error = capsys.readouterr().err
    assert error.startswith("skmdn: ")
    assert "Traceback" not in error
    return error


@pytest.mark.parametrize(
    "separator", [",", ";", pytest.param("\t", marks=pytest.mark.slow)]
)
def test_a_mixed_table_gives_scores_and_a_folder(tmp_path, capsys, separator):
    frame = mixed_table()
    code = run(
        tmp_path, frame, "--target", "price", "--components", "1", "2", sep=separator
    )
    assert code == 0
    out = capsys.readouterr().out
    for text in (
        "table.csv: 89 rows, 3 features",
        "1 rows without a target are left out",
        "Empty columns are left out: nothing",
        "log-likelihood",
        "CRPS",
        "90 % coverage",
        "RMSE",
        "mixture density network",
        "linear model",
        "marginal normal",
    ):
        assert text in out
    folder = tmp_path / "out"
    assert (folder / "figure.png").stat().st_size > 20_000
    quantiles = pd.read_csv(folder / "quantiles.csv")
    assert len(quantiles) == 18
    held_out = frame.loc[quantiles["index"]]
    np.testing.assert_allclose(quantiles["observed"], held_out["price"])
    levels = ["q0.05", "q0.25", "q0.5", "q0.75", "q0.95"]
    assert (np.diff(quantiles[levels], axis=1) > 0).all()
    model = joblib.load(folder / "model.joblib")
    features = held_out.drop(columns=["price", "nothing"])
    dist = predict_distribution(model, features)
    np.testing.assert_allclose(dist.mean(), quantiles["mean"], rtol=1e-8)


@pytest.mark.slow
def test_the_bundled_data_run_as_a_module(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "skmdn", "--components", "1", "--output", tmp_path],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "error::FutureWarning"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert "diabetes: 442 rows, 10 features" in result.stdout
    assert {p.name for p in tmp_path.iterdir()} == {
        "figure.png",
        "quantiles.csv",
        "model.joblib",
    }


def test_help_explains_the_options(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for option in ("--target", "--output", "--components", "--test-size", "--seed"):
        assert option in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table.csv"], "--target COLUMN"),
        (["--test-size", "2"], "not between 0 and 1"),
        (["--components", "0"], "not a positive number"),
        (["--components", "x"], "x"),
        (["--seed", "-1"], "--seed"),
        (["--jobs", "0"], "--jobs"),
    ],
)
def test_bad_options_are_explained(capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_missing_column_suggests_one(tmp_path, capsys):
    error = refused(capsys, run(tmp_path, mixed_table(), "--target", "prise"))
    assert "no column 'prise'" in error
    assert "Did you mean 'price'?" in error


def test_a_target_of_text_is_refused(tmp_path, capsys):
    frame = mixed_table().astype({"price": object})
    frame.loc[7, "price"] = "cheap"
    error = refused(capsys, run(tmp_path, frame, "--target", "price"))
    assert "'cheap' in data row 8" in error


def test_an_infinite_target_is_refused(tmp_path, capsys):
    frame = mixed_table()
    frame.loc[7, "price"] = np.inf
    assert "infinit" in refused(capsys, run(tmp_path, frame, "--target", "price"))


def test_too_few_rows_are_refused(tmp_path, capsys):
    error = refused(capsys, run(tmp_path, mixed_table(19), "--target", "price"))
    assert "18 rows" in error
    assert "at least 20" in error


def test_a_constant_target_is_refused(tmp_path, capsys):
    frame = mixed_table().assign(price=3.0)
    assert "constant" in refused(capsys, run(tmp_path, frame, "--target", "price"))


def test_a_split_that_leaves_nothing_is_refused(tmp_path, capsys):
    code = run(tmp_path, mixed_table(), "--target", "price", "--test-size", "0.01")
    assert "--test-size 0.01 leaves" in refused(capsys, code)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\x00\x81", b"a\n1\n2\n", b"a,b\n1,2\n3,4,5,6\n"]
)
def test_unreadable_files_are_explained(tmp_path, capsys, content):
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    error = refused(capsys, main([str(path), "--target", "a"]))
    assert "bad.csv" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x,z,y\n" + "0.1,25,0,\n" * 30, "more fields than its header"),
        ("x,y,y\n" + "0.1,25,0\n" * 30, "same name"),
    ],
)
def test_tables_that_pandas_would_misread_are_refused(
    tmp_path, capsys, content, message
):
    path = tmp_path / "odd.csv"
    path.write_text(content)
    assert message in refused(capsys, main([str(path), "--target", "y"]))


def test_headers_with_quotes_spaces_and_mathematics(tmp_path, capsys):
    rng = np.random.RandomState(0)
    lines = ['"price, EUR"; a$x^$; self; y$_$']
    lines += ["; ".join(f"{v:.3f}" for v in row) for row in rng.normal(size=(40, 4))]
    lines[3] = "?; 1; 2; 3"
    path = tmp_path / "odd.csv"
    path.write_text("\n".join(lines))
    out = tmp_path / "out"
    code = main(
        [str(path), "--target", "y$_$", "--components", "1", "--output", str(out)]
    )
    assert code == 0
    assert (out / "figure.png").exists()
    printed = capsys.readouterr().out
    assert "40 rows, 3 features" in printed
    assert "'price, EUR' is taken as categories" in printed


def test_a_file_that_is_not_there(capsys):
    assert "no file" in refused(capsys, main(["nowhere.csv", "--target", "a"]))


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    blocker = tmp_path / "blocked"
    blocker.write_text("a file where the folder should go")
    code = main(
        ["--components", "1", "--output", str(blocker / "out"), "--test-size", "0.9"]
    )
    assert "cannot write" in refused(capsys, code)


def test_other_targets_of_the_bundled_data_are_refused(capsys):
    assert "'target' only" in refused(capsys, main(["--target", "bmi"]))


def test_a_missing_package_names_the_extra(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert "skmdn[cli]" in refused(capsys, main([]))
