"""Training on the bound of a particle filter, against the differentiable estimate and an exact likelihood."""

import copy
import math

import pytest
import torch
from test_sequence_models import dense_log_prob, linear_srnn, small
from torch.testing import assert_close

from kvae_nb.core.errors import InputError
from kvae_nb.data.films import Batch
from kvae_nb.evaluation.bounds import BoundNoise, drawn, weigh
from kvae_nb.models.kvae import KVAE
from kvae_nb.models.sequence import SequenceNoise, SequenceVAE
from kvae_nb.models.sequence_parts import SequenceConfig
from kvae_nb.training.config import TrainConfig
from kvae_nb.training.particle_bound import ParticleBound, bound_of
from kvae_nb.training.step import draw, make_trainer, reseed, train_step, update

CHAINS = [{"latent": "srnn"}, {"latent": "markov"}, {"latent": "vrnn"}, {"latent": "independent"}]


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("kind", CHAINS, ids=lambda k: k["latent"])
@pytest.mark.parametrize("resample", ["never", "half", "always"])
def test_value_and_gradient_are_those_of_the_estimate(kind, resample):
    model, x, mask = small(kind, "normal(2)"), torch.randn(3, 7, 2).double(), torch.rand(3, 7) < 0.7
    draws = ParticleBound(model, 5).noise(3, 7)
    terms = ParticleBound(model, 5, resample)(x, mask, None, draws)
    given = drawn(BoundNoise(draws.normal.transpose(1, 2), draws.uniform))
    found = weigh(model, Batch(x, mask, None), 5, given, resample).total
    assert_close(terms.elbo, found)
    assert_close(gradients(model, terms.elbo.sum()), gradients(model, found.sum()))
    assert terms.frames.tolist() == mask.sum(1).tolist()


def test_one_particle_is_the_bound_by_drawing():
    model, x = small({"latent": "srnn"}, "normal(2)", scale=1.0, exact_kl=False), torch.randn(3, 7, 2).double()
    draws = ParticleBound(model, 1).noise(3, 7)
    one, plain = ParticleBound(model, 1)(x, None, None, draws), model(x, None, None, SequenceNoise(draws.normal[:, 0]))
    assert_close(list(one[:4]), list(plain[:4]))


def test_many_particles_come_to_the_evidence():
    "The log-likelihood of a linear model, from the joint Gaussian of all steps."
    model, numbers = linear_srnn()
    x = model.generate(6, 4, generator=torch.Generator().manual_seed(0)).frames.detach()
    exact, _ = dense_log_prob(model, numbers, x)
    model.latent.posterior = lambda now, a, prior: prior  # a bootstrap filter
    bound = ParticleBound(model, 256, "half")
    with torch.no_grad():
        found = torch.stack([bound(x, None, None, bound.noise(4, 6)).elbo for _ in range(20)])
    error = found.std(0) / 20**0.5
    assert (found.mean(0) <= exact + 4 * error).all()
    assert_close(found.mean(0), exact, rtol=0, atol=0.1)


def test_a_step_of_training():
    "The gradient of a step is that of the bound, per observed step, and random numbers alone decide it."
    torch.manual_seed(0)
    model = SequenceVAE(SequenceConfig("srnn", "normal(2)", dim_z=3, rnn_units=(6,), context_drop=0.5))
    config = TrainConfig(device="cpu", join={}, samples=4, bound="fivo", reconstruction_weight=1.0, clip=1e12, lr=1e-9)
    batch = Batch(torch.randn(5, 6, 2), torch.rand(5, 6) < 0.8, None)
    t = make_trainer(model, config)
    reseed(config, "train", 0)
    draws = draw(t, 5, 6, (2,))
    terms = t.bound(*batch, draws.noise)
    found = gradients(model, -terms.elbo.sum() / batch.mask.sum())
    taken = update(t, batch, draws, 0)
    assert_close([p.grad for p in model.parameters() if p.grad is not None], found)
    assert_close(taken.terms.elbo, terms.elbo.detach())
    assert draws.noise.drop.any() and draws.noise.normal.shape == (5, 4, 6, 3)


def test_trainings_go_on_alike():
    "Two trainings from the same seed take the same steps, and the loss falls."
    torch.manual_seed(0)
    x = torch.cumsum(torch.randn(16, 10, 1), 1) / 3
    one = SequenceVAE(SequenceConfig("markov", "normal(1)", dim_z=2, rnn_units=(8,), latent_layers=(8,)))
    two, ends = copy.deepcopy(one), []
    for model in (one, two):
        t = make_trainer(model, TrainConfig(device="cpu", join={}, samples=3, bound="fivo", lr=0.02, clip=1.0))
        ends.append([train_step(t, Batch(x, None, None), 0.0, k).terms.elbo.mean().item() for k in range(40)])
    assert ends[0] == ends[1] and all(map(math.isfinite, ends[0]))
    assert sum(ends[0][-5:]) > sum(ends[0][:5])


def test_what_cannot_be_trained_so_is_told_in_a_sentence():
    config = TrainConfig(bound="fivo", samples=4)
    for model, words in (
        (KVAE(), "cannot be run step by step .* model.particles"),
        (SequenceVAE(SequenceConfig("none", "normal(1)")), "has no latents"),
    ):
        with pytest.raises(InputError, match=words):
            bound_of(model, config)
    with pytest.raises(InputError, match="train.samples"):
        bound_of(SequenceVAE(SequenceConfig("srnn", "normal(1)")), TrainConfig(bound="fivo"))
