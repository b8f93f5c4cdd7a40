"""Objects that are their parameters: compared, shown, cloned, changed."""

import numpy as np
import pytest
import torch
from sklearn.base import clone

from skmdn.configurable import Configurable


class Ball(Configurable):
    def __init__(self, radius=1.0, *, center=None):
        self.radius = radius
        self.center = center


class Box(Configurable):
    def __init__(self, radius=1.0, *, center=None):
        self.radius = radius
        self.center = center


@pytest.mark.parametrize(
    "center", [None, (0.0, 1.0), np.arange(2.0), torch.arange(2.0), {"a": [np.ones(2)]}]
)
def test_equal_are_those_with_equal_parameters(center):
    ball = Ball(2.0, center=center)
    assert clone(ball) == ball
    assert ball != Ball(2.0, center=(5.0,))
    assert ball != Box(2.0, center=center)


def test_parameters_can_be_read_and_set():
    ball = Ball()
    assert ball.get_params() == {"radius": 1.0, "center": None}
    assert ball.set_params(radius=3) is ball
    assert repr(ball) == "Ball(radius=3, center=None)"
    with pytest.raises(ValueError, match="Ball has no parameter 'size', only radius,"):
        ball.set_params(size=2)


def test_what_can_change_has_no_hash():
    with pytest.raises(TypeError, match="unhashable"):
        hash(Ball())
