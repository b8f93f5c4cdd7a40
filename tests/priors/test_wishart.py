"""The inverse-Wishart law against scipy, and its draws against its moments."""

import numpy as np
import pytest
import torch
from scipy.stats import invwishart

from skmdn.priors import InverseGamma, InverseWishart
from tests.helpers import generator, randn, tensor, within_standard_errors

SCALE = [[2.0, 0.5, 0.0], [0.5, 1.0, 0.2], [0.0, 0.2, 3.0]]


@pytest.mark.parametrize("df", [2.5, 4.0, 60.0])
def test_density(df):
    root = randn(5, 3, 6)
    matrices = root @ root.mT
    expected = [invwishart(df, SCALE).logpdf(one) for one in matrices.numpy()]
    found = InverseWishart(df, SCALE).log_prob(matrices)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_in_one_dimension_it_is_inverse_gamma():
    std = tensor([0.3, 1.0, 4.0])
    found = InverseWishart(5.0, 3.0).log_prob(std.square()[:, None, None])
    torch.testing.assert_close(found, InverseGamma(2.5, 1.5).log_prob(std))


def test_draws_have_the_mean_of_the_law():
    draws = InverseWishart(12.0, SCALE).sample((20_000, 3, 3), generator(1))
    assert within_standard_errors(draws.numpy(), np.array(SCALE) / 8.0, axis=0)
    assert torch.equal(draws, draws.mT) or torch.allclose(draws, draws.mT)
    assert (torch.linalg.eigvalsh(draws) > 0).all()


def test_draws_of_the_inverse_have_its_mean():
    draws = InverseWishart(4.0, SCALE).sample((20_000, 3, 3), generator(2))
    inverse = torch.linalg.inv(draws).numpy()
    assert within_standard_errors(inverse, 4.0 * np.linalg.inv(SCALE), axis=0)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"df": 1.0}, "df of InverseWishart must be more than 1 for 2 features"),
        ({"df": -1.0}, "df of InverseWishart must be positive"),
        ({"df": 3.0, "scale": SCALE}, "has shape \\(3, 3\\) for 2 features"),
        ({"df": 3.0, "scale": -1.0}, "symmetric and positive definite"),
        ({"df": 3.0, "scale": [[1.0, 0.5], [0.0, 1.0]]}, "symmetric and positive"),
    ],
)
def test_bad_parameters_are_named(params, message):
    with pytest.raises(ValueError, match=message):
        InverseWishart(**params).log_prob(torch.eye(2))
