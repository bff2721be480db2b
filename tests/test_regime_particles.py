"""Particles over regimes against all paths, whatever the model: matrices, tables, masks and controls at random."""

import math

import pytest
import torch
from torch.testing import assert_close

from kvae_nb.core.errors import InputError
from kvae_nb.inference.batched import rts_smoother
from kvae_nb.inference.chains import Chain, one_hot
from kvae_nb.inference.regime_particles import (
    draw_continuations,
    draw_regime_noise,
    regime_ancestor_paths,
    regime_backward_paths,
    regime_filter,
    regime_smoother,
)
from kvae_nb.inference.routes import kalman_filter
from kvae_nb.inference.slds import SLDS, along, enumerate_paths, sample_slds
from kvae_nb.models.dynamics import LSTMWeights, WindowWeights
from kvae_nb.models.slds import SLDSParameters


def system(K: int, n: int, p: int, steps: int, seed: int) -> SLDS:
    "A random switching system with a table for each step."
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g).double()
    cov = lambda d: (L := draw(K, d, d)) @ L.mT + 0.3 * torch.eye(d).double()
    chain = Chain(draw(K).log_softmax(-1), draw(steps, K, K).log_softmax(-1))
    return SLDS(draw(K, n, n) / 2, draw(K, n, 1), draw(K, p, n), cov(n), cov(p), draw(K, n), cov(n), chain)


def case(K: int, n: int, p: int, seed: int):
    "A system, two sequences of four steps of it, a mask and controls."
    slds, g = system(K, n, p, 4, seed), torch.Generator().manual_seed(seed + 100)
    u, mask = torch.randn(2, 4, 1, generator=g).double(), torch.rand(2, 4, generator=g) > 0.3
    return slds, sample_slds(slds, 4, 2, u, g).a, mask, u


def often(times: int, *tensors):
    return [v.repeat(times, *[1] * (v.dim() - 1)) for v in tensors]


@pytest.mark.parametrize("K, n, p", [(2, 1, 1), (3, 3, 2), (4, 2, 3)])
def test_evidence_is_unbiased_and_probabilities_are_right(K, n, p):
    "Within five standard errors of what all paths give; a weighted run's probability times its evidence is unbiased."
    slds, a, mask, u = case(K, n, p, K)
    exact, runs = enumerate_paths(slds, a, mask, u), 3000
    noise = draw_regime_noise(2 * runs, 4, 4, a, torch.Generator().manual_seed(1))
    x, seen, push = often(runs, a, mask, u)
    f = regime_filter(slds, x, seen, push, noise)
    ratio = (f.log_prob.sum(-1).view(runs, 2) - exact.log_evidence).exp()
    paths = regime_ancestor_paths(f)
    share = (paths.log_weights.exp()[:, :, None, None] * one_hot(paths.s, K, a)).sum(1).view(runs, 2, 4, K)
    for found, want in ((ratio, torch.ones(2)), (ratio[..., None, None] * share, exact.weights)):
        error = found.std(0).maximum(want.sqrt() * (want < 0.01)) / runs**0.5  # what is rare may not have come at all
        assert ((found.mean(0) - want).abs() < 5 * error + 1e-9).all()


@pytest.mark.parametrize("backward", [False, True])
def test_one_regime_is_the_kalman_smoother(backward):
    slds, a, mask, u = case(1, 3, 2, 5)
    model = along(slds, torch.ones(4, 1).double())
    want = rts_smoother(model, kalman_filter(model, a, mask, u))
    f = regime_filter(slds, a.where(mask[..., None], math.nan), mask, u, particles=3)
    found = regime_smoother(slds, f, a, mask, u, draw_regime_noise(1, 4, 5, a) if backward else None)
    assert_close(found.mean[..., 0, :], want.mean), assert_close(found.cov[..., 0, :, :], want.cov)
    assert_close(f.log_prob.sum(-1), enumerate_paths(slds, a, mask, u).log_evidence)


def test_backward_paths_have_their_probabilities():
    "With many particles, drawn paths come as often as all paths say."
    slds, a, mask, u = case(2, 2, 1, 8)
    exact = enumerate_paths(slds, a, mask, u)
    n, copies = 400, 10
    x, seen, push = often(copies, a, mask, u)
    noise = draw_regime_noise(2 * copies, 4, n, a, torch.Generator().manual_seed(0))
    f = regime_filter(slds, x, seen, push, noise)
    drawn = regime_backward_paths(slds, f, x, seen, push, noise).s.view(copies, 2, n, 4)
    share = (drawn[..., None, :] == exact.paths).all(-1).double().mean((0, 2))
    assert (share - exact.log_posterior.exp()).abs().max() < 5 * 0.5 / (n * copies / 4) ** 0.5


@pytest.mark.parametrize("network", [LSTMWeights, WindowWeights, None])
def test_tables_that_read_hidden_observations(network):
    "In float32: nothing hidden is read, and a film's result is that of the film alone."
    torch.manual_seed(0)
    net = None if network is None else network(2, 9)
    d = SLDSParameters(3, 2, 4, 1, "ABCQR", network=net, spread=0.3).requires_grad_(False)
    a, mask, u = torch.randn(3, 6, 2), torch.rand(3, 6) > 0.4, torch.randn(3, 6, 1)
    run = lambda x, i: regime_filter(
        d.system(d.transitions.resting()), x[i], mask[i], u[i], particles=30, transitions=d.transitions
    )
    whole, every = run(a, slice(None)), slice(None)
    noisy = run(a.where(mask[..., None], math.nan), every)
    assert all(torch.equal(v, w) for v, w in zip((*whole[:6], whole.a), (*noisy[:6], noisy.a)))
    alone = run(a, slice(1, 2))
    assert_close(alone.log_weights, whole.log_weights[1:2], rtol=1e-4, atol=1e-4)
    later = run(torch.cat([a[:, :3], a[:, 3:] + 1], 1), every)
    assert torch.equal(later.log_weights[:, :3], whole.log_weights[:, :3])
    assert whole.a.isfinite().all() and whole.mean.isfinite().all()


def test_scores_that_are_certain_or_impossible_give_no_nan():
    log_weights = torch.tensor([[[-math.inf, 0.0], [-math.inf, -math.inf], [-2.0, -math.inf]]])
    for threshold in (0.0, 2.0):
        found = draw_continuations(log_weights, torch.full((1, 3), 0.999999), torch.tensor([0.999999]), threshold)
        alive = found.log_weights.exp() > 0
        assert log_weights[0][found.ancestors[alive], found.s[alive]].isfinite().all()
        assert not found.log_weights.isnan().any()


def test_what_does_not_fit_is_refused():
    slds, a, mask, u = case(2, 2, 1, 3)
    for bad, said in (({"particles": 0}, "at least 1"), ({"noise": draw_regime_noise(1, 3, 5, a)}, "the noise has")):
        with pytest.raises(InputError, match=said):
            regime_filter(slds, a, mask, u, **bad)
