"""From a table to scores, a figure, quantiles and a saved model.

What ``python -m skmdn`` does with its arguments. It lives in a module of its own so
that the pipelines it saves can be loaded anywhere.
"""

import difflib
import re
from pathlib import Path

import joblib
import numpy as np
from scipy import stats
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_diabetes
from sklearn.dummy import DummyRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from .distribution import PredictiveDistribution
from .metrics import predict_distribution
from .plotting import PredictiveCalibrationDisplay, PredictiveDensityDisplay
from .plotting.common import plain_label
from .regression import MixtureDensityRegressor

__all__ = ["InputError", "Report", "load_table"]

_MIN_ROWS = 20
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class InputError(Exception):
    """Something about the data that the user can mend."""


def load_table(path, target):
    """Read a table and split off its target.

    Parameters
    ----------
    path : str or None
        A CSV file; None for scikit-learn's diabetes data.
    target : str or None
        The column to predict.

    Returns
    -------
    features : DataFrame
        The other columns, without the empty ones.
    target : Series
        The target, numeric and complete.
    title : str
        What to call the data.

    Raises
    ------
    InputError
        If the table cannot be used.
    """
    if path is None:
        data = load_diabetes(as_frame=True, scaled=False)
        if target not in (None, "target"):
            raise InputError("The bundled diabetes data has the target 'target' only.")
        return data.data, data.target.rename("disease progression"), "diabetes"
    features, target = _split_target(_read(path), target)
    return features, target, Path(path).name


def _read(path):
    import pandas as pd

    try:
        # The separator is the one that the header line has most of, not counting
        # what stands in quotes.
        with open(path, encoding="utf-8-sig") as file:
            header = re.sub(r'"[^"]*"', "", file.readline())
        options = {"sep": max(",;\t", key=header.count), "skipinitialspace": True}
        names = pd.read_csv(path, header=None, nrows=1, dtype=str, **options)
        frame = pd.read_csv(path, low_memory=False, **options)
    except FileNotFoundError as error:
        raise InputError(f"There is no file {path}.") from error
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{path} cannot be read as a CSV file with a header line: {reason}"
        ) from error
    if not isinstance(frame.index, pd.RangeIndex):
        raise InputError(
            f"{path} has rows with more fields than its header line; perhaps a "
            "separator at the end of each row."
        )
    repeated = sorted({str(n) for n in names.iloc[0][names.iloc[0].duplicated()]})
    if repeated:
        raise InputError(f"{path} has columns of the same name: {repeated}.")
    if frame.shape[1] < 2:
        raise InputError(
            f"{path} has {frame.shape[1]} column(s); a target and at least one "
            "feature are needed. Is the first line a header?"
        )
    return frame


