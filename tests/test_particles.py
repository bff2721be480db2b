"""Particles for hidden frames against the exact filter (one mode) and quadrature (a step function of the past)."""

import math
import re
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from kvae_nb.core.errors import InputError
from kvae_nb.inference.batched import loop_filter, loop_smoother, rts_smoother
from kvae_nb.inference.lgssm import LGSSM
from kvae_nb.inference.particle_parts import draw_particle_noise, mixture_moments, systematic
from kvae_nb.inference.particle_smoother import (
    backward_simulation,
    particle_smoother,
    path_moments,
    path_states,
    path_system,
)
from kvae_nb.inference.particles import StepSystem, particle_evidence, particle_filter

F64 = torch.float64


class Step(NamedTuple):
    "Free flight, and a turn after an a beyond the wall: a step function of the last a; remembers the largest a so far."

    A: Tensor
    C: Tensor
    Q: Tensor
    R: Tensor
    mean1: Tensor
    cov1: Tensor
    wall: float
    push: float = 0.0

    def start(self, films, like):
        return like.new_full((films,), -math.inf)

    def step(self, previous, memory, t, film):
        memory = memory if t == 0 else torch.maximum(memory, previous[:, 0])
        k = (memory > self.wall).long()
        shift = None if not self.push else self.push * (1 + film[:, None].to(previous)) * torch.ones_like(self.mean1)
        return StepSystem(self.A[k], self.C[k], shift), memory

    def select(self, memory, rows):
        return memory[rows]


def toy(modes: int = 2, p: int = 1, push: float = 0.0, dtype=F64) -> Step:
    "A toy with as many observed numbers; with one mode its wall is never reached."
    A = torch.tensor([[[1.0, 0.5], [0.0, 1.0]], [[1.0, -0.5], [0.0, -1.0]]], dtype=dtype)
    C = torch.tensor([[[1.0, 0.0], [0.3, 1.0], [0.2, -0.4]], [[0.8, 0.1], [0.0, 1.0], [1.0, 0.0]]], dtype=dtype)
    eye, mean1 = torch.eye(3, dtype=dtype), torch.tensor([0.0, 1.0], dtype=dtype)
    wall = 0.5 if modes == 2 else math.inf
    return Step(A, C[:, :p], 0.02 * eye[:2, :2], 0.05 * eye[:p, :p], mean1, 0.3 * eye[:2, :2], wall, push)


def observed(films: int, steps: int, p: int = 1, seed: int = 0, dtype=F64) -> Tensor:
    "Observations of the first mode."
    g = torch.Generator().manual_seed(seed)
    line = torch.linspace(0, 0.5 * (steps - 1), steps, dtype=F64)[:, None]
    return (0.15 * torch.randn(films, steps, p, generator=g, dtype=F64) + line).to(dtype)


MASKS = torch.tensor([[1, 1, 0, 0, 1, 1], [1, 0, 1, 0, 1, 0], [1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]], dtype=torch.bool)
A = torch.tensor([[[0.0], [0.35], [0.7], [0.6], [0.3], [0.1]]], dtype=F64)
GAP = torch.tensor([[1, 1, 0, 0, 1, 1]], dtype=torch.bool)


def single(source: Step) -> LGSSM:
    "The model of a source with one mode."
    return LGSSM(source.A[:1], None, source.C[:1], source.Q[None], source.R[None], source.mean1, source.cov1)


class Quadrature(NamedTuple):
    evidence: Tensor
    filtered: list
    smoothed: tuple


