"""Codes to begin with: the linear map, and which candidates there are."""

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge

from skmdn import em
from skmdn.decoding.guess import LinearGuess, candidates
from skmdn.decoding.objective import Joint
from skmdn.decoding.prior import CodePrior
from tests.decoding.helpers import joint_of, latent_block, normal

CLASSES = em.Classes(torch.tensor([0, 1, 1]), 2)


def fitted(n_axes=3):
    """Return a guess, and the rows and codes it was learned from."""
    rows, codes = normal(40, 5), normal(40, 2, seed=1)
    axes = torch.from_numpy(PCA(n_axes).fit(rows.numpy()).components_.T.copy())
    return LinearGuess.fit(rows, rows.mean(0), axes, codes), rows, codes, axes


def test_the_map_is_ridge_regression_on_principal_components():
    guess, rows, codes, axes = fitted()
    scores = ((rows - rows.mean(0)) @ axes).numpy()
    alpha = 1e-3 * np.square(scores).sum(axis=0).mean()
    expected = Ridge(alpha).fit(scores, codes.numpy()).predict(scores)
    np.testing.assert_allclose(guess(rows), expected, rtol=1e-10)


def test_the_mean_row_has_the_mean_code():
    guess, rows, codes, _ = fitted()
    torch.testing.assert_close(guess(rows.mean(0, keepdim=True))[0], codes.mean(0))


def linear_of(joint):
    """Return any map from the features of a model's rows to its codes."""
    n_inputs = sum(joint.blocks.sizes)
    return LinearGuess(
        normal(n_inputs, seed=5),
        normal(n_inputs, joint.prior.n_latent, seed=6),
        normal(joint.prior.n_latent, seed=7),
    )


def test_candidates_are_the_guess_and_each_mean():
    joint, table = joint_of()
    guess = linear_of(joint)
    found = candidates(joint, guess, table, None)
    assert found.shape == (5, 4, 2)
    torch.testing.assert_close(found[:, 0], guess(joint.blocks.features(table)))
    means = joint.prior.blocks[0].parameters.means[0]
    torch.testing.assert_close(found[:, 1:], means.expand(5, -1, -1))


def test_missing_values_are_the_center_and_then_what_the_first_guess_decodes():
    joint, _ = joint_of()
    guess, x = linear_of(joint), normal(5, 3, seed=8)
    x[:, 1] = torch.nan
    table = joint.blocks.table(x)
    found = candidates(joint, guess, table, None)
    assert found.shape == (5, 5, 2)
    filled = joint.blocks.features(table)
    filled[:, 1] = guess.center[1]
    torch.testing.assert_close(found[:, 0], guess(filled))
    with torch.no_grad():
        filled[:, 1] = joint.network(found[:, 0])[:, 1]
    torch.testing.assert_close(found[:, 1], guess(filled))


def test_a_known_class_begins_at_its_mean():
    joint, table = joint_of()
    block = latent_block(classes=CLASSES)
    joint = Joint(joint.network, joint.blocks, CodePrior([block]))
    guess = linear_of(joint)
    labels = torch.tensor([[0], [1], [-1], [0], [-1]])
    first = candidates(joint, guess, table, labels)[:, 0]
    free = candidates(joint, guess, table, None)[:, 0]
    torch.testing.assert_close(first[[2, 4]], free[[2, 4]])
    torch.testing.assert_close(first[[0, 1, 3]], block.class_means()[[0, 1, 0]])


def test_candidates_of_a_row_do_not_depend_on_the_others():
    joint, table = joint_of(("gaussian", "poisson"))
    guess = linear_of(joint)
    together = candidates(joint, guess, table, None)
    for row in torch.arange(5).split(1):
        alone = candidates(joint, guess, table.of(row), None)
        torch.testing.assert_close(alone, together[row], rtol=0, atol=1e-13)