def _split_target(frame, name):
    import pandas as pd

    if name not in frame.columns:
        columns = [str(column) for column in frame.columns]
        close = difflib.get_close_matches(name, columns, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise InputError(
            f"There is no column {name!r}.{hint} The columns are: {', '.join(columns)}."
        )
    target = pd.to_numeric(frame[name], errors="coerce").astype(float)
    text = frame[name].notna() & target.isna()
    if text.any():
        row = int(np.flatnonzero(text)[0])
        raise InputError(
            f"The target {name!r} must be numeric, but {int(text.sum())} value(s) are "
            f"not; the first is {frame[name].iloc[row]!r} in data row {row + 1}."
        )
    infinite = np.isinf(target)
    if infinite.any():
        raise InputError(f"The target {name!r} has {int(infinite.sum())} infinities.")
    missing = target.isna()
    if missing.any():
        print(f"{int(missing.sum())} rows without a target are left out.")
    features = frame.drop(columns=name)[~missing].copy()
    numeric = features.select_dtypes("number").columns
    # Beyond that, squares overflow.
    features[numeric] = features[numeric].where(features[numeric].abs() < 1e150)
    empty = [column for column in features if features[column].isna().all()]
    if empty:
        print(f"Empty columns are left out: {', '.join(map(str, empty))}.")
        features = features.drop(columns=empty)
    features.columns = [str(column) for column in features.columns]
    text = [c for c in features if features[c].dtype.kind not in "iuf"]
    for column in text:
        numbers = pd.to_numeric(features[column], errors="coerce").notna().sum()
        if numbers > 0.5 * features[column].notna().sum():
            print(
                f"Column {column!r} is taken as categories: most of it are numbers, "
                "but not all."
            )
    return _checked(features, target[~missing])


def _checked(features, target):
    if len(target) < _MIN_ROWS:
        raise InputError(
            f"There are {len(target)} rows with a target; at least {_MIN_ROWS} are "
            "needed."
        )
    if target.nunique() == 1:
        raise InputError(
            f"The target {target.name!r} is constant ({target.iloc[0]:g}): there is "
            "nothing to predict."
        )
    if features.shape[1] == 0:
        raise InputError("No feature is left.")
    return features, target


# The models.


def _preprocessing(features):
    """Impute, scale and encode by the type of each column."""
    numeric = [c for c in features if features[c].dtype.kind in "iuf"]
    other = [c for c in features if c not in numeric]
    numbers = make_pipeline(
        SimpleImputer(strategy="median", add_indicator=True), StandardScaler()
    )
    categories = make_pipeline(
        FunctionTransformer(as_text, feature_names_out="one-to-one"),
        OneHotEncoder(
            max_categories=20,
            handle_unknown="infrequent_if_exist",
            sparse_output=False,
        ),
    )
    return ColumnTransformer(
        [("numeric", numbers, numeric), ("categorical", categories, other)]
    )


def as_text(columns):
    """Return every value as text and what is missing as the text "missing".

    Parameters
    ----------
    columns : DataFrame
        Categories, truth values, dates or a mixture.

    Returns
    -------
    text : ndarray of shape (n_samples, n_columns)
        Of strings.
    """
    known = columns.notna().to_numpy()
    return np.where(known, columns.astype(str).to_numpy(dtype=object), "missing")


class _GaussianBaseline:
    """A regressor of the mean with one standard deviation for all rows."""

    def __init__(self, regressor):
        self.regressor = regressor

    def fit(self, X, y):
        self.regressor.fit(X, y)
        residual = np.asarray(y) - self.regressor.predict(X)
        self.std = max(float(residual.std()), 1e-12)
        return self

    def predict_distribution(self, X):
        mean = np.asarray(self.regressor.predict(X), dtype=float)[:, None]
        return PredictiveDistribution.from_params(
            np.ones_like(mean), mean, np.full_like(mean, self.std)
        )


class Report:
    """Fit, compare, write.

    Parameters
    ----------
    features : DataFrame
        The features.
    target : Series
        The target.
    components : list of int
        Numbers of components to choose from.
    test_size : float
        Share of rows held out for the scores.
    seed : int
        Seed of all randomness.
    n_jobs : int or None
        Processes of the search.

    Raises
    ------
    InputError
        If the split leaves too little.
    """

    def __init__(self, features, target, *, components, test_size, seed, n_jobs):
        self.components = sorted(set(components))
        self.seed = seed
        self.n_jobs = n_jobs
        self.features = features
        self.target = target
        n_held_out = round(test_size * len(target))
        if n_held_out < 2 or len(target) - n_held_out < 6:
            raise InputError(
                f"--test-size {test_size} leaves {len(target) - n_held_out} rows to "
                f"fit and {n_held_out} to score: choose another."
            )
        self.X_train, self.X_test, self.y_train, self.y_test = train_test_split(
            features, target, test_size=n_held_out, random_state=seed
        )
        if self.y_train.nunique() == 1:
            raise InputError(
                "The target is constant in the rows to fit: choose another --seed "
                "or --test-size."
            )

    def fit(self):
        """Search the number of components and fit the baselines."""
        model = MixtureDensityRegressor(random_state=self.seed)
        pipeline = Pipeline([("prepare", self._prepare()), ("model", model)])
        self.search = GridSearchCV(
            pipeline,
            {"model__n_components": self.components},
            cv=3,
            n_jobs=self.n_jobs,
            error_score="raise",
        )
        print(f"Choosing K from {self.components} by 3-fold likelihood", flush=True)
        self.search.fit(self.X_train, self.y_train)
        linear = make_pipeline(self._prepare(), RidgeCV(np.logspace(-3, 3, 13)))
        models = {
            f"mixture density network, K = {self._chosen()}": self.search,
            "linear model, normal residuals": _GaussianBaseline(linear),
            "marginal normal": _GaussianBaseline(DummyRegressor()),
        }
        for baseline in list(models.values())[1:]:
            baseline.fit(self.X_train, self.y_train)
        self.dists = {
            name: predict_distribution(model, self.X_test)
            for name, model in models.items()
        }
        self.dist = next(iter(self.dists.values()))

    def _prepare(self):
        return _preprocessing(self.features)

    def _chosen(self):
        return self.search.best_params_["model__n_components"]

    def print_scores(self):
        """Print the held-out scores of all models."""
        y = self.y_test.to_numpy()
        print(f"\nHeld out: {len(y)} rows\n")
        print(
            f"{'':34}{'log-likelihood':>15}{'CRPS':>10}{'90 % coverage':>15}"
            f"{'RMSE':>10}"
        )
        for name, dist in self.dists.items():
            inside = np.abs(dist.pit(y) - 0.5) <= 0.45
            rmse = np.sqrt(np.mean((dist.mean() - y) ** 2))
            print(
                f"{name:34}{dist.log_prob(y).mean():15.3f}{dist.crps(y).mean():10.4g}"
                f"{inside.mean():15.2f}{rmse:10.4g}"
            )

    def write(self, folder):
        """Write figure, quantiles and model."""
        folder.mkdir(parents=True, exist_ok=True)
        joblib.dump(self.search.best_estimator_, folder / "model.joblib")
        self._quantiles().to_csv(folder / "quantiles.csv", index=False)
        self._figure().savefig(folder / "figure.png", dpi=120)
        print(
            f"\nWritten to {folder}:\n"
            "  figure.png     the predictive density, intervals and calibration\n"
            "  quantiles.csv  mean, std and quantiles of every held-out row\n"
            "  model.joblib   the fitted pipeline; load it with joblib.load"
        )

    def _quantiles(self):
        import pandas as pd

        table = {
            "index": self.y_test.index,
            "observed": self.y_test.to_numpy(),
            "mean": self.dist.mean(),
            "std": self.dist.std(),
        }
        for level, column in zip(_QUANTILES, self.dist.ppf(_QUANTILES).T, strict=True):
            table[f"q{level:g}"] = column
        return pd.DataFrame(table)

    def _figure(self):
        """Draw density over the strongest feature, intervals and calibration."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11, 8), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(2, 2)
        self._plot_density(axes[0, 0])
        self._plot_intervals(axes[0, 1])
        PredictiveCalibrationDisplay.from_predictions(
            self.dist, self.y_test, n_bins=10, axes=axes[1]
        )
        axes[1, 0].set_title("held-out PIT")
        axes[1, 1].set_title("coverage of central intervals")
        return figure

    def _plot_density(self, ax):
        feature = _strongest(self.X_train, self.y_train)
        if feature is None:
            ax.set_axis_off()
            ax.text(0.5, 0.5, "no numeric feature", ha="center")
            return
        PredictiveDensityDisplay.from_estimator(
            self.search, self.X_test, self.y_test, feature=feature, ax=ax
        )
        ax.set_title(f"density over {plain_label(feature)}, other features typical")

    def _plot_intervals(self, ax):
        quantiles = self.dist.ppf([0.05, 0.5, 0.95])
        order = np.argsort(quantiles[:, 1])[:: max(1, len(quantiles) // 100)]
        low, median, high = quantiles[order].T
        place = np.arange(len(order))
        ax.vlines(place, low, high, color="C0", alpha=0.4, label="90 % interval")
        ax.scatter(place, median, s=8, color="C0", label="median")
        ax.scatter(
            place, self.y_test.to_numpy()[order], s=8, color="black", label="observed"
        )
        ax.set(xlabel="held-out rows by median", ylabel=plain_label(self.target.name))
        ax.set_title("intervals and observations")
        ax.legend(fontsize="small")


def _strongest(features, target):
    """Return the numeric feature with the largest rank correlation."""
    best, feature = -1.0, None
    for column in features:
        values = features[column]
        known = values.notna().to_numpy()
        if values.dtype.kind not in "iuf" or values[known].nunique() < 3:
            continue
        strength = abs(stats.spearmanr(values[known], target[known]).statistic)
        if strength > best:
            best, feature = strength, column
    return feature