def quadrature(source: Step, a: Tensor, mask: Tensor, points: int = 240) -> Quadrature:
    "All hidden a on a grid: every grid point is an observed path."
    hidden, x = (~mask).nonzero()[:, 0], torch.linspace(-4, 4, points, dtype=F64)
    paths = a.nan_to_num().repeat(points ** len(hidden), 1, 1)
    paths[:, hidden, 0] = torch.cartesian_prod(*[x] * len(hidden)).view(len(paths), -1)
    model, u = path_system(source, paths, torch.zeros(len(paths), dtype=torch.long))
    f = loop_filter(model, paths, u=u)
    s, area = rts_smoother(model, f), len(hidden) * (x[1] - x[0]).log()
    filtered = []
    for t in range(len(a)):
        w = f.log_prob[:, : t + 1].sum(-1).log_softmax(0)[None]
        mean, cov = (f.mean, f.cov) if mask[t] else (f.predicted_mean, f.predicted_cov)
        filtered.append(mixture_moments(w, mean[None, :, t], cov[None, :, t]))
    w = f.log_prob.sum(-1)
    smoothed = [mixture_moments(w.log_softmax(0)[None], s.mean[None, :, t], s.cov[None, :, t]) for t in range(len(a))]
    return Quadrature(w.logsumexp(0) + area, filtered, tuple(torch.stack(v, 1) for v in zip(*smoothed)))


@pytest.fixture(scope="module")
def exact():
    "The answer for the gap of two steps."
    return quadrature(toy(), A[0], GAP[0])


def noises(runs: int, particles: int, seed: int = 0):
    "Noise of its own for every run."
    return draw_particle_noise(runs, 6, particles, 1, torch.Generator().manual_seed(seed), A)


def within(values: Tensor, truth: Tensor, errors: float = 5.0, slack: float = 0.0):
    "The mean over runs differs from the truth by no more than some standard errors."
    error = values.std(0) / len(values) ** 0.5
    assert ((values.mean(0) - truth).abs() <= errors * error + slack).all(), (values.mean(0) - truth, error)


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_what_is_seen_whole_is_filtered_and_smoothed_exactly(p, dtype):
    source, a = toy(1, p, dtype=dtype), observed(3, 6, p, dtype=dtype)
    found, exact = particle_filter(source, a, particles=7), loop_filter(single(source), a)
    for name in ("mean", "cov", "log_prob"):
        assert_close(getattr(found, name), getattr(exact, name))
    z = loop_smoother(single(source), a)
    paths = particle_smoother(source, a, particles=5, lookahead=True)
    states = path_states(source, paths)
    assert_close(path_moments(paths, states.mean, states.cov).mean, z.mean)
    assert_close(paths.a, a[:, None].expand(-1, 10, -1, -1))  # those of both passes
    assert_close(paths.log_prob, exact.log_prob.sum(-1))


def test_what_is_seen_whole_costs_one_row_a_film():
    rows = []

    class Counting(Step):
        def step(self, previous, memory, t, film):
            rows.append(len(previous))
            return Step.step(self, previous, memory, t, film)

    source, a = Counting(*toy()), observed(5, 6)
    particle_filter(source, a, particles=50)
    assert set(rows) == {5}
    rows.clear()
    particle_filter(source, A, GAP, particles=50)
    assert rows == [1, 1, 50, 50, 50, 50]


@pytest.mark.parametrize("p", [1, 2, 3])
def test_one_mode_is_exact_but_for_an_error_that_shrinks_as_one_over_the_root_of_the_number(p):
    source, a, mask = toy(1, p), observed(3, 6, p), MASKS[:3]
    exact, errors = loop_filter(single(source), a, mask), []
    sizes = (32, 512, 8192)
    for N in sizes:
        runs = []
        for seed in range(10):
            noise = draw_particle_noise(3, 6, N, p, torch.Generator().manual_seed(seed), a)
            runs.append(particle_filter(source, a, mask, noise).mean - exact.mean)
        errors.append(torch.stack(runs).square().mean().sqrt())
    slope = math.log(errors[-1] / errors[0]) / math.log(sizes[-1] / sizes[0])
    assert -0.65 < slope < -0.35, (slope, errors)


def test_filtered_moments_agree_with_quadrature(exact):
    runs = 100
    found = particle_filter(toy(), A.expand(runs, -1, -1), GAP.expand(runs, -1), noises(runs, 1000))
    for t, (mean, cov) in enumerate(exact.filtered):
        within(found.mean[:, t], mean[0], slack=2e-3)
        within(found.cov[:, t], cov[0], slack=4e-3)


HOW = {
    "ancestors": {"lookahead": False},
    "look ahead": {"lookahead": True, "temper": 0.25},
    "full look ahead": {"lookahead": True, "temper": 1.0},
}


