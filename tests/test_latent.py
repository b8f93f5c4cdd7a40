"""Torch modules of latent mixtures, and each defect of those they take the place of."""

import copy
import io
import math
import pickle

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp

from skmdn import MAPGaussianMixture
from skmdn.latent import (
    GaussianMixture,
    RepresentationLayer,
    SupervisedGaussianMixture,
)
from skmdn.priors import Dirichlet, LogNormalScale, Softball
from tests.helpers import generator

COVARIANCE_TYPES = ["diagonal", "isotropic", "fixed", "full", "tied"]


def random_module(kind, *sizes, covariance_type="diagonal", **kwargs):
    """Return a module in double precision with parameters of no symmetry."""
    module = kind(*sizes, covariance_type, generator=generator(), **kwargs).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.4 * torch.randn(parameter.shape, generator=generator(1))
    return module


def points(n, dim, seed=2):
    return torch.randn(n, dim, dtype=torch.float64, generator=generator(seed))


def reference(module, x):
    """Return log w_k + log N_k(x) by scipy."""
    weights = torch.softmax(module.weight, 0).detach().numpy()
    means, columns = module.mean.detach().numpy(), []
    for k, weight in enumerate(weights):
        covariance = module.covariance.detach()[k].numpy()
        covariance = covariance if covariance.ndim == 2 else np.diag(covariance)
        law = stats.multivariate_normal(means[k], covariance)
        columns.append(np.log(weight) + law.logpdf(x))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_the_log_density_is_that_of_scipy(covariance_type):
    module = random_module(GaussianMixture, 3, 2, covariance_type=covariance_type)
    x = points(7, 2)
    joint = reference(module, x)
    expected = logsumexp(joint, axis=1)
    np.testing.assert_allclose(module.log_prob(x).detach(), expected, rtol=1e-10)
    np.testing.assert_allclose(module(x).detach(), -expected, rtol=1e-10)
    np.testing.assert_allclose(module.sample_probs(x).detach(), np.exp(joint))
    shares = np.exp(joint - expected[:, None])
    np.testing.assert_allclose(module.responsibilities(x).detach(), shares)
    np.testing.assert_array_equal(module.clustering(x), joint.argmax(1))
    variances = module.covariance
    if variances.ndim == 3:
        variances = variances.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(module.stddev.square(), variances)


def test_the_prior_stands_apart_and_counts_once():
    module = random_module(
        GaussianMixture, 3, 2, mean_init=(2.0, 5.0), sd_init=(0.3, 0.7), weight_alpha=2
    )
    sd = module.stddev.detach().numpy()
    expected = (
        Softball(2.0, 5.0).log_prob(module.mean).sum()
        + stats.norm.logpdf(-2 * np.log(sd), -2 * math.log(0.3), 0.7).sum()
        + stats.dirichlet.logpdf(module.mixture_probs().detach(), [2.0, 2.0, 2.0])
    )
    torch.testing.assert_close(module.log_prior(), expected)
    one, many = points(1, 2), points(1, 2).expand(50, 2)
    torch.testing.assert_close(module(many), module(one).expand(50))


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_training_finds_clusters(covariance_type):
    truth = torch.tensor([[-2.0, 0.0], [2.0, 1.0]])
    x = truth[torch.arange(400) % 2].double() + 0.3 * points(400, 2)
    module = GaussianMixture(
        2, 2, covariance_type, (4.0, 20.0), (0.3, 1.0), generator=generator(3)
    ).double()
    optimiser = torch.optim.LBFGS(module.parameters(), max_iter=300)

    def closure():
        optimiser.zero_grad()
        loss = module(x).sum() - module.log_prior()
        loss.backward()
        return loss

    optimiser.step(closure)
    found = module.mean.detach()
    found = found[found[:, 0].argsort()]
    error = 4 * 0.3 / math.sqrt(200)
    assert (found - truth).abs().max() < error
    labels = module.clustering(x)
    assert (labels[::2] == labels[0]).all()
    assert (labels[1::2] != labels[0]).all()


