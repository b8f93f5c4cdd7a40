"""Which end of a descent is better, by its own objective."""

import pytest
import torch

from skmdn.covering import Normals
from skmdn.covering.descent import improved
from skmdn.covering.objectives import METHODS, Objective
from tests.covering.densities import line, normal, target_of
from tests.helpers import generator, tensor


@pytest.mark.parametrize("n_draws", [1000, 6000])
@pytest.mark.parametrize("method", METHODS)
def test_only_a_lower_loss_is_an_improvement(method, n_draws):
    exact = Normals.standard(2)
    shifted = Normals(exact.log_weights, tensor([[1.5, 0.0]]), exact.roots)
    slightly = Normals(exact.log_weights, tensor([[0.05, 0.0]]), exact.roots)

    def better(*pair):
        target = target_of(lambda theta: normal(theta, [0.0, 0.0], 1.0), line(1.0, 2))
        return improved(
            target,
            Objective(method),
            pair,
            n_particles=128,
            n_draws=n_draws,
            generator=generator(0),
        )

    assert better(shifted, exact)
    assert not better(exact, shifted)
    assert not better(exact, slightly)
    assert not better(exact, exact)


def test_no_more_is_evaluated_than_allowed():
    target = target_of(lambda theta: normal(theta, [0.0, 0.0], 1.0), line(1.0, 2))
    many = Normals.standard(2)
    many = Normals(
        torch.full((20,), 1 / 20, dtype=torch.float64).log(),
        many.means.repeat(20, 1),
        many.roots.repeat(20, 1, 1),
    )
    options = {"n_particles": 128, "n_draws": 1000, "generator": generator(0)}
    assert not improved(target, Objective("IW"), [many, many], **options)
    assert 500 < target.n_evals <= 1000