@pytest.mark.parametrize("how", HOW)
def test_smoothed_moments_and_evidence_agree_with_quadrature(exact, how):
    runs = 60
    more = {"particles": 2000, "generator": torch.Generator().manual_seed(0)} | HOW[how]
    paths = particle_smoother(toy(), A.expand(runs, -1, -1), GAP.expand(runs, -1), **more)
    states = path_states(toy(), paths)
    z = path_moments(paths, states.mean, states.cov)
    within((paths.log_prob - exact.evidence).exp(), torch.ones((), dtype=F64))
    within(z.mean, exact.smoothed[0][0], slack=5e-3)  # a ratio of estimates is biased by about 1/N
    within(z.cov, exact.smoothed[1][0], slack=1e-2)


def test_backward_simulation_agrees_with_quadrature(exact):
    runs = 30
    noise = noises(runs, 200)
    paths = backward_simulation(toy(), A.expand(runs, -1, -1), GAP.expand(runs, -1), noise, paths=100)
    states = path_states(toy(), paths)
    z = path_moments(paths, states.mean, states.cov)
    within(z.mean, exact.smoothed[0][0], slack=1e-2)
    within(z.cov, exact.smoothed[1][0], slack=2e-2)


@pytest.mark.parametrize("particles", [1, 8])
def test_the_evidence_is_unbiased(exact, particles):
    runs = 10_000
    args = toy(), A.expand(runs, -1, -1), GAP.expand(runs, -1), noises(runs, particles)
    ratio = (particle_evidence(*args) - exact.evidence).exp()
    within(ratio, torch.ones((), dtype=F64), errors=4)
    assert ratio.log().mean() < 0


def test_the_future_changes_no_filtered_output():
    a = observed(4, 6)
    later = a.clone()
    later[:, 4:] += 3
    one, two = particle_filter(toy(), a, MASKS), particle_filter(toy(), later, MASKS)
    for x, y in zip(one, two):
        assert torch.equal(x[:, :4], y[:, :4])
    short = particle_filter(toy(), a[:, :4], MASKS[:, :4])
    for x, y in zip(one[1:], short[1:]):
        assert_close(x[:, :4], y)


def test_nan_in_hidden_frames_changes_nothing():
    a = observed(4, 6)
    spoilt = torch.where(MASKS[..., None], a, math.nan)
    for function in (particle_filter, particle_smoother, backward_simulation):
        more = {"paths": 5} if function is backward_simulation else {}
        for x, y in zip(
            function(toy(), a, MASKS, particles=20, **more), function(toy(), spoilt, MASKS, particles=20, **more)
        ):
            assert torch.equal(x, y)


def test_a_film_does_not_depend_on_the_films_beside_it():
    a, order = observed(4, 6), torch.tensor([2, 0, 3, 1])
    all_at_once, turned = particle_filter(toy(), a, MASKS), particle_filter(toy(), a[order], MASKS[order])
    for x, y in zip(all_at_once, turned):
        assert_close(x[order], y)
    for i in range(4):
        for x, y in zip(all_at_once, particle_filter(toy(), a[i : i + 1], MASKS[i : i + 1])):
            assert_close(x[i : i + 1], y)
    for x, y in zip(all_at_once, particle_filter(toy(), a, MASKS, rows=256)):
        assert_close(x, y)


def test_films_keep_their_number():
    a, source = observed(4, 6), toy(1, push=0.1)
    u = torch.ones(4, 6, 1, dtype=F64)
    model = single(source)._replace(B=0.1 * torch.arange(1, 5, dtype=F64)[:, None, None, None].expand(4, 1, 2, 1))
    exact = loop_filter(model, a, u=u)
    assert_close(particle_filter(source, a, rows=1).mean, exact.mean)
    found = particle_filter(source, a, MASKS, particles=20000)
    assert_close(found.mean, loop_filter(model, a, MASKS, u).mean, rtol=0, atol=0.1)


