"""Priors as objects with parameters: scikit-learn's clone and search, equality."""

import copy
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone

from skmdn.priors import Dirichlet, InverseGamma, LogNormalScale
from tests.helpers import generator

PRIORS = [Dirichlet(0.5), InverseGamma(2.0, 0.1), LogNormalScale(0.3, sd_sd=2.0)]


@pytest.mark.parametrize("prior", PRIORS, ids=repr)
def test_a_prior_is_its_parameters(prior):
    params = prior.get_params()
    for copied in (
        type(prior)(**params),
        clone(prior),
        copy.deepcopy(prior),
        pickle.loads(pickle.dumps(prior)),
        eval(repr(prior)),
    ):
        assert copied is not prior
        assert copied == prior
        assert copied.get_params(deep=False) == params
    assert prior.get_params(deep=True) == params


def test_parameters_are_set_by_name():
    prior = InverseGamma(1.0, 0.2)
    assert prior.set_params(shape=3.0) is prior
    assert prior == InverseGamma(3.0, 0.2)
    with pytest.raises(ValueError, match="InverseGamma has no parameter 'rate', only"):
        prior.set_params(scale=9.0, rate=1.0)
    assert prior == InverseGamma(3.0, 0.2)


def test_parameters_are_stored_unchanged_and_looked_at_when_used():
    for value in ("many", -1.0, [], np.array([1.0, 2.0]), (1, 2)):
        assert Dirichlet(value).concentration is value


def test_equality_is_that_of_class_and_numbers():
    assert Dirichlet(1.0) == Dirichlet(1)
    assert Dirichlet((1.0, 2.0)) == Dirichlet(np.array([1.0, 2.0]))
    assert Dirichlet([1.0, 2.0]) == Dirichlet(torch.tensor([1.0, 2.0]))
    assert Dirichlet(1.0) != Dirichlet(2.0)
    assert Dirichlet([1.0, 2.0]) != Dirichlet([2.0, 1.0])
    assert InverseGamma(1.0, 2.0) != LogNormalScale(1.0, 2.0)
    assert Dirichlet(1.0) != "Dirichlet(concentration=1.0)"


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.nan, np.inf, "many", None, [1.0, 2.0]])
@pytest.mark.parametrize(
    ("prior", "name"),
    [
        (InverseGamma(), "shape"),
        (InverseGamma(), "scale"),
        (LogNormalScale(1.0), "sd_mean"),
        (LogNormalScale(1.0), "sd_sd"),
    ],
    ids=str,
)
def test_numbers_that_cannot_be_used_are_named(prior, name, wrong):
    prior = clone(prior).set_params(**{name: wrong})
    match = f"{name} of {type(prior).__name__} must be"
    with pytest.raises(ValueError, match=match):
        prior.log_prob(torch.ones(2))
    with pytest.raises(ValueError, match=match):
        prior.sample((2,), generator())
