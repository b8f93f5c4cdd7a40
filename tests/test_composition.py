"""What the parameter family says, and in which order components are."""

import pytest
import torch

from skmdn.composition import Composition
from skmdn.families import Gumbel, Laplace, Logistic, Normal, PointMass
from tests.helpers import tensor


def test_one_family_stands_for_all_components():
    made = Composition.make("laplace", 3)
    assert made.parts == [(Laplace(), 3)]
    assert made.names is None
    assert made.order() == [0, 1, 2]


def test_equal_families_share_a_block_and_keep_their_places():
    made = Composition.make(["normal", Gumbel(), Normal()], 7)
    assert made.n_components == 3
    assert made.parts == [(Normal(), 2), (Gumbel(), 1)]
    assert made.places == ((0, 2), (1,))
    # Computed: normal, normal, Gumbel.
    assert made.order() == [0, 2, 1]
    # Two members: the normals of both, then the Gumbels of both.
    assert made.order(2) == [0, 4, 1, 2, 5, 3]


def test_keys_are_names_and_any_string_will_do():
    made = Composition.make({"a": "normal", "a__b": "logistic", "": "normal"}, 1)
    assert made.names == ("a", "a__b", "")
    assert made.parts == [(Normal(), 2), (Logistic(), 1)]


@pytest.mark.parametrize("family", [[], {}, ()])
def test_no_component_is_an_error(family):
    with pytest.raises(ValueError, match="family is empty"):
        Composition.make(family, 5)


@pytest.mark.parametrize("family", ["student", ["normal", "gauss"], {"a": "b"}])
def test_unknown_names_are_errors(family):
    with pytest.raises(ValueError, match="is not known: use one of"):
        Composition.make(family, 5)


def test_the_covariance_type_is_for_normal_components():
    made = Composition.make(["normal", "laplace"], 1, "full")
    assert made.families[0].covariance_type == "full"
    assert made.families[1] == Laplace()


def test_units_and_mirrors_are_those_that_all_allow():
    assert Composition.make(["normal", "laplace"], 1).mirrors
    assert not Composition.make(["normal", "gumbel"], 1).mirrors
    assert Composition.make(["normal", "gumbel"], 1).units == "location-scale"


def test_every_finite_number_is_in_the_support_of_the_real_line():
    made = Composition.make("normal", 2)
    y = tensor([[0.0, 1.0], [torch.inf, 0.0]])
    assert made.contains(y).tolist() == [True, False]
    assert made.support() == "all real numbers"


def test_a_row_of_ends_is_allowed_if_one_component_allows_all_of_it():
    made = Composition.make(["gamma", PointMass(0.0)], 1)
    nan, inf = torch.nan, torch.inf
    low = tensor([[0.0, 0.0], [0.0, 1.0], [-1.0, nan], [-3.0, 2.0], [-1.0, 1.0]])
    high = tensor([[0.0, 0.0], [0.0, 1.0], [0.5, nan], [-2.0, inf], [inf, 1.0]])
    expected = [True, False, True, False, True]
    assert made.allows(low, high).tolist() == expected
