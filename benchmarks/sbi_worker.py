"""The process in which sbi fits; ``variational_sbi.py`` starts it.

    python sbi_worker.py FOLDER LIMIT

It reads lines ``TASK I Q METHOD FILE`` from the standard input, fits a VIPosterior with
its defaults in one thread, saves 2000 draws to FILE and answers each line with one of
JSON: processor seconds, potential evaluations and versions, or what went wrong. A fit
that takes longer than LIMIT processor seconds is stopped and judged as it is then.
"""

import json
import os
import signal
import sys
import time
import traceback

import numpy as np
import sbi
import torch
from sbi.inference import VIPosterior
from sbi.utils import BoxUniform
from sbi_tasks import TASKS, load
from torch.distributions import Independent, Normal

N_DRAWS = 2000


class Overtime(Exception):
    """The fit took too long."""


def stop(*_):
    """Interrupt the fit."""
    raise Overtime


def prior_of(kind, scale, n_features):
    """Return the prior as sbi takes it."""
    ends = torch.full((n_features,), float(scale))
    if kind == "box":
        return BoxUniform(-ends, ends)
    return Independent(Normal(torch.zeros(n_features), ends), 1)


def run(folder, limit, task, i, q, method, file):
    """Return what a fit costs."""
    potential, prior = TASKS[task]
    x, _ = load(folder, task, i)
    counted = [0]

    def counting(theta, x_o):
        counted[0] += len(theta)
        return potential(theta, x_o)

    torch.manual_seed(0)  # noqa: TID251, its only seed
    signal.setitimer(signal.ITIMER_PROF, limit)
    start = time.process_time()
    posterior = VIPosterior(counting, prior_of(*prior), q=q, vi_method=method)
    posterior.set_default_x(torch.tensor(x, dtype=torch.float32))
    error = ""
    try:
        posterior.train(show_progress_bar=False, quality_control=False)
    except Overtime:
        error = f"stopped after {limit:g} s"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
    seconds, n_evals = time.process_time() - start, counted[0]
    with torch.no_grad():
        np.save(file, posterior.q.sample((N_DRAWS,)).numpy())
    return {"seconds": seconds, "n_evals": n_evals, "error": error}


def main(folder, limit):
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(1)  # noqa: TID251, a process of its own
    signal.signal(signal.SIGPROF, stop)
    about = {"versions": f"sbi {sbi.__version__}, torch {torch.__version__}"}
    for line in sys.stdin:
        try:
            answer = run(folder, float(limit), *line.split())
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"[:200]}
        print(json.dumps(about | answer), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