def test_gradients_of_the_bound_agree_with_finite_differences():
    a, noise = observed(4, 6), draw_particle_noise(4, 6, 16, 1, torch.Generator().manual_seed(0), A)
    base = toy()

    def bound(A, C, R):
        return particle_evidence(base._replace(A=A, C=C, R=R), a, MASKS, noise, threshold=0.0).sum()

    given = [x.clone().requires_grad_() for x in (base.A, base.C, base.R)]
    assert torch.autograd.gradcheck(bound, given, eps=1e-7, atol=1e-5)
    given = [x.clone().requires_grad_() for x in (base.A, base.C, base.R)]
    spoilt = torch.where(MASKS[..., None], a, math.nan)
    source = base._replace(A=given[0], C=given[1], R=given[2])
    grads = torch.autograd.grad(particle_filter(source, spoilt, MASKS, noise).log_prob.sum(), given)
    assert all(g.isfinite().all() for g in grads)


def test_float32_keeps_up_over_a_long_gap():
    steps, N = 200, 64
    a = torch.zeros(2, steps, 2, dtype=F64)
    mask = torch.ones(2, steps, dtype=torch.bool)
    mask[:, 5:-5] = False
    noise = draw_particle_noise(2, steps, N, 2, torch.Generator().manual_seed(0), a)
    slow = toy(1, 2)._replace(A=0.9 * toy(1, 2).A)
    single_precision = Step(*(x.float() if isinstance(x, Tensor) else x for x in slow))
    one = particle_filter(slow, a, mask, noise)
    two = particle_filter(single_precision, a.float(), mask, type(noise)(*(x.float() for x in noise)))
    assert_close(two.mean.double(), one.mean, rtol=1e-3, atol=1e-3)
    assert_close(two.log_prob.double(), one.log_prob, rtol=1e-3, atol=1e-2)
    assert two.cov.isfinite().all() and (two.cov.diagonal(dim1=-2, dim2=-1) > 0).all()


def test_weights_far_apart_stay_finite():
    a = A.clone()
    a[0, -1] = 60.0
    found = particle_filter(toy(dtype=torch.float32), a.float(), GAP, particles=30)
    assert found.log_prob.isfinite().all() and found.mean.isfinite().all()
    assert_close(found.log_weights.exp().sum(-1), torch.ones(1, 6))


def test_a_broken_film_leaves_the_others_alone():
    a = observed(4, 6)
    broken = a.clone()
    broken[0, 0] = math.nan
    one, two = particle_filter(toy(), a, MASKS, particles=20), particle_filter(toy(), broken, MASKS, particles=20)
    assert two.log_prob[0].isnan().any()
    for x, y in zip(one, two):
        assert_close(x[1:], y[1:])


def test_systematic_resampling_takes_floor_or_ceiling():
    W = torch.rand(50, 9, dtype=F64).square().softmax(-1)
    for n in (1, 9, 40):
        chosen = systematic(W, torch.rand(50), n)
        counts = torch.stack([(chosen == i).sum(1) for i in range(9)], 1)
        assert chosen.shape == (50, n) and ((counts - n * W).abs() < 1 + 1e-9).all()


def test_float64_is_made_in_one_place_that_knows_devices_without_it():
    import kvae_nb.inference

    modules = sorted(Path(kvae_nb.inference.__file__).parent.glob("*particle*.py"))
    found = {m.stem: len(re.findall(r"\.double\(\)", m.read_text(encoding="utf-8"))) for m in modules}
    assert len(found) >= 4 and {name: n for name, n in found.items() if n} == {"particle_parts": 1}, found


def test_bad_input_is_refused_in_one_sentence():
    for bad, said in (
        ({"a": A[0]}, "a has shape"),
        ({"mask": GAP[:, :3]}, "the mask has shape"),
        ({"particles": 0}, "at least 1"),
        ({"noise": noises(3, 4)._replace(resample=noises(3, 4).resample[:2])}, "the noise has shape"),
        ({"a": A.float()}, "torch.float32"),
    ):
        with pytest.raises(InputError, match=said):
            particle_filter(toy(), **{"a": A, "mask": GAP} | bad)
    with pytest.raises(InputError, match="paths"):
        backward_simulation(toy(), A, GAP, particles=4, paths=5)
