"""Models of sequences of anything, against oracles: enumeration, quadrature, a Kalman filter, exact frequencies."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from kvae_nb.data.films import Batch
from kvae_nb.evaluation.bounds import fivo, iwae
from kvae_nb.models.sequence import SequenceNoise, SequenceVAE, divergence
from kvae_nb.models.sequence_latents import Latent
from kvae_nb.models.sequence_parts import CHOICES, SequenceConfig, contexts
from kvae_nb.models.sequence_steps import Diagonal
from kvae_nb.worlds.agents import RandomAgent
from kvae_nb.worlds.game import ToyGame

KINDS = [
    {"latent": "none"},
    {"latent": "independent"},
    {"latent": "independent", "latent_into": "decoder"},
    {"latent": "independent", "posterior": "filtering"},
    {"latent": "vrnn"},
    {"latent": "vrnn", "posterior": "smoothing"},
    {"latent": "srnn"},
    {"latent": "srnn", "posterior": "filtering"},
    {"latent": "srnn", "cell": "rnn", "residual": False},
    {"latent": "srnn", "posterior_sees_d": False, "residual": False, "history": 2},
    {"latent": "markov"},
    {"latent": "markov", "posterior": "filtering"},
    {"latent": "markov", "residual": False, "latent_layers": (7, 5)},
]
NAMES = ["-".join(str(v) for v in k.values()) for k in KINDS]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=NAMES)
FIVE = [{"latent": name} for name in CHOICES["latent"]]
each_of_five = pytest.mark.parametrize("kind", FIVE, ids=CHOICES["latent"])


def small(kind, emission="categorical(3)", dim_u=0, scale=2.0, **more):
    "A small model in double precision whose weights are large enough for everything to matter."
    sizes = dict(dim_z=2, rnn_units=(6,), encoder=(5,), decoder=(8,), latent_layers=(7,), clock=3.0)
    model = SequenceVAE(SequenceConfig(emission=emission, dim_u=dim_u, **(sizes | kind | more))).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(scale).add_(0.1 * torch.randn_like(p))
    return model


def every_sequence(symbols, steps):
    return torch.tensor(list(itertools.product(range(symbols), repeat=steps)))


@torch.no_grad()
def log_prob_by_prior(model, x, mask, u, noise):
    "log p(x_t|x_<t, z_<=t) summed over t, the latents drawn from the prior with this noise; through the steps."
    told = model.begin(x, mask, u)
    state, total = model.start(told), 0
    for t in range(x.shape[1]):
        prior, _ = model.propose(told, t, state)
        state, found = model.advance(told, t, state, prior.sample(noise[:, t]))
        total = total + found
    return total


@each_kind
@pytest.mark.parametrize("hidden", [(), (1,), (0, 2)])
def test_probabilities_of_all_sequences_sum_to_one(kind, hidden):
    model, T = small(kind, dim_u=2), 4
    x = every_sequence(3, T)
    u, noise = torch.randn(1, T, 2).double(), torch.randn(1, T, model.latent.dim_z).double()
    mask = torch.ones(len(x), T, dtype=torch.bool)
    mask[:, list(hidden)] = False
    x = x[(x[:, list(hidden)] == 0).all(1)]  # one sequence for each way the observed steps can be
    mask = mask[: len(x)]
    log_p = log_prob_by_prior(
        model, x, mask if hidden else None, u.expand(len(x), -1, -1), noise.expand(len(x), -1, -1)
    )
    assert len(x) == 3 ** (T - len(hidden))
    assert_close(log_p.exp().sum(), torch.tensor(1.0).double(), rtol=0, atol=1e-10)


@torch.no_grad()
def exact_probabilities(model, steps, samples):
    "p(x) of all sequences, the latents averaged over."
    x = every_sequence(3, steps)
    p = torch.zeros(len(x)).double()
    for _ in range(samples // 100):
        noise = torch.randn(100, 1, steps, model.latent.dim_z).double().expand(-1, len(x), -1, -1).flatten(0, 1)
        p += log_prob_by_prior(model, x.repeat(100, 1), None, None, noise).exp().view(100, -1).mean(0)
    return p / (samples // 100)


def frequencies(x):
    index = (x * 3 ** torch.arange(x.shape[1] - 1, -1, -1)).sum(1)
    return torch.bincount(index, minlength=3 ** x.shape[1]).double() / len(x)


@each_of_five
def test_sampled_frequencies_are_the_probabilities(kind):
    model, gen = small(kind, scale=2.5), torch.Generator().manual_seed(3)
    with torch.no_grad():
        x = model.generate(4, 40000, generator=gen).frames
    distance = (frequencies(x) - exact_probabilities(model, 4, 2000)).abs().sum() / 2
    assert distance < 0.06


def test_an_order_in_which_the_latent_lags_is_found():
    "vae-seq's SRNN draws x_t from d_t and the latent of the step before; that is another distribution."
    model = small({"latent": "srnn"}, scale=3.0, dim_z=1)
    right = exact_probabilities(model, 4, 2000)
    with torch.no_grad():
        found = [lagging(model, 20000) for _ in range(2)]
    distance = (frequencies(torch.cat(found)) - right).abs().sum() / 2
    assert distance > 0.2


def lagging(model, count):
    from kvae_nb.models.sequence_parts import context_now, open_context, push_context

    past, rest, xs = open_context(model.context, count), model.latent.begin(count), []
    for t in range(4):
        now = model.latent.live(context_now(model.context, past, None, t), rest)
        features = model.decoder(torch.cat([now.d, rest.z], -1))
        x = model.emission.sample(features, model.emission.draw(count, like=past))
        z = model.latent.prior(now).sample(torch.randn(count, 1).double())
        rest = model.latent.settle(now, z)[0]
        past = push_context(past, model.context.remember(model.code(x), None))
        xs.append(x)
    return torch.stack(xs, 1)


@each_kind
def test_fast_paths_are_the_same_as_steps(kind):
    model, x = small(kind, dim_u=1), torch.randint(3, (5, 6))
    u, mask = torch.randn(5, 6, 1).double(), torch.rand(5, 6) < 0.6
    mask[0] = False
    noise = model.noise(5, 6)
    with torch.no_grad():
        told = model.begin(x, mask, u)
        fast = model.latent.path(told.e, told.a, noise.z, told.free)
        slow = Latent.path(model.latent, told.e, told.a, noise.z, told.free)
        assert_close(fast, slow)
        assert_close(model.latent.along(told.e, fast.z), fast.s)
        state, log_p, kl = model.start(told), 0, 0
        for t in range(6):
            prior, q = model.propose(told, t, state)
            state, found = model.advance(told, t, state, q.sample(noise.z[:, t]))
            log_p, kl = log_p + found, kl + q.kl(prior)
        terms = model.elbo(x, mask, u, noise)
    assert_close(terms.log_likelihood, log_p)
    assert_close(terms.log_posterior - terms.log_prior, kl)
    assert terms.frames.tolist() == mask.sum(1).tolist()


@each_kind
def test_a_sequence_alone_or_padded_has_the_same_bound(kind):
    model, x = small(kind, "normal(2)", dim_u=1), torch.randn(3, 9, 2).double()
    u, noise, lengths = torch.randn(3, 9, 1).double(), model.noise(3, 9), torch.tensor([9, 5, 2])
    mask = torch.arange(9) < lengths[:, None]
    mask[0, 4] = False
    x[~mask] = math.nan
    with torch.no_grad():
        together = model.elbo(x, mask, u, noise)
        for k, n in enumerate(lengths.tolist()):
            cut = lambda v: v[k : k + 1, :n]
            alone = model.elbo(cut(x), cut(mask), cut(u), SequenceNoise(cut(noise.z)))
            assert_close([v[k : k + 1] for v in together[:4]], list(alone)[:4], rtol=1e-4, atol=1e-4)
            assert_close(
                model.rate(x, mask, u, noise)[k, :n],
                model.rate(cut(x), cut(mask), cut(u), SequenceNoise(cut(noise.z)))[0],
            )


@each_kind
def test_hidden_values_are_never_read(kind):
    for emission, x in (("categorical(3)", torch.randint(3, (4, 7))), ("normal(2)", torch.randn(4, 7, 2).double())):
        model, mask = small(kind, emission), torch.rand(4, 7) < 0.5
        other, noise = x.clone(), model.noise(4, 7)
        other[~mask] = -77 if emission[0] == "c" else math.nan
        grads = []
        for v in (x, other):
            model.zero_grad()
            terms = model.elbo(v, mask, None, noise)
            terms.elbo.sum().backward()
            grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
            assert all(g.isfinite().all() for g in grads[-1])
            with torch.no_grad():
                grads[-1] += [
                    terms.elbo.detach(),
                    model.encode(v, mask),
                    *model.impute(v, mask, particles=4).filtered.z,
                ]
        assert_close(grads[0], grads[1], rtol=0, atol=0)


def test_a_context_knows_nothing_of_its_step():
    for history in (1, 3):
        model = small({"latent": "srnn"}, "normal(2)", dim_u=1, history=history)
        x, u = torch.randn(2, 6, 2).double(), torch.randn(2, 6, 1).double()

        def found(x):
            code = model.code(x)
            return contexts(model.context, model.context.remember(code, None), u)

        for t in range(6):
            other = x.clone()
            other[:, t] += 1
            changed = (found(x) != found(other)).any(-1).any(0)
            assert changed.tolist() == [t < s <= t + history for s in range(6)]


@each_kind
def test_filtered_output_does_not_know_the_future(kind):
    model, x = small(kind, dim_u=1), torch.randint(3, (3, 6))
    u, mask = torch.randn(3, 6, 1).double(), torch.rand(3, 6) < 0.7
    for t in (1, 3):
        other = x.clone()
        other[:, t + 1 :] = torch.randint(3, (3, 5 - t))
        one, two = (model.impute(v, mask, u, particles=8).filtered for v in (x, other))
        assert_close(one.frames[:, : t + 1], two.frames[:, : t + 1], rtol=0, atol=0)
        assert_close(one.z.mean[:, : t + 1], two.z.mean[:, : t + 1], rtol=0, atol=0)


@each_kind
def test_divergence_by_formula_and_by_drawing_agree(kind):
    model, x = small(kind), torch.randint(3, (2, 4)).repeat_interleave(20000, 0)
    with torch.no_grad():
        told = model.begin(x)
        path = model.latent.path(told.e, told.a, torch.randn(len(x), 4, model.latent.dim_z).double())
        exact, drawn = ((q - p).view(2, -1) for p, q in (divergence(path, None, e) for e in (True, False)))
    gap = exact - drawn
    assert (gap.mean(1).abs() <= 4 * gap.std(1) / gap.shape[1] ** 0.5 + 1e-9).all()


def linear_srnn(A=0.8, Q=0.3, C=1.2, R=0.4):
    "An SRNN whose latent is linear and Gaussian given the past observations: b_t and the rest are returned as well."
    config = SequenceConfig(
        "srnn", "normal(1)", dim_z=1, rnn_units=(4,), encoder=(3,), decoder=(), latent_layers=(2,), min_std=0.0
    )
    model = SequenceVAE(config).double().eval()
    raw = lambda var, floor=0.0: math.log(math.expm1(var**0.5 - floor))
    P, d = model.latent.P, torch.randn(4).double()
    P.after = nn.Identity()
    with torch.no_grad():
        P.told.weight.zero_(), P.before.weight.zero_()
        P.told.weight[0] = d
        P.before.weight[0] = A
        P.told.bias.copy_(torch.tensor([0.1, raw(Q)]))
        model.decoder[0].weight.zero_()
        model.decoder[0].weight[0, -1] = C
        model.decoder[0].bias.copy_(torch.tensor([0.2, raw(R, 0.001)]))
        model.latent.z0.fill_(0.5)
    return model, (A, Q, C, R)


def dense_log_prob(model, numbers, x):
    "log p(x) from the joint Gaussian of all steps, with the drifts b_t that the past observations give."
    (A, Q, C, R), T = numbers, x.shape[1]
    b = (model.begin(x).e @ model.latent.P.told.weight[0] + model.latent.P.told.bias[0]).detach()
    mean, cov = [], torch.zeros(T, T).double()
    m, S, cross = torch.full((len(x),), 0.5).double(), 0.0, []
    for t in range(T):
        m, S = A * m + b[:, t], A * A * S + Q
        cross = [A * v for v in cross] + [S]
        cov[t, : t + 1] = cov[: t + 1, t] = C * C * torch.tensor(cross).double()
        mean.append(C * m + 0.2)
    cov += R * torch.eye(T).double()
    return torch.distributions.MultivariateNormal(torch.stack(mean, 1), cov).log_prob(x[..., 0]), b


def test_with_the_exact_smoother_the_bound_is_the_evidence():
    model, numbers = linear_srnn()
    (A, Q, C, R), x = numbers, torch.randn(5, 7, 1).double()
    exact, b = dense_log_prob(model, numbers, x)
    precision, eta, found = torch.zeros(5).double(), torch.zeros(5).double(), []
    for t in reversed(range(7)):  # precision and its mean of p(x_t … x_T | z_t)
        precision, eta = precision + C * C / R, eta + C * (x[:, t, 0] - 0.2) / R
        v = 1 / (1 / Q + precision)
        found.append(torch.stack([v * A / Q, v * (eta + b[:, t] / Q), v], -1))
        precision, eta = A * A * precision / (1 + Q * precision), A * (eta - precision * b[:, t]) / (1 + Q * precision)
    a = torch.stack(found[::-1], 1)
    model.latent.look = lambda *_: a
    model.latent.posterior = lambda now, a, p: Diagonal(a[:, :1] * now.rest.z + a[:, 1:2], a[:, 2:])
    model.latent.path = lambda *given: Latent.path(model.latent, *given)
    model.config = replace(model.config, exact_kl=False)
    with torch.no_grad():  # log p(x, z) - log q(z) of a draw: the same for every draw
        assert_close(model.elbo(x).elbo, exact, rtol=0, atol=1e-4)
        assert (sum(model.elbo(x).elbo for _ in range(20)) / 20 - exact).abs().max() < 1e-4


def test_particles_come_to_the_evidence_of_a_linear_model():
    model, numbers = linear_srnn()
    x = torch.randn(4, 8, 1).double()
    exact, _ = dense_log_prob(model, numbers, x)
    estimate = fivo(model, Batch(x, None, None), 1024).total
    assert_close(estimate, exact, rtol=0, atol=0.25)
    assert (iwae(model, Batch(x, None, None), 1).total <= exact + 4).all()


def test_independent_latents_against_quadrature():
    "ISEQ with one latent a step, two steps: Gauss and Hermite's rule with 64 points in each direction."
    model = small({"latent": "independent"}, "normal(1)", dim_z=1, scale=1.5)
    x = torch.randn(1, 2, 1).double()
    nodes, weights = (torch.tensor(v) for v in np.polynomial.hermite_e.hermegauss(64))
    z = torch.cartesian_prod(nodes, nodes)[..., None]
    log_w = (weights / weights.sum()).log()
    with torch.no_grad():
        told = model.begin(x.expand(len(z), -1, -1))
        log_p = model.log_likelihood(told, model.latent.along(told.e, z))
        exact = (log_p + (log_w[:, None] + log_w).flatten()).logsumexp(0)
        draws = torch.stack([model.elbo(x.expand(1000, -1, -1)).elbo for _ in range(4)]).flatten()
    found = iwae(model, Batch(x, None, None), 4096).total[0]
    assert draws.mean() <= exact + 4 * draws.std() / len(draws) ** 0.5
    assert_close(found, exact, rtol=0, atol=0.05)


def test_hidden_symbols_are_filled_in_as_all_sequences_say():
    model, x = small({"latent": "none"}, scale=3.0), torch.tensor([[0, 0, 0, 1, 2]])
    mask = torch.tensor([[True, False, False, True, True]])
    ways = x.repeat(9, 1)
    ways[:, 1:3] = every_sequence(3, 2)
    with torch.no_grad():
        p = model.elbo(ways).elbo.softmax(0)
    exact = torch.stack([torch.stack([p[ways[:, t] == k].sum() for k in range(3)]) for t in (1, 2)])
    found = model.impute(x, mask, particles=4096)
    assert_close(found.smoothed.frames[0, 1:3], exact, rtol=0, atol=0.04)
    assert found.x[mask].tolist() == x[mask].tolist()


@each_of_five
def test_prefix_agent_and_noise(kind):
    model, gen = small(kind, dim_u=4), lambda: torch.Generator().manual_seed(1)
    player = RandomAgent(ToyGame.actions)
    with torch.no_grad():
        out = model.generate(5, 3, agent=player, generator=gen())
        assert out.u.shape == (3, 5, 4) and not out.u[:, 0].any()
        u = torch.cat([out.u, torch.randn(3, 2, 4).double()], 1)
        mask = torch.rand(3, 5) < 0.7
        one, two = (model.generate(2, u=u, x=out.frames, mask=mask, generator=gen()) for _ in range(2))
        assert_close(one.frames, two.frames, rtol=0, atol=0)
        assert one.frames.shape == (3, 2) and one.expected.shape == (3, 2, 3)
        assert model.generate(2, x=out.frames, u=out.u, agent=player, generator=gen()).u.shape == (3, 2, 4)
        still = [model.generate(3, 2, u=u[:2, :3], noise=False).frames for _ in range(2)]
        assert_close(still[0], still[1], rtol=0, atol=0)