# Defects of the modules this one takes the place of, by name.


@pytest.mark.draws_from_torch
@pytest.mark.parametrize("kind", [GaussianMixture, SupervisedGaussianMixture])
def test_default_constructor_does_not_crash(kind):
    module = kind(2, 3) if kind is GaussianMixture else kind(2, 1, 3)
    assert module(torch.zeros(4, 3)).isfinite().all()
    assert module.log_prior().isfinite()


@pytest.mark.draws_from_torch
def test_a_radius_of_zero_is_refused_by_name():
    with pytest.raises(ValueError, match="radius of Softball must be positive"):
        GaussianMixture(2, 3, mean_init=(0.0, 1.0))


@pytest.mark.draws_from_torch
def test_fixed_covariance_is_initialised_and_not_learned():
    module = GaussianMixture(3, 2, "fixed", sd_init=(0.25, 1.0))
    np.testing.assert_allclose(module.stddev.detach(), 0.25, rtol=1e-6)
    assert "neglogvar" not in dict(module.named_parameters())
    assert "neglogvar" in module.state_dict()
    assert module.log_prior().isfinite()


@pytest.mark.draws_from_torch
def test_many_components_do_not_round_the_scale_to_zero():
    module = GaussianMixture(100, 2, sd_init=(0.2 * 2 / 100, 1.0))
    assert module.log_prior().isfinite()


@pytest.mark.draws_from_torch
def test_far_points_are_not_all_given_to_the_first_cluster():
    module = GaussianMixture(4, 20, "diagonal", sd_init=(0.08, 1.0))
    with torch.no_grad():
        module.mean.copy_(torch.arange(4.0)[:, None].expand(4, 20))
    x = torch.full((1, 20), 4.5)
    assert (module.sample_probs(x) == 0.0).all()
    assert module.clustering(x).tolist() == [3]
    assert module.clustering(x).dtype == torch.int64
    torch.testing.assert_close(module.responsibilities(x).sum(1), torch.ones(1))


@pytest.mark.draws_from_torch
def test_far_means_and_the_origin_have_finite_priors_and_gradients():
    for distance in (0.0, 40.0, 1e6):
        module = GaussianMixture(2, 2, mean_init=(2.0, 5.0))
        with torch.no_grad():
            module.mean.fill_(distance)
        module.log_prior().backward()
        assert module.mean.grad.isfinite().all()


@pytest.mark.draws_from_torch
def test_sample_new_points_knows_two_ways_only():
    module = random_module(GaussianMixture, 3, 2)
    means = module.sample_new_points("mean")
    torch.testing.assert_close(means, module.mean.detach())
    means += 1.0
    assert (means != module.mean).all()
    assert module.sample_new_points("sample", 5).shape == (15, 2)
    with pytest.raises(ValueError, match="resample_type='samples'"):
        module.sample_new_points("samples")


def test_draws_follow_the_parameters_and_a_generator():
    module = random_module(GaussianMixture, 3, 2, covariance_type="full")
    n = 20_000
    draws = module.component_sample(n, generator(5))
    assert draws.shape == (n, 3, 2)
    assert not draws.requires_grad
    error = module.stddev.detach() / math.sqrt(n)
    assert ((draws.mean(0) - module.mean.detach()).abs() < 4 * error).all()
    again = module.component_sample(n, generator(5))
    torch.testing.assert_close(again, draws)
    mixed = module.sample(n, generator(6))
    mean = module.mixture().mean().detach()
    error = module.mixture().variance().sqrt().detach() / math.sqrt(n)
    assert ((mixed.mean(0) - mean).abs() < 4 * error).all()


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("n_each", [1, 3])
def test_a_class_is_the_sum_over_its_components(covariance_type, n_each):
    module = random_module(
        SupervisedGaussianMixture, 2, n_each, 2, covariance_type=covariance_type
    )
    x, label = points(6, 2), [0, 1, 1, 0, -1, -1]
    joint = reference(module, x).reshape(6, 2, n_each)
    by_class = logsumexp(joint, axis=2)
    expected = [
        by_class[i, c] if c >= 0 else logsumexp(by_class[i])
        for i, c in enumerate(label)
    ]
    found = module.log_prob(x, label)
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-10)
    np.testing.assert_allclose(module(x, label).detach(), -np.array(expected))
    np.testing.assert_allclose(
        module.log_prob(x).detach(), logsumexp(by_class, axis=1), rtol=1e-10
    )


