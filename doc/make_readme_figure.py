"""Draw the picture of the README: ``python doc/make_readme_figure.py``."""

import io
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from scipy import stats

from skmdn import MixtureDensityRegressor
from skmdn.datasets import make_cardioid
from skmdn.plotting import PredictiveCalibrationDisplay, PredictiveDensityDisplay

OUTPUT = Path(__file__).parent / "_static" / "readme.png"
INK, FAINT = "0.25", "0.55"


def make_waves(n_samples, random_state):
    """A wave whose noise grows and leans to one side."""
    rng = np.random.RandomState(random_state)
    x = rng.uniform(0, 10, n_samples)
    noise = rng.gamma(2.0, 0.04 + 0.05 * x)
    return x[:, None], 1.5 * np.sin(x) + noise


def draw_heart(ax):
    X, y = make_cardioid(3000, random_state=0)
    model = MixtureDensityRegressor(8, max_iter=80, random_state=0).fit(X, y)
    display = PredictiveDensityDisplay.from_estimator(model, X, ax=ax)
    ax.scatter(X[:500, 0], y[:500], s=4, color="black", alpha=0.45, lw=0)
    ax.set(ylim=display.target_values[[0, -1]])
    ax.set_title("several answers for one x")


def draw_bands(ax, model, X, y):
    display = PredictiveDensityDisplay.from_estimator(model, X, kind="quantiles", ax=ax)
    ax.get_legend().remove()
    ax.scatter(X[:400, 0], y[:400], s=4, color="black", alpha=0.45, lw=0)
    x_end = display.feature_values[-1]
    for level in (0.025, 0.25, 0.5, 0.75, 0.975):
        end = display.quantiles[-1, display.levels.index(level)]
        ax.text(x_end + 0.15, end, f"{level:g}", fontsize=7, va="center", color=INK)
    ax.set(ylim=(-2, 4.6))
    ax.set_title("uneven, skewed spread")


def draw_calibration(ax, model, X, y):
    pit = model.predict_distribution(X).pit(y)
    nominal, observed = PredictiveCalibrationDisplay(pit).coverage_curve()
    low, high = stats.binom.interval(0.95, len(pit), nominal)
    ax.fill_between(nominal, low / len(pit), high / len(pit), color="0.87", lw=0)
    ax.plot([0, 1], [0, 1], color=FAINT, lw=0.8)
    ax.plot(nominal, observed, color="tab:blue", lw=1.8)
    ax.text(
        0.56, 0.44, "grey: what chance\nallows on 1 000 rows", color=INK, fontsize=8
    )
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.set(xlabel="coverage promised", ylabel="coverage on held-out rows")
    ax.set_title("a spread that can be believed")


def save(fig):
    """Write 128 colours: a third of the size, and no difference to the eye."""
    OUTPUT.parent.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    fig.savefig(buffer, dpi=100)
    image = Image.open(buffer).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    image.save(OUTPUT, optimize=True)


def main():
    X, y = make_waves(2000, 0)
    model = MixtureDensityRegressor(max_iter=150, random_state=0).fit(X, y)
    with plt.rc_context({"font.size": 10, "axes.edgecolor": FAINT}):
        fig, axes = plt.subplots(
            1, 3, figsize=(12, 4.2), layout="constrained", width_ratios=[1, 1.15, 1]
        )
        fig.get_layout_engine().set(wspace=0.06)
        draw_heart(axes[0])
        draw_bands(axes[1], model, X, y)
        draw_calibration(axes[2], model, *make_waves(1000, 1))
        for ax in axes:
            ax.spines[["top", "right"]].set_visible(False)
        save(fig)


if __name__ == "__main__":
    main()
