"""The process in which a model learns one table of simulations.

    python amortized_worker.py MODEL FILE RESULT [--sampling]

``amortized.py`` starts it in the environment of the model. ``FILE`` holds ``theta``,
``x``, fresh pairs ``theta_test``, ``x_test``, ``observed``, ``seed``, ``n_draws`` and
the prior: ``low`` and ``high`` of a box, or ``std`` of a normal law around 0.
``RESULT`` gets ``draws``, for every row of ``observed``, and ``log_prob``, the density
of the fresh pairs in the units of theta. A line of JSON tells processor seconds of
fitting and, with ``--sampling``, of 1000 draws for each of 1000 observations.
"""

import argparse
import json
import math
import os
import platform
import time
from functools import partial
from importlib import metadata

import numpy as np


def skmdn(data, density="mixture"):
    """Fit this project's estimator with its defaults."""
    from scipy import stats

    from skmdn import AmortizedPosterior

    if "low" in data:
        prior = list(zip(data["low"].tolist(), data["high"].tolist(), strict=True))
    else:
        prior = [stats.norm(0.0, s) for s in data["std"].tolist()]
    model = AmortizedPosterior(prior, density=density, random_state=int(data["seed"]))

    def fit():
        model.fit(data["x"], data["theta"])

    return fit, model.sample, model.log_prob


def sbi(density):
    """Return an adapter of NPE; its density is not corrected for mass off the box."""

    def adapter(data):
        import torch
        from sbi.inference import NPE
        from sbi.utils import BoxUniform

        torch.manual_seed(int(data["seed"]))  # noqa: TID251
        if "low" in data:
            ends = [torch.tensor(data[end]).float() for end in ("low", "high")]
            prior = BoxUniform(*ends)
        else:
            std = torch.tensor(data["std"]).float()
            prior = torch.distributions.MultivariateNormal(
                torch.zeros_like(std), torch.diag(std**2)
            )
        made = NPE(prior=prior, density_estimator=density, show_progress_bars=False)
        fitted = {}

        def fit():
            pairs = (torch.tensor(data[name]).float() for name in ("theta", "x"))
            fitted["density"] = made.append_simulations(*pairs).train()
            fitted["posterior"] = made.build_posterior()

        def sample(X, n_draws):
            return np.stack(
                [
                    fitted["posterior"]
                    .sample(
                        (n_draws,),
                        x=torch.tensor(x).float(),
                        show_progress_bars=False,
                    )
                    .numpy()
                    for x in X
                ]
            )

        def log_prob(X, theta):
            with torch.no_grad():
                theta, X = torch.tensor(theta).float(), torch.tensor(X).float()
                return fitted["density"].log_prob(theta[None], X)[0].numpy()

        return fit, sample, log_prob

    return adapter


def bayesflow(mixture):
    """Return an adapter of the basic workflow with a mixture or its default flow."""

    def adapter(data):
        os.environ.setdefault("KERAS_BACKEND", "torch")
        import bayesflow as bf
        import keras

        keras.utils.set_random_seed(int(data["seed"]))
        network = "coupling_flow"
        if mixture:
            from bayesflow.networks import ScoringRuleNetwork
            from bayesflow.scoring_rules import MixtureScore, MvNormalScore

            parts = {f"part{i}": MvNormalScore() for i in range(10)}
            network = ScoringRuleNetwork(scoring_rules={"mixture": MixtureScore(parts)})
        adapter = bf.Adapter().convert_dtype("float64", "float32")
        if "low" in data:
            bounds = {"lower": data["low"], "upper": data["high"]}
            adapter = adapter.constrain("theta", **bounds)
        adapter = adapter.rename("theta", "inference_variables")
        adapter = adapter.rename("x", "inference_conditions")
        workflow = bf.BasicWorkflow(
            adapter=adapter, inference_network=network, standardize="all"
        )

        def fit():
            pairs = {"theta": data["theta"], "x": data["x"]}
            workflow.fit_offline(pairs, verbose=0)

        def sample(X, n_draws):
            made = workflow.sample(num_samples=n_draws, conditions={"x": X})
            return np.asarray(made["theta"]).reshape(len(X), n_draws, -1)

        def log_prob(X, theta):
            return np.asarray(workflow.log_prob({"theta": theta, "x": X})).reshape(-1)

        return fit, sample, log_prob

    return adapter


MODELS = {
    "skmdn": skmdn,
    "skmdn-nsf": partial(skmdn, density="nsf"),
    "skmdn-maf": partial(skmdn, density="maf"),
    "sbi-mdn": sbi("mdn"),
    "sbi-maf": sbi("maf"),
    "sbi-nsf": sbi("nsf"),
    "bayesflow-mixture": bayesflow(True),
    "bayesflow-default": bayesflow(False),
}


def versions():
    """Return what ran, in a line."""
    found = []
    for name in ("skmdn", "sbi", "bayesflow", "keras", "torch", "numpy"):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join([*found, f"python {platform.python_version()}"])


def seconds(function):
    """Return the processor seconds of a call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def main():
    """Fit, answer, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("file")
    parser.add_argument("result")
    parser.add_argument("--sampling", action="store_true")
    arguments = parser.parse_args()
    data = dict(np.load(arguments.file))
    warm = {name: data[name][:200] for name in ("theta", "x")}
    warm_fit, *_ = MODELS[arguments.model]({**data, **warm})
    if arguments.model.startswith("skmdn"):
        # Imports are not timed; the peers import when they are made.
        warm_fit()
    fit, sample, log_prob = MODELS[arguments.model](data)
    answer = {"fit_seconds": seconds(fit)}
    draws = sample(data["observed"], int(data["n_draws"]))
    scores = log_prob(data["x_test"], data["theta_test"])
    np.savez(arguments.result, draws=draws, log_prob=scores)
    answer["score"] = float(np.mean(scores))
    if arguments.sampling:
        many = data["x_test"][:1000]
        sample(many[:2], 10)
        answer["sample_seconds"] = seconds(lambda: sample(many, 1000))
    if not math.isfinite(answer["score"]):
        answer["score"] = None
    # A progress line of a peer may still be open.
    print("\n" + json.dumps({**answer, "versions": versions()}), flush=True)


if __name__ == "__main__":
    main()
