"""Any system, any times: kvae_nb.inference.irregular against quadrature, the dense joint Gaussian and fine grids."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad_vec
from scipy.linalg import expm
from torch.testing import assert_close

from kvae_nb.core.errors import InputError
from kvae_nb.inference.irregular import (
    ContinuousLGSSM,
    at_times,
    discretised,
    discretised_steps,
    irregular_posterior,
    states_at,
)
from kvae_nb.inference.lgssm import LGSSM, dense_evidence, dense_states
from kvae_nb.inference.routes import BACKENDS, kalman_filter, log_evidence, smoother

f64 = torch.float64
CLOSE = dict(rtol=1e-7, atol=1e-8)  # condition numbers up to some 10^5 between double precision and this
seeds = st.integers(0, 2**31)


def generator(seed):
    g = torch.Generator().manual_seed(seed)
    return lambda *s: torch.randn(*s, dtype=f64, generator=g)


def stable(randn, *shape):
    "A drift that forgets: its symmetric part is negative definite."
    X, Y = randn(*shape, shape[-1]), randn(*shape, shape[-1])
    return (X - X.mT) - Y @ Y.mT / shape[-1] - 0.1 * torch.eye(shape[-1], dtype=f64)


@st.composite
def systems(draw):
    "A drift of any kind, noises, and lengths of steps over many orders of magnitude."
    randn, n, k = generator(draw(seeds)), draw(st.integers(1, 5)), draw(st.integers(0, 3))
    F = stable(randn, n) if draw(st.booleans()) else randn(n, n)
    exponents = draw(st.lists(st.floats(-9, 0.7), min_size=1, max_size=4))
    return F, randn(n, k), torch.tensor([10.0**e for e in exponents], dtype=f64)


@st.composite
def problems(draw):
    "A continuous model, times [*batch, time], observations and a mask or none."
    randn, batch = generator(draw(seeds)), draw(st.sampled_from([(), (1,), (3,), (2, 2)]))
    n, p, T = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 7))
    own = lambda: batch if draw(st.booleans()) else ()
    cov = lambda *s: (X := randn(*s, s[-1])) @ X.mT / s[-1] + 0.3 * torch.eye(s[-1], dtype=f64)
    model = ContinuousLGSSM(
        stable(randn, *own(), n), randn(*own(), n, draw(st.integers(1, 2))), randn(1, p, n), cov(1, p), randn(n), cov(n)
    )
    times = randn(*own(), 1) + (randn(*own(), T).abs() + 1e-3).cumsum(-1)
    mask = randn(*own(), T) > draw(st.sampled_from([-9.0, 0.0, 9.0])) if draw(st.booleans()) else None
    return model, times, randn(*batch, T, p), mask


@settings(max_examples=60, deadline=None, derandomize=True)
@given(systems())
def test_one_step_is_the_exponential_and_the_integral(system):
    F, L, dt = system
    A, Q = discretised_steps(F, L, dt)
    for t, step in enumerate(dt.tolist()):
        assert_close(A[t], torch.as_tensor(expm(F.numpy() * step)), rtol=1e-10, atol=1e-12 * A[t].abs().max().item())
        if not L.shape[-1]:
            assert (Q == 0).all()
            continue
        push = lambda s: (E := expm(F.numpy() * s) @ L.numpy()) @ E.T
        integral = quad_vec(push, 0, step, epsabs=0, epsrel=1e-11)[0]
        assert_close(Q[t], torch.as_tensor(integral), rtol=1e-9, atol=1e-10 * abs(integral).max())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(systems(), st.floats(0.01, 0.99))
def test_two_steps_in_a_row_are_one(system, share):
    F, L, dt = system
    one, two, whole = (discretised_steps(F, L, x) for x in (share * dt, (1 - share) * dt, dt))
    scale = lambda M: dict(rtol=1e-10, atol=1e-11 * M.abs().max().item())
    assert_close(two.A @ one.A, whole.A, **scale(whole.A))
    assert_close(two.A @ one.Q @ two.A.mT + two.Q, whole.Q, **scale(whole.Q))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(systems(), st.sampled_from([torch.float32, f64]))
def test_the_noise_of_a_step_is_a_covariance_of_any_length(system, dtype):
    F, L, dt = (x.to(dtype) for x in system)
    Q = discretised_steps(F, L, torch.cat([dt, 0 * dt[:1], dt * 1e-6])).Q
    assert Q.isfinite().all() and torch.equal(Q, Q.mT)
    lowest = torch.linalg.eigvalsh(Q.double()).amin(-1)
    assert (lowest >= -20 * torch.finfo(dtype).eps * Q.double().abs().amax((-2, -1))).all()
    exact = discretised_steps(*system[:2], dt.double()).Q
    rounding = 300 * torch.finfo(dtype).eps * exact.abs().amax((-2, -1), keepdim=True)
    assert ((Q[: len(dt)].double() - exact).abs() <= rounding).all()


@pytest.mark.parametrize("dtype", [torch.float32, f64])
@pytest.mark.parametrize("n", [2, 3, 4])
def test_a_chain_of_integrators_keeps_its_digits_at_every_length(n, dtype):
    "White noise integrated n times: Q_ij = dt^(2n-1-i-j) / ((n-1-i)! (n-1-j)! (2n-1-i-j)), all of other sizes."
    F, L = torch.diag(torch.ones(n - 1, dtype=dtype), 1), torch.eye(n, dtype=dtype)[:, -1:]
    dt = torch.logspace(-5, 3, 17, dtype=f64).to(dtype)
    Q, left = discretised_steps(F, L, dt).Q.double(), n - 1 - torch.arange(n, dtype=f64)
    power = left[:, None] + left + 1
    exact = dt.double()[:, None, None] ** power / (left.add(1).lgamma().exp().outer(left.add(1).lgamma().exp()) * power)
    assert_close(Q / exact, torch.ones_like(Q), rtol=0, atol=200 * torch.finfo(dtype).eps)
    d = exact.diagonal(dim1=-2, dim2=-1).sqrt()
    assert torch.linalg.eigvalsh(Q / d[:, :, None] / d[:, None]).min() > (1e-4 if n == 4 else 1e-3)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seeds, st.integers(1, 3))
def test_gradients_are_those_of_finite_differences(seed, n):
    randn = generator(seed)
    F, L, dt = stable(randn, n), randn(n, 2), randn(3).abs() + 0.05
    assert torch.autograd.gradcheck(discretised_steps, [x.requires_grad_() for x in (F, L, dt)])


def member(x, batch, tail, i):
    return x.expand(*batch, *x.shape[x.dim() - tail :])[i]


def members(model, times, a, mask):
    "Every series of the batch by itself, with its index."
    batch = a.shape[:-2]
    for i in np.ndindex(*batch):
        tails = dict(F=2, L=2, C=3, R=3, mean1=1, cov1=2)
        one = ContinuousLGSSM(*(member(getattr(model, k), batch, tail, i) for k, tail in tails.items()))
        yield i, one, member(times, batch, 1, i), a[i], None if mask is None else member(mask, batch, 1, i)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(problems())
def test_filter_smoother_and_evidence_are_the_dense_gaussian(problem):
    model, times, a, mask = problem
    found = irregular_posterior(model, times, a, mask)
    evidence = log_evidence(at_times(model, times), a, mask)
    n, T = model.F.shape[-1], a.shape[-2]
    for i, m1, t1, a1, mask1 in members(*problem):
        steps = at_times(m1, t1)
        assert_close(evidence[i], dense_evidence(steps, a1, mask1), **CLOSE)
        whole = dense_states(steps, a1, mask1)
        for t in range(T):
            cut = slice(t * n, (t + 1) * n)
            assert_close(found.smoothed.mean[i][t], whole.mean[cut], **CLOSE)
            assert_close(found.smoothed.cov[i][t], whole.cov[cut, cut], **CLOSE)
            past = dense_states(steps, a1, mask1, upto=t + 1)
            assert_close(
                (found.filtered.mean[i][t], found.filtered.cov[i][t]), (past.mean[cut], past.cov[cut, cut]), **CLOSE
            )


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seeds, st.integers(1, 3), st.integers(2, 30), st.sampled_from([0.01, 0.2, 1.0]))
def test_irregular_steps_jump_over_the_missing_ticks_of_a_regular_grid(seed, n, ticks, tick):
    randn = generator(seed)
    F, L = stable(randn, n), randn(n, 1)
    mask = randn(ticks) > 0.3
    mask[0] = True
    A, Q = discretised_steps(F, L, torch.tensor([tick], dtype=f64))
    R = torch.full((1, 1, 1), 0.3, dtype=f64)
    regular = LGSSM(A, None, randn(1, 1, n), Q, R, randn(n), torch.eye(n, dtype=f64))
    model = ContinuousLGSSM(F, L, regular.C, R, regular.mean1, regular.cov1)
    a, times = randn(ticks, 1), torch.arange(ticks, dtype=f64) * tick
    found = irregular_posterior(model, times[mask], a[mask])
    f, s = kalman_filter(regular, a, mask), smoother(regular, a, mask)
    assert_close((found.filtered.mean, found.filtered.cov), (f.mean[mask], f.cov[mask]), **CLOSE)
    assert_close((found.smoothed.mean, found.smoothed.cov), (s.mean[mask], s.cov[mask]), **CLOSE)
    assert_close(found.filtered.log_prob, f.log_prob[mask], **CLOSE)
    between = states_at(model, times[mask], a[mask], times)
    assert_close((between.z.mean, between.z.cov), (s.mean, s.cov), **CLOSE)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(problems(), seeds, st.integers(1, 4))
def test_a_state_at_any_time_is_a_hidden_step_there(problem, seed, k):
    model, times, a, mask = problem
    randn, span = generator(seed), times[..., -1:] - times[..., :1]
    wanted = times[..., :1] + randn(*times.shape[:-1], k).abs() * (span + 0.5)
    found = states_at(model, times, a, wanted, mask)
    n = model.F.shape[-1]
    for i, m1, t1, a1, mask1 in members(*problem):
        asked, seen = member(wanted, a.shape[:-2], 1, i), torch.ones(len(a1), dtype=torch.bool)
        every, order = torch.cat([t1, asked]).sort()
        if not (every.diff() > 0).all():
            continue
        hidden = torch.cat([a1, torch.full((k, a1.shape[-1]), torch.nan, dtype=f64)])[order]
        law = dense_states(
            at_times(m1, every), hidden, torch.cat([seen if mask1 is None else mask1, ~seen[:1].expand(k)])[order]
        )
        for j, place in enumerate(order.argsort()[len(a1) :].tolist()):
            cut = slice(place * n, (place + 1) * n)
            assert_close((found.z.mean[i][j], found.z.cov[i][j]), (law.mean[cut], law.cov[cut, cut]), **CLOSE)
            assert_close(found.a.mean[i][j], m1.C[0] @ law.mean[cut], **CLOSE)
            assert_close(found.a.cov[i][j], m1.C[0] @ law.cov[cut, cut] @ m1.C[0].T + m1.R[0], **CLOSE)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seeds, st.integers(2, 8))
def test_an_ornstein_uhlenbeck_process_is_regression_with_an_exponential_kernel(seed, T):
    "Gaussian process regression (Rasmussen and Williams 2006, equations 2.23 and 2.24) shares nothing with a filter."
    randn = generator(seed)
    rate, level, noise = (randn(3) / 2).exp()
    times, wanted, a = (randn(T).abs() + 0.01).cumsum(0), randn(3).abs() * T, randn(T, 1)
    wanted = wanted + times[0]
    kernel = lambda s, t: level**2 / (2 * rate) * (-rate * (s[:, None] - t).abs()).exp()
    model = ContinuousLGSSM(
        -rate.reshape(1, 1),
        level.reshape(1, 1),
        torch.ones(1, 1, 1, dtype=f64),
        noise.reshape(1, 1, 1),
        torch.zeros(1, dtype=f64),
        (level**2 / (2 * rate)).reshape(1, 1),
    )
    K = kernel(times, times) + noise * torch.eye(T, dtype=f64)
    across = torch.linalg.solve(K, kernel(times, wanted)).T
    found = states_at(model, times, a, wanted)
    assert_close(found.z.mean, across @ a, **CLOSE)
    variance = kernel(wanted, wanted).diagonal() - (across * kernel(wanted, times)).sum(-1)
    assert_close(found.z.cov.flatten(), variance, **CLOSE)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(problems())
def test_every_backend_gives_the_same_numbers(problem):
    model, times, a, mask = problem
    reference = irregular_posterior(model, times, a, mask, "loop")
    steps = at_times(model, times)
    for name, backend in BACKENDS.items():
        if name == "gpu" or (name in ("information", "root", "scan") and model.L.shape[-1] < model.F.shape[-1]):
            continue  # with few noises and short steps Q is close to singular
        assert_close(tuple(backend.smoother(steps, a, mask))[:2], tuple(reference.smoothed)[:2], rtol=1e-6, atol=1e-7)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(problems())
def test_gradients_of_the_evidence_reach_system_and_times(problem):
    model, times, a, mask = next(members(*problem))[1:]
    leaves = [x.clone().requires_grad_() for x in (model.F, model.L, times)]
    evidence = lambda F, L, t: log_evidence(at_times(model._replace(F=F, L=L), t), a, mask)
    assert torch.autograd.gradcheck(evidence, leaves, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -9.0, 0.0])
def test_times_that_are_no_times_are_refused_in_one_sentence(bad, k):
    times = torch.arange(5.0)
    times[k] = bad
    with pytest.raises(InputError) as refused:
        discretised(torch.zeros(1, 1), torch.ones(1, 1), times)
    assert str(refused.value).startswith("times ") and str(refused.value).endswith(".")
