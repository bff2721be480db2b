"""Every distribution of an observation keeps the same promises, with all shapes and types checked."""

import itertools
import re

import pytest
import torch
from torch.testing import assert_close

from kvae_nb.models.distributions import Emission, emission
from kvae_nb.models.sequence import SequenceVAE
from kvae_nb.models.sequence_parts import SequenceConfig

TEXTS = (
    "categorical(3)",
    "bernoulli(4)",
    "bernoulli(2, 3)",
    "binomial(6)",
    "beta()",
    "normal(3)",
    "mixture(2, normal(2))",
    "mixture(2, categorical(3))",
    "mixture(2, bernoulli(2, 2))",
    "levels(2, 8, 2)",
    "nade(5, 4)",
    "repeated(beta(), 3)",
    "repeated(categorical(4), 2)",
    "repeated(mixture(2, categorical(3)), 2)",
    "together(place=normal(2), hit=bernoulli(1), hand=categorical(4))",
    "together(scores=repeated(beta(), 4), count=mixture(2, categorical(3)))",
    "frames(8, 1, 4, filters=2)",
    "frames(8, 3, 4, pixels='gaussian', filters=2)",
    "waves(160, 6, filters=2)",
)
SMOOTH = ("beta()", "normal(3)", "repeated(beta(), 3)")


def case(text, *batch, dtype=torch.float32):
    "An emission, features, noise and a sample."
    kind = emission(text).to(dtype)
    h = torch.randn(*batch, kind.features, dtype=dtype)
    noise = kind.draw(*batch, like=h)
    return kind, h, noise, kind.sample(h, noise)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.parametrize("text", TEXTS)
def test_shapes(text, batch):
    kind, h, noise, x = case(text, *batch)
    assert isinstance(kind, Emission) and noise.shape == (*batch, kind.draws)
    assert x.shape == (*batch, *kind.event) and kind.embed(x).shape == (*batch, kind.embedded)
    assert x.dtype == (torch.int64 if kind.discrete else torch.float32)
    assert kind.log_prob(h, x).shape == batch and kind.log_prob(h, x).isfinite().all()
    assert kind.mean(h).shape == (*batch, *((kind.embedded,) if kind.discrete else kind.event))
    blank = kind.blank(*batch, like=x)
    assert blank.shape == x.shape and blank.dtype == x.dtype
    assert kind.log_prob(h, blank).isfinite().all() and kind.embed(blank).isfinite().all()


@pytest.mark.parametrize("text", TEXTS)
def test_a_row_of_a_batch_does_not_depend_on_the_others(text):
    kind, h, noise, x = case(text, 2, 3, dtype=torch.float64)
    for i, j in itertools.product(range(2), range(3)):
        assert_close(kind.log_prob(h[i, j], x[i, j]), kind.log_prob(h, x)[i, j])
        assert_close(kind.sample(h[i, j], noise[i, j]), x[i, j])
        assert_close(kind.mean(h[i, j]), kind.mean(h)[i, j])


@pytest.mark.parametrize("text", TEXTS)
def test_noise_is_an_input_and_comes_from_the_generator(text):
    kind, h, noise, x = case(text, 4)
    assert_close(kind.sample(h, noise), x, rtol=0, atol=0)
    draws = [kind.draw(4, generator=torch.Generator().manual_seed(3), like=h) for _ in range(2)]
    assert torch.equal(*draws)
    assert kind.draw(4, like=h.double()).dtype == torch.float64
    assert kind.draw(4, like=torch.zeros(2, dtype=torch.int64)).dtype == torch.float32


ROUNDED = [t for t in TEXTS if re.search("nade|binomial|beta", t)]  # at temperature 0 a numerical inverse is left


@pytest.mark.parametrize("text", [t for t in TEXTS if t not in ROUNDED])
def test_at_temperature_zero_there_is_no_chance(text):
    kind, h, noise, _ = case(text, 5)
    other = kind.draw(5, like=h)
    assert_close(kind.sample(h, noise, temperature=0.0), kind.sample(h, other, temperature=0.0))


@pytest.mark.parametrize("text", ROUNDED)
def test_a_low_temperature_leaves_less_chance(text):
    torch.manual_seed(0)
    kind = emission(text)
    h = torch.randn(kind.features).expand(500, -1)
    spread = lambda temperature: kind.sample(h, kind.draw(500, like=h), temperature).var(0).sum()
    assert spread(0.05) < 0.5 * spread(1.0)


@pytest.mark.parametrize("text", TEXTS)
def test_gradients_are_those_of_finite_differences(text):
    kind, h, noise, x = case(text, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda h: kind.log_prob(h, x), h.requires_grad_())
    if text in SMOOTH:
        assert torch.autograd.gradcheck(lambda h: kind.sample(h, noise), h, rtol=1e-3, atol=1e-5)


ALL = {
    "repeated(categorical(4), 2)": itertools.product(range(4), repeat=2),
    "repeated(mixture(2, categorical(3)), 2)": itertools.product(range(3), repeat=2),
    "mixture(3, bernoulli(4))": itertools.product((0, 1), repeat=4),
    "mixture(2, nade(4, 3))": itertools.product((0, 1), repeat=4),
    "nade(8, 5)": itertools.product((0, 1), repeat=8),
    "together(a=categorical(3), b=bernoulli(2), c=binomial(3))": itertools.product(range(3), (0, 1), (0, 1), range(4)),
    "levels(2, 16, 3)": itertools.product([-1 + 2 * k / 15 for k in range(16)], repeat=2),
}


@pytest.mark.parametrize("text", ALL)
def test_probabilities_of_everything_that_there_is_sum_to_one(text):
    kind, every = emission(text).double(), torch.tensor(list(ALL[text]), dtype=torch.float64)
    h = 3 * torch.randn(4, 1, kind.features, dtype=torch.float64)
    total = kind.log_prob(h.expand(4, len(every), -1), every.expand(4, *every.shape)).exp().sum(-1)
    assert_close(total, torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-6)


def test_half_precision_features_give_full_log_probabilities():
    for text in ("categorical(3)", "bernoulli(4)", "normal(3)", "mixture(2, normal(2))", "levels(2, 8, 2)"):
        kind, h, _, x = case(text, 6)
        assert kind.log_prob(h.bfloat16(), x).dtype == torch.float32
        assert_close(kind.log_prob(h.bfloat16(), x), kind.log_prob(h.bfloat16().float(), x))


@pytest.mark.parametrize("latent", ["none", "independent", "vrnn", "srnn", "markov"])
@pytest.mark.parametrize("pixels", ["bernoulli", "gaussian"])
def test_every_sequence_model_runs_on_films(latent, pixels):
    text = f"frames(8, 1, 4, pixels={pixels!r}, filters=2)"
    config = SequenceConfig(latent, text, dim_z=2, rnn_units=(5,), encoder=(6,), decoder=(6,), latent_layers=(6,))
    model, x = SequenceVAE(config), torch.rand(3, 4, 1, 8, 8).round()
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[1, 2] = False
    noise = model.noise(3, 4)
    terms = model.elbo(x, mask, noise=noise)
    terms.elbo.sum().backward()
    silent = [
        k for k, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.isfinite().all())
    ]
    assert not silent, silent
    assert terms.elbo.isfinite().all()
    x[1, 2] = torch.nan
    assert_close(model.elbo(x, mask, noise=noise).elbo, terms.elbo)
