"""Products that are made again and again, by either library."""

import pytest
import torch

from skmdn.learning import products
from skmdn.learning.products import product, product_anywhere
from tests.helpers import randn

SHAPES = [(1, 3, 4, 5), (3, 7, 2, 6)]


def operands(n_members, n_rows, n_inner, n_columns, dtype, transposed):
    left = randn(n_members, n_rows, n_inner).to(dtype)
    right = randn(n_members, n_inner, n_columns, seed=1).to(dtype)
    if transposed:
        left, right = left.mT.contiguous().mT, right.mT.contiguous().mT
    # Where parameters of several layers are side by side.
    out = torch.zeros(n_members, n_rows * n_columns + 3, dtype=dtype)[:, 1:-2]
    return left, right, out.view(n_members, n_rows, n_columns)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("large", [1, 10**9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("make", [product, product_anywhere])
def test_products_follow_their_operands(
    monkeypatch, make, shape, dtype, large, transposed
):
    monkeypatch.setattr(products, "_LARGE", large)
    left, right, out = operands(*shape, dtype, transposed)
    run = make(left, right, out)
    for _ in range(2):
        left.mul_(2.0)
        found = run()
        assert make is product_anywhere or found is out
        tolerance = 20 * torch.finfo(dtype).eps
        expected = left.double() @ right.double()
        torch.testing.assert_close(
            found.double(), expected, rtol=tolerance, atol=10 * tolerance
        )


def test_what_is_not_there_is_not_used(monkeypatch):
    monkeypatch.setattr(products, "_LARGE", 1)
    monkeypatch.setattr(products, "_linear", None)
    left, right, out = operands(*SHAPES[1], torch.float32, False)
    product(left, right, out)()
    torch.testing.assert_close(out, left @ right)