@pytest.mark.draws_from_torch
def test_class_weights_are_learned_from_labels():
    module = SupervisedGaussianMixture(2, 1, 2, alpha=None)
    module(torch.zeros(4, 2), torch.tensor([0, 0, 0, 1])).sum().backward()
    # Minus the counts plus what the weights expect, 2 of 4 each.
    torch.testing.assert_close(module.weight.grad, torch.tensor([-1.0, 1.0]))


def test_unlabelled_rows_attract_the_mixture():
    module = SupervisedGaussianMixture(2, 1, 2, generator=generator())
    x, unknown = torch.ones(3, 2), torch.full((3,), -1)
    before = module.log_prob(x, unknown).sum().item()
    optimiser = torch.optim.SGD(module.parameters(), 0.05)
    module(x, unknown).mean().backward()
    optimiser.step()
    assert module.log_prob(x, unknown).sum().item() > before


@pytest.mark.draws_from_torch
def test_labels_that_are_no_class_are_refused():
    module = SupervisedGaussianMixture(2, 1, 2)
    for wrong in (2, 999, -2):
        with pytest.raises(ValueError, match=f"label must lie.*got {wrong}"):
            module.log_prob(torch.zeros(1, 2), [wrong])
    with pytest.raises(ValueError, match="label must lie between 0 and 1; got -1"):
        module.supervised_sampling([-1])
    with pytest.raises(TypeError, match="label must hold integers"):
        module.log_prob(torch.zeros(1, 2), [0.5])


@pytest.mark.draws_from_torch
def test_the_thousandth_class_is_a_class_like_others():
    module = SupervisedGaussianMixture(1000, 1, 2).double()
    x = points(2, 2)
    joint = reference(module, x)
    expected = [joint[0, 999], logsumexp(joint[1])]
    np.testing.assert_allclose(module.log_prob(x, [999, -1]).detach(), expected)


@pytest.mark.draws_from_torch
def test_densities_above_one_keep_their_sign():
    module = SupervisedGaussianMixture(2, 1, 2, sd_init=(0.01, 1.0))
    at_mean = module.mean.detach()[:1]
    for label in ([0], [-1]):
        assert module.log_prob(at_mean, label).item() > 0.0
        assert module(at_mean, label).item() < 0.0


