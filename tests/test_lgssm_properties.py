"""Any shape, any mask: the fast functions of kvae_nb.inference.lgssm against the dense joint Gaussian, in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal
from torch.testing import assert_close

from kvae_nb.core.errors import InputError
from kvae_nb.core.gaussians import Gaussian, condition, symmetrize
from kvae_nb.inference import routes as fast_inference
from kvae_nb.inference.batched import (
    between,
    forecast,
    loop_evidence,
    loop_filter,
    observe,
    predict_step,
    rts_smoother,
    sample_posterior,
    update_step,
)
from kvae_nb.inference.lgssm import LGSSM, dense_joint, joint_log_prob, sample_prior

f64 = torch.float64
CLOSE = dict(rtol=1e-8, atol=1e-8)  # condition numbers up to some 10^4 between double precision and this


@st.composite
def problems(draw):
    "A model whose parts have some, all or none of the batch axes, with observations, a mask or none, controls or none."
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    batch = draw(st.sampled_from([(), (1,), (2,), (3, 2), (2, 1, 2)]))
    n, p, m, T = (draw(st.integers(lo, hi)) for lo, hi in ((1, 4), (1, 3), (0, 2), (1, 6)))

    def lead():
        "Some of the batch axes: the last k of them, each at full size or 1."
        k = draw(st.integers(0, len(batch)))
        return tuple(d if draw(st.booleans()) else 1 for d in batch[len(batch) - k :])

    time = lambda: draw(st.sampled_from([1, T]))
    randn = lambda *s: torch.randn(*s, dtype=f64, generator=g)

    def cov(*s):
        X = randn(*s, s[-1])
        return X @ X.mT / s[-1] + 0.3 * torch.eye(s[-1], dtype=f64)

    model = LGSSM(
        randn(*lead(), time(), n, n) / n**0.5,
        randn(*lead(), time(), n, m) if m else None,
        randn(*lead(), time(), p, n),
        cov(*lead(), time(), n),
        cov(*lead(), time(), p),
        randn(*lead(), n),
        cov(*lead(), n),
    )
    u = randn(*lead(), T, m) if m else None
    mask = (
        torch.rand(*lead(), T, generator=g) < draw(st.sampled_from([0.0, 0.5, 0.8, 1.0]))
        if draw(st.booleans())
        else None
    )
    a = randn(*batch, T, p)
    if mask is not None:
        a = torch.where(mask[..., None], a, torch.nan)
    return model, a, mask, u


def members(model, a, mask, u):
    "Every sequence of the batch by itself, with its index."
    batch = a.shape[:-2]
    whole = lambda x, k: x.expand(*batch, *x.shape[x.dim() - k :])
    for i in (
        torch.cartesian_prod(*(torch.arange(d) for d in batch)).reshape(-1, len(batch)).tolist() if batch else [[]]
    ):
        i = tuple(i)
        yield (
            i,
            LGSSM(
                *(
                    None if x is None else whole(x, 3 if name in "ABCQR" else 1 if name == "mean1" else 2)[i]
                    for name, x in model._asdict().items()
                )
            ),
            a[i],
            None if mask is None else whole(mask, 1)[i],
            None if u is None else whole(u, 2)[i],
        )


def given_steps(model, a, mask, u, upto):
    "Law of everything that is not observed among the first `upto` steps: states first."
    n, p, T = model.A.shape[-1], model.C.shape[-2], len(a)
    steps = [t for t in range(upto) if mask is None or mask[t]]
    joint = dense_joint(model, T, u)
    rows = [T * n + t * p + i for t in steps for i in range(p)]
    return (condition(joint, rows, a[steps].flatten()) if rows else joint), joint, rows, a[steps].flatten()


def cut(law, t, s, n):
    return law.cov[t * n : (t + 1) * n, s * n : (s + 1) * n]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(problems())
def test_filter_smoother_and_evidence_are_the_dense_gaussian(problem):
    model, a, mask, u = problem
    f = loop_filter(model, a, mask, u)
    s = rts_smoother(model, f)
    evidence = loop_evidence(model, a, mask, u)
    assert evidence.shape == a.shape[:-2] and s.lag_cov.shape == (*a.shape[:-2], a.shape[-2] - 1, *f.cov.shape[-2:])
    if mask is not None:
        assert (f.log_prob[~mask.expand(f.log_prob.shape)] == 0).all()
    for i, m1, a1, mask1, u1 in members(*problem):
        n, T = m1.A.shape[-1], len(a1)
        for t in range(T):
            for upto, mean, cov in ((t, f.predicted_mean, f.predicted_cov), (t + 1, f.mean, f.cov), (T, s.mean, s.cov)):
                law = given_steps(m1, a1, mask1, u1, upto)[0]
                assert_close((mean[i][t], cov[i][t]), (law.mean[t * n : (t + 1) * n], cut(law, t, t, n)), **CLOSE)
            if t:
                assert_close(s.lag_cov[i][t - 1], cut(law, t, t - 1, n), **CLOSE)
        _, joint, rows, value = given_steps(m1, a1, mask1, u1, T)
        dense = (
            MultivariateNormal(joint.mean[rows], symmetrize(joint.cov[rows][:, rows])).log_prob(value)
            if rows
            else torch.zeros((), dtype=f64)
        )
        assert_close(evidence[i], dense, **CLOSE)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(problems())
def test_single_steps_make_the_filter(problem):
    model, a, mask, u = problem
    f, state = loop_filter(model, a, mask, u), Gaussian(model.mean1, model.cov1)
    at = lambda M, t: M[..., min(t, M.shape[-3] - 1), :, :]
    for t in range(a.shape[-2]):
        if t:
            state = predict_step(
                state,
                at(model.A, t),
                at(model.Q, t),
                None if u is None else (at(model.B, t) @ u[..., t, :, None])[..., 0],
            )
        state, log_prob = update_step(
            state, at(model.C, t), at(model.R, t), a[..., t, :], None if mask is None else mask[..., t]
        )
        assert_close(state.mean.expand(f.mean[..., t, :].shape), f.mean[..., t, :], **CLOSE)
        assert_close(state.cov.expand(f.cov[..., t, :, :].shape), f.cov[..., t, :, :], **CLOSE)
        assert_close(log_prob.expand(f.log_prob[..., t].shape), f.log_prob[..., t], **CLOSE)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(problems(), st.randoms(use_true_random=False))
def test_what_is_hidden_changes_nothing_and_the_future_no_filtered_value(problem, chance):
    model, a, mask, u = problem
    f = loop_filter(model, a, mask, u)
    if mask is not None:
        other = torch.where(mask[..., None], a, chance.choice([0.0, 1e9, float("inf")]))
        for x, y in zip(f, loop_filter(model, other, mask, u)):
            assert torch.equal(x, y)
    t = chance.randrange(a.shape[-2])
    later = torch.cat([a[..., : t + 1, :], a[..., t + 1 :, :] + 5], -2)
    for x, y in zip(f, loop_filter(model, later, mask, u)):
        assert torch.equal(x.select(len(a.shape) - 2, t), y.select(len(a.shape) - 2, t))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(problems())
def test_gradients_are_finite_and_those_of_the_dense_gaussian(problem):
    _, m1, a1, mask1, u1 = next(members(*problem))
    leaves = [None if x is None else x.clone().requires_grad_() for x in (*m1, a1, u1)]
    wanted = [x for x in leaves if x is not None]
    fast = torch.autograd.grad(
        loop_evidence(LGSSM(*leaves[:7]), leaves[7], mask1, leaves[8]),
        wanted,
        allow_unused=True,
        materialize_grads=True,
    )
    assert all(x.isfinite().all() for x in fast)
    _, joint, rows, value = given_steps(LGSSM(*leaves[:7]), leaves[7], mask1, leaves[8], len(a1))
    if not rows:
        return
    dense = MultivariateNormal(joint.mean[rows], symmetrize(joint.cov[rows][:, rows])).log_prob(value)
    for leaf, x, y in zip(wanted, fast, torch.autograd.grad(dense, wanted, allow_unused=True, materialize_grads=True)):
        square = any(leaf is leaves[k] for k in (3, 4, 6))
        assert_close(symmetrize(x) if square else x, symmetrize(y) if square else y, rtol=1e-7, atol=1e-7)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(problems(), st.integers(1, 4))
def test_a_forecast_is_a_filter_with_nothing_to_see(problem, ahead):
    model, a, mask, u = problem
    T = a.shape[-2]
    if T <= ahead:
        return
    seen = torch.ones(a.shape[:-1], dtype=torch.bool) if mask is None else mask.expand(a.shape[:-1]).clone()
    seen[..., T - ahead :] = False
    f = loop_filter(model, a, seen, u)
    k = T - ahead
    z, pictures = forecast(
        between(model, k, T),
        Gaussian(f.mean[..., k - 1, :], f.cov[..., k - 1, :, :]),
        ahead,
        None if u is None else u[..., k:, :],
    )
    assert_close(tuple(z), (f.mean[..., k:, :], f.cov[..., k:, :, :]), **CLOSE)
    assert_close(
        tuple(pictures), tuple(observe(between(model, k, T), f.mean[..., k:, :], f.cov[..., k:, :, :])), **CLOSE
    )


@settings(max_examples=20, deadline=None, derandomize=True)
@given(problems(), st.integers(0, 1000))
def test_samples_have_the_right_shapes_and_bayes_rule_holds_on_them(problem, seed):
    model, a, mask, u = problem
    z = sample_posterior(model, loop_filter(model, a, mask, u), torch.Generator().manual_seed(seed))
    assert z.shape == (*a.shape[:-1], model.A.shape[-1]) and z.isfinite().all()
    log_joint, evidence = joint_log_prob(model, z, a, mask, u), loop_evidence(model, a, mask, u)
    for i, m1, a1, mask1, u1 in members(*problem):
        N = z[i].numel()
        law = given_steps(m1, a1, mask1, u1, len(a1))[0]
        posterior = MultivariateNormal(law.mean[:N], symmetrize(law.cov[:N, :N])).log_prob(z[i].flatten())
        assert_close(log_joint[i] - posterior, evidence[i], rtol=1e-7, atol=1e-7)
    drawn = sample_prior(model, a.shape[-2], (2,), u, torch.Generator().manual_seed(seed))
    again = sample_prior(model, a.shape[-2], (2,), u, torch.Generator().manual_seed(seed))
    assert drawn.z.shape[0] == 2 and drawn.a.shape[-2:] == a.shape[-2:] and torch.equal(drawn.a, again.a)


@pytest.mark.parametrize("name", ["A", "C", "Q", "R", "mean1", "cov1"])
def test_a_wrong_shape_is_refused_by_name(name):
    eye = torch.eye(2, dtype=f64)
    model = LGSSM(eye[None], None, eye[None, :1], eye[None], eye[None, :1, :1], eye[0], eye)
    wrong = model._replace(**{name: torch.zeros(5, 5, 5, dtype=f64)})
    with pytest.raises(InputError, match=rf"\b(A|C|a|{name}) has shape|broadcast"):
        loop_filter(wrong, torch.zeros(4, 1, dtype=f64))


@settings(max_examples=12)  # the compiled backend makes new kernels for every size
@given(problems())
def test_every_backend_gives_the_same_numbers(problem):
    model, a, mask, u = problem
    filtered = loop_filter(model, a, mask, u)
    smoothed = rts_smoother(model, filtered)
    for name, backend in fast_inference.BACKENDS.items():
        if name == "gpu":  # tested in its notebook, through triton's interpreter
            continue
        assert_close(backend.evidence(model, a, mask, u), filtered.log_prob.sum(-1), **CLOSE)
        for mine, reference in zip(backend.smoother(model, a, mask, u), smoothed):
            assert_close(mine, reference, **CLOSE)
        if backend.filter:
            for mine, reference in zip(backend.filter(model, a, mask, u), filtered):
                assert_close(mine, reference, **CLOSE)