def test_label_mixture_probs_are_within_classes_not_across_rows():
    module = random_module(SupervisedGaussianMixture, 3, 2, 2)
    weights = module.label_mixture_probs([0, 2, 2, 1])
    assert weights.shape == (4, 2)
    torch.testing.assert_close(weights.sum(1), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(weights[1], weights[2])
    assert module.label_mixture_probs(1).shape == (2,)


@pytest.mark.draws_from_torch
def test_supervised_sampling_draws_from_the_class():
    module = SupervisedGaussianMixture(3, 2, 2, sd_init=(0.01, 1.0))
    with torch.no_grad():
        module.mean.copy_(10.0 * torch.arange(6.0)[:, None].expand(6, 2))
    label = torch.tensor([1, 0, 2]).repeat(50)
    for sample_type in ("random", "mean"):
        draws = module.supervised_sampling(label, sample_type, generator(1))
        assert draws.shape == (150, 2)
        component = (draws[:, 0] / 10.0).round().long()
        torch.testing.assert_close(component // 2, label)
        assert len(component.unique()) == 6
    with pytest.raises(ValueError, match="sample_type='all'"):
        module.supervised_sampling(label, "all")


def test_representations_begin_where_they_are_told():
    assert (RepresentationLayer(2, 3).z == 0.0).all()
    assert (RepresentationLayer(2, 3, 0.5).z == 0.5).all()
    five = RepresentationLayer(2, 3, 5).z
    assert five.shape == (3, 2)
    assert (five == 5.0).all()
    array = np.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(RepresentationLayer(2, 3, array).z.detach(), array)
    for wrong in (np.zeros((2, 3)), torch.zeros(3)):
        with pytest.raises(ValueError, match=r"value_init has shape.*\(3, 2\)"):
            RepresentationLayer(2, 3, wrong)
    with pytest.raises(ValueError, match="value_init='one'"):
        RepresentationLayer(2, 3, "one")


def test_the_tensor_of_the_user_is_not_moved():
    values = torch.ones(3, 2)
    layer = RepresentationLayer(2, 3, values)
    optimiser = torch.optim.SGD(layer.parameters(), 0.1)
    layer([0, 2]).sum().backward()
    optimiser.step()
    assert (values == 1.0).all()
    np.testing.assert_allclose(layer.z[1].detach(), 1.0)
    np.testing.assert_allclose(layer.z[0].detach(), 0.9, rtol=1e-6)
    assert layer().shape == (3, 2)


@pytest.mark.draws_from_torch
def test_priors_can_be_objects_or_absent():
    module = GaussianMixture(
        2,
        2,
        mean_init=Softball(3.0),
        sd_init=LogNormalScale(0.1),
        weight_alpha=Dirichlet([1.0, 2.0]),
    )
    assert module.log_prior().isfinite()
    flat = GaussianMixture(2, 2, mean_init=None, sd_init=None, weight_alpha=None)
    assert flat.log_prior() == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 2), "n_mix_comp must be a positive integer, got 0"),
        ((2, 2.0), "dim must be a positive integer, got 2.0"),
        ((2, 2, "round"), "covariance_type='round' is not known"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(*arguments)


@pytest.mark.draws_from_torch
def test_modules_can_be_copied_saved_and_pickled():
    module = random_module(SupervisedGaussianMixture, 2, 2, 3, covariance_type="full")
    x = points(4, 3)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other = SupervisedGaussianMixture(2, 2, 3, "full").double()
    other.load_state_dict(torch.load(file, weights_only=True))
    for same in (other, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        torch.testing.assert_close(same.log_prob(x), module.log_prob(x))


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical", "fixed"])
def test_estimator_and_module_are_one_mixture(kind):
    rng = np.random.RandomState(0)
    X = rng.normal(size=(200, 3)) @ np.diag([1.0, 2.0, 0.5]) + rng.randint(
        0, 2, (200, 1)
    )
    priors = {
        "weights_prior": Dirichlet(2.0),
        "means_prior": Softball(3.0),
        "scales_prior": None if kind == "fixed" else LogNormalScale(0.7),
    }
    model = MAPGaussianMixture(2, covariance_type=kind, random_state=0, **priors).fit(X)
    module = model.to_torch()
    x = torch.tensor(X)
    np.testing.assert_allclose(module.log_prob(x).detach(), model.score_samples(X))
    assert module.log_prior().item() == pytest.approx(model.log_prior_, rel=1e-9)
    posterior = module.log_prob(x).sum() + module.log_prior()
    assert posterior.item() == pytest.approx(model.log_posterior_, rel=1e-9)
    back = MAPGaussianMixture.from_torch(module, tol=0.5)
    np.testing.assert_allclose(back.score_samples(X), model.score_samples(X))
    assert back.get_params() == {**model.get_params(), "tol": 0.5, "random_state": None}
    # What expectation maximisation has found, gradients leave where it is.
    (-posterior / len(X)).backward()
    assert max(p.grad.abs().max() for p in module.parameters()) < 0.05
