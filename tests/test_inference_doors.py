"""The doors of inference: what does not fit is refused in one sentence, and what is chosen is right, whatever the
prior.
"""

import math
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal
from torch.testing import assert_close

from kvae_nb.core.errors import InputError
from kvae_nb.core.gaussians import Gaussian, condition, sample_gaussian
from kvae_nb.core.roots import psd_root
from kvae_nb.core.runtime import derived_seed, kept_random_state, pick_device, seed_everything
from kvae_nb.inference import batched, chains, slds, slds_smoother
from kvae_nb.inference import parallel as par
from kvae_nb.inference import routes as fi
from kvae_nb.inference import square_root as sq
from kvae_nb.inference.batched import forecast, rts_smoother, sample_posterior
from kvae_nb.inference.checks import vagueness
from kvae_nb.inference.lgssm import LGSSM, dense_joint, joint_log_prob, sample_prior
from kvae_nb.models import slds as learning

f32, f64 = torch.float32, torch.float64
CPU_ROUTES = ("loop", "information", "scan", "root", "cpu")


def system(dtype=f64, **changes):
    "A place and a speed, the place seen."
    t = lambda x: x if torch.is_tensor(x) else torch.tensor(x, dtype=dtype)
    m = (
        dict(
            A=[[[1.0, 1], [0, 1]]],
            C=[[[1.0, 0]]],
            Q=[[[0.1, 0], [0, 0.01]]],
            R=[[[1.0]]],
            mean1=[0.0, 0],
            cov1=[[1.0, 0], [0, 1]],
        )
        | changes
    )
    return LGSSM(t(m["A"]), None, t(m["C"]), t(m["Q"]), t(m["R"]), t(m["mean1"]), t(m["cov1"]))


def autoregressive(phi, q=1.0, dtype=f64):
    "An autoregressive series that is observed without noise."
    p = len(phi)
    A, one = torch.eye(p, dtype=dtype).roll(1, 0), torch.eye(p, dtype=dtype)[:1]
    A[0] = torch.tensor(phi, dtype=dtype)
    return LGSSM(
        A[None],
        None,
        one[None],
        q * (one.T @ one)[None],
        torch.zeros(1, 1, 1, dtype=dtype),
        torch.zeros(p, dtype=dtype),
        torch.eye(p, dtype=dtype),
    )


def series(*shape, seed=0):
    return torch.randn(*shape, dtype=f64, generator=torch.Generator().manual_seed(seed))


def cast(model, dtype):
    return LGSSM(*(None if M is None else M.to(dtype) for M in model))


def dense(model, a, mask=None):
    "Evidence and law of all states, from the joint Gaussian."
    n, p, T = model.A.shape[-1], model.C.shape[-2], len(a)
    rows = [T * n + t * p + i for t in range(T) if mask is None or mask[t] for i in range(p)]
    seen, joint = a.flatten()[[r - T * n for r in rows]], dense_joint(model, T)
    if not rows:
        return torch.zeros((), dtype=f64), joint
    return MultivariateNormal(joint.mean[rows], joint.cov[rows][:, rows]).log_prob(seen), condition(joint, rows, seen)


# --- one type, one device, one shape
# -------------------------------------------------------------------------------------------

EVIDENCES = {
    "lgssm": batched.loop_evidence,
    "filter": batched.loop_filter,
    "root": sq.root_evidence,
    "root filter": sq.root_filter,
    "root smoother": sq.root_smoothed,
    "information": par.information_evidence,
    "information smoother": par.information_smoother,
    "scan": par.scan_evidence,
    "scan filter": par.scan_filter,
    "scan smoother": par.scan_smoother,
}
EVIDENCES |= {
    f"{f.__name__} {b}": partial(f, backend=b) for f in (fi.log_evidence, fi.smoother) for b in ("auto", *CPU_ROUTES)
}
EVIDENCES |= {
    f"kalman_filter {b}": partial(fi.kalman_filter, backend=b) for b in ("auto", "loop", "scan", "root", "cpu")
}
WRONG = {
    "another type": lambda a: a.float(),
    "half": lambda a: a.half(),
    "bfloat16": lambda a: a.bfloat16(),
    "integers": lambda a: a.long(),
    "complex": lambda a: a.to(torch.complex128),
    "numpy": lambda a: a.numpy(),
    "a list": lambda a: a.tolist(),
    "None": lambda a: None,
    "one axis": lambda a: a[:, 0],
    "a number": lambda a: a[0, 0],
    "no step": lambda a: a[:0],
    "two coordinates": lambda a: a.expand(-1, 2),
    "another device": lambda a: a.to("meta"),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("door", EVIDENCES)
def test_observations_of_another_kind_are_refused_everywhere_in_the_same_way(door, wrong):
    with pytest.raises(InputError) as refusal:
        EVIDENCES[door](system(), WRONG[wrong](series(20, 1)))
    assert "a " in str(refusal.value) or "steps" in str(refusal.value)


@pytest.mark.parametrize("name", ["A", "C", "Q", "R", "mean1", "cov1"])
@pytest.mark.parametrize("door", EVIDENCES)
def test_a_model_of_two_kinds_is_refused_by_the_name_of_the_part(door, name):
    part = getattr(system(), name)
    for wrong in (part.float(), part.half(), part.long(), part.numpy(), part.to("meta")):
        with pytest.raises(InputError, match=rf"\b{name}\b"):
            EVIDENCES[door](system()._replace(**{name: wrong}), series(20, 1))


@pytest.mark.parametrize("door", EVIDENCES)
def test_masks_and_controls_of_another_kind_are_refused(door):
    f, m, a = EVIDENCES[door], system(), series(20, 1)
    for mask in (
        torch.ones(20),
        torch.ones(20, dtype=torch.int64),
        np.ones(20, bool),
        torch.ones(20, 1, dtype=torch.bool),
        torch.ones(20, dtype=torch.bool, device="meta"),
    ):
        with pytest.raises(InputError, match="mask"):
            f(m, a, mask)
    driven = m._replace(B=torch.ones(1, 2, 1, dtype=f64))
    for u in (
        series(20, 1).float(),
        series(20, 1).numpy(),
        series(20, 1).long(),
        series(19, 1),
        series(20, 2),
        series(20, 1).to("meta"),
        None,
    ):
        with pytest.raises(InputError, match=r"\bu\b|B has shape"):
            f(driven, a, None, u)
    with pytest.raises(InputError, match="no B"):
        f(m, a, None, series(20, 1))


def test_a_mask_for_each_coordinate_points_to_the_series_and_is_never_taken_for_a_batch():
    m = system()._replace(C=torch.eye(2, dtype=f64)[None], R=torch.eye(2, dtype=f64)[None])
    for a, mask in (
        (series(4, 6, 2), torch.rand(4, 6, 2) > 0.3),
        (series(2, 2), torch.eye(2, dtype=torch.bool)),
        (series(6, 2), torch.rand(6, 2) > 0.3),
        (series(3, 2, 2), torch.rand(3, 2, 2) > 0.3),
    ):
        for backend in ("auto", *CPU_ROUTES):
            with pytest.raises(InputError, match=r"mask.*series"):
                fi.log_evidence(m, a, mask, backend=backend)
    assert fi.log_evidence(m, series(2, 2, 2), torch.eye(2, dtype=torch.bool)).shape == (
        2,
    )  # two sequences of two steps


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.complex64])
@pytest.mark.parametrize("door", EVIDENCES)
def test_one_type_that_is_too_short_is_refused_as_well(door, dtype):
    with pytest.raises(InputError, match="float32 or float64 is needed"):
        EVIDENCES[door](cast(system(), dtype), series(20, 1).to(dtype))


def test_other_functions_of_a_model_refuse_as_well():
    m, a = system(), series(20, 1)
    filtered, last = batched.loop_filter(m, a), Gaussian(m.mean1, m.cov1)
    mixed = m._replace(Q=m.Q.float())
    calls = [
        lambda: sample_prior(mixed, 4),
        lambda: sample_prior(m, 0),
        lambda: sample_prior(m, -1),
        lambda: forecast(m, last, 0),
        lambda: forecast(mixed, last, 3),
        lambda: forecast(m, Gaussian(m.mean1.float(), m.cov1.float()), 3),
        lambda: rts_smoother(mixed, filtered),
        lambda: sample_posterior(mixed, filtered),
        lambda: rts_smoother(cast(m, f32), filtered),
        lambda: dense_joint(mixed, 3),
        lambda: dense_joint(m, 0),
        lambda: joint_log_prob(m, a.float().expand(20, 2), a),
        lambda: joint_log_prob(m, a.expand(20, 2), a.float()),
        lambda: joint_log_prob(m, a[:, 0], a),
        lambda: joint_log_prob(m._replace(Q=0 * m.Q), a.expand(20, 2), a),
        lambda: batched.observe(m, filtered.mean.float(), filtered.cov),
        lambda: batched.predict_step(last, m.A[0], m.Q[0].float()),
        lambda: batched.update_step(last, m.C[0], m.R[0], a[0].float()),
        lambda: batched.update_step(last, m.C[0], m.R[0], a[0], torch.tensor(1)),
    ]
    for k, call in enumerate(calls):
        with pytest.raises(InputError):
            call()
            pytest.fail(f"call {k} was not refused")


def test_a_part_on_another_device_does_not_end_the_process():
    code = """
import torch
from kvae_nb import fast_inference as fi
from kvae_nb.core import InputError
from kvae_nb.inference.lgssm import LGSSM
one = torch.ones
model = LGSSM(one(1, 1, 1), None, one(1, 1, 1), one(1, 1, 1), one(1, 1, 1), torch.zeros(1), one(1, 1))
for name in ("A", "C", "Q", "R", "mean1", "cov1"):
    for f in (fi.log_evidence, fi.kalman_filter, fi.smoother):
        for backend in ("auto", "cpu"):
            try: f(model._replace(**{name: getattr(model, name).to("meta")}), torch.randn(3, 20, 1), backend=backend)
            except InputError: continue
            raise SystemExit(3)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- covariances


@pytest.mark.parametrize("backend", ["auto", *CPU_ROUTES])
@pytest.mark.parametrize("name", ["Q", "cov1", "R"])
def test_what_is_no_covariance_is_refused_and_rounding_is_not(backend, name):
    m = system(C=torch.eye(2, dtype=f64)[None], R=torch.eye(2, dtype=f64)[None])
    a, part, corner = series(20, 2), getattr(m, name), torch.tensor([[0.0, 0], [1, 0]], dtype=f64)
    with pytest.raises(InputError, match=f"{name} is not symmetric"):
        fi.log_evidence(m._replace(**{name: part + 0.1 * part.max() * corner}), a, backend=backend)
    with pytest.raises(InputError, match=f"{name} has the variance"):
        fi.log_evidence(m._replace(**{name: part - 2 * part.max() * torch.eye(2, dtype=f64)}), a, backend=backend)
    nearly = part + 1e-7 * part.max() * corner
    lopsided = fi.log_evidence(m._replace(**{name: nearly}), a, backend="loop")
    assert_close(fi.log_evidence(m._replace(**{name: nearly}), a, backend=backend), lopsided, rtol=1e-6, atol=0)
    long_time = nearly.expand(*(20, 2, 2) if name != "cov1" else (2, 2))
    assert_close(fi.log_evidence(m._replace(**{name: long_time}), a, backend=backend), lopsided, rtol=1e-6, atol=0)


SINGULAR = {
    "known start": system(cov1=torch.zeros(2, 2, dtype=f64)),
    "known place": system(cov1=[[0.0, 0], [0, 1]]),
    "constant speed": system(Q=[[[0.1, 0], [0, 0.0]]]),
    "no pushes": system(Q=torch.zeros(1, 2, 2, dtype=f64)),
    "known and not pushed": system(Q=torch.zeros(1, 2, 2, dtype=f64), cov1=[[0.0, 0], [0, 1]]),
    "AR(3)": autoregressive([0.5, -0.3, 0.1]),
    "AR(1)": autoregressive([0.9]),
    "AR(2) with a zero": autoregressive([0.5, 0.0]),
}


@pytest.mark.parametrize("backend", ["auto", *CPU_ROUTES])
@pytest.mark.parametrize("name", SINGULAR)
@pytest.mark.parametrize("hidden", [(), (3, 4, 5), (0,)])
def test_singular_covariances_are_ordinary_models_or_refused(name, backend, hidden):
    model, a, mask = SINGULAR[name], series(10, 1), torch.ones(10, dtype=torch.bool)
    mask[list(hidden)] = False
    evidence, law = dense(model, a, mask)
    n = model.A.shape[-1]
    try:
        assert_close(fi.log_evidence(model, a, mask, backend=backend), evidence, rtol=1e-9, atol=1e-9)
        found = fi.smoother(model, a, mask, backend=backend)
    except InputError as refusal:
        assert backend in ("information", "scan") and "positive definite" in str(refusal)
        return
    for t in range(10):
        at, before = slice(t * n, t * n + n), slice(t * n - n, t * n)
        (
            assert_close(found.mean[t], law.mean[at], rtol=1e-7, atol=1e-7),
            assert_close(found.cov[t], law.cov[at, at], rtol=1e-7, atol=1e-7),
        )
        if t:
            assert_close(found.lag_cov[t - 1], law.cov[at, before], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", SINGULAR)
def test_gradients_of_singular_models_are_those_of_the_dense_gaussian(name):
    model, a = SINGULAR[name], series(10, 1)
    leaves = [x.clone().requires_grad_() for x in (model.A, model.C, model.mean1, a)]
    build = lambda: model._replace(A=leaves[0], C=leaves[1], mean1=leaves[2])
    right = torch.autograd.grad(dense(build(), leaves[3])[0], leaves)
    for backend in ("auto", "loop", "cpu"):
        for x, y in zip(torch.autograd.grad(fi.log_evidence(build(), leaves[3], backend=backend), leaves), right):
            assert_close(x, y, rtol=1e-7, atol=1e-7)
    moments = fi.smoother(build(), leaves[3])
    assert all(g.isfinite().all() for g in torch.autograd.grad(moments.mean.sum() + moments.cov.sum(), leaves))


@pytest.mark.parametrize("order", [2, 8, 9, 12, 20])
@pytest.mark.parametrize("what", ["log_evidence", "kalman_filter", "smoother"])
def test_an_autoregression_of_any_order_and_length_has_an_answer(order, what):
    model, a = autoregressive([0.4] + [0.3 / order] * (order - 1)), series(250, 1)
    found = getattr(fi, what)(model, a)
    assert all(x.isfinite().all() for x in ((found,) if torch.is_tensor(found) else found))
    if what == "log_evidence":
        past = torch.stack([a[order - 1 - k : 249 - k, 0] for k in range(order)], -1)
        assert_close(
            found,
            torch.distributions.Normal(past @ model.A[0, 0], 1.0).log_prob(a[order:, 0]).sum()
            + dense(model, a[:order])[0],
        )
    elif what == "smoother":
        (
            assert_close(found.mean[:, 0], a[:, 0]),
            assert_close(found.cov[:, 0, 0], torch.zeros(250, dtype=f64), atol=1e-12, rtol=0),
        )


# --- auto and digits


def chain(size, spread, r, q, dt=1.0):
    "Place, speed, acceleration …, the place seen; `spread`: their variances at the start."
    A = torch.matrix_exp(dt * torch.diag(torch.ones(size - 1, dtype=f64), 1))
    Q = torch.zeros(size, size, dtype=f64)
    Q[-1, -1] = q
    return LGSSM(
        A[None],
        None,
        torch.eye(size, dtype=f64)[None, :1],
        Q[None] + 1e-2 * q * torch.eye(size, dtype=f64),
        torch.full((1, 1, 1), r, dtype=f64),
        torch.zeros(size, dtype=f64),
        torch.diag(torch.tensor(spread, dtype=f64)),
    )


@settings(max_examples=40)
@given(
    st.integers(1, 4),
    st.lists(st.integers(-3, 12), min_size=4, max_size=4),
    st.integers(-6, 2),
    st.integers(-3, 1),
    st.booleans(),
    st.integers(0, 100),
)
def test_auto_keeps_its_digits_under_any_prior(size, spread, r, q, gap, seed):
    model = cast(chain(size, [10.0**k for k in spread[:size]], 10.0**r, 10.0**q), f32)
    a, mask = series(30, 1, seed=seed).cumsum(0).float(), torch.ones(30, dtype=torch.bool)
    mask[5:12] = not gap
    judge, x = cast(model, f64), a.double()
    right = (
        fi.log_evidence(judge, x, mask, backend="root"),
        fi.kalman_filter(judge, x, mask, backend="root"),
        fi.smoother(judge, x, mask, backend="root"),
    )
    for m, y, near in ((model, a, 2e-3), (judge, x, 1e-4)):
        assert_close(fi.log_evidence(m, y, mask).double(), right[0], rtol=near, atol=1e-2)
        for found, exact in ((fi.kalman_filter(m, y, mask), right[1]), (fi.smoother(m, y, mask), right[2])):
            sd = exact.cov.diagonal(dim1=-2, dim2=-1).sqrt()
            assert ((found.cov.double() - exact.cov).abs() <= near * sd[:, :, None] * sd[:, None]).all()
            assert ((found.mean.double() - exact.mean).abs() <= near * sd + 1e-6 * exact.mean.abs().max()).all()
            assert (found.cov.diagonal(dim1=-2, dim2=-1) > 0).all()


@pytest.mark.parametrize("dtype", [f32, f64])
@pytest.mark.parametrize("power", range(0, 13, 2))
@pytest.mark.parametrize("where", ["both", "speed", "place"])
def test_gradients_of_auto_keep_their_digits_as_well(where, power, dtype):
    v = 10.0**power
    model = cast(
        system(cov1={"both": [[v, 0], [0, v]], "speed": [[0.01, 0], [0, v]], "place": [[v, 0], [0, 0.01]]}[where]), f32
    )
    a = series(3, 40, 1).cumsum(1).float()

    def gradient(m, a, backend):
        A, y = m.A.clone().requires_grad_(), a.clone().requires_grad_()
        return torch.autograd.grad(fi.log_evidence(m._replace(A=A), y, backend=backend).sum(), (A, y))

    for x, y in zip(gradient(cast(model, dtype), a.to(dtype), "auto"), gradient(cast(model, f64), a.double(), "root")):
        assert_close(x.double(), y, rtol=0, atol=2e-3 * y.abs().max().item())


def test_vagueness_looks_in_every_direction_and_through_gaps():
    m, unknown = system(), system(cov1=[[0.01, 0], [0, 1e7]])
    assert math.isclose(vagueness(unknown, 1), 0.1 / 1.1)  # the first observation does not see the speed
    assert math.isclose(vagueness(unknown, 2), (0.01 + 1e7) / 1.1)
    mask = torch.ones(9, dtype=torch.bool)
    mask[3:7] = False
    assert math.isclose(vagueness(m, 9, mask), (1 + 16) / 1.1)
    batch = m._replace(cov1=torch.stack([m.cov1, unknown.cov1]))
    assert vagueness(batch, 9) > 9e6 and vagueness(batch._replace(A=m.A.expand(9, 2, 2)), 9) > 9e6


def test_five_thousand_steps_have_the_gradient_of_the_loop():
    a = series(1, 5000, 1).float().requires_grad_()
    model = cast(system(), f32)
    (right,) = torch.autograd.grad(fi.log_evidence(model, a, backend="loop").sum(), a)
    for backend in ("auto", "scan", "root"):
        assert_close(
            torch.autograd.grad(fi.log_evidence(model, a, backend=backend).sum(), a)[0], right, rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize("backend", ["auto", *CPU_ROUTES])
@pytest.mark.parametrize("seen", ["1", "0", "01", "00", "0111", "1110", "0100"])
def test_whatever_is_missing_it_is_the_dense_gaussian(backend, seen):
    mask = torch.tensor([c == "1" for c in seen])
    a = series(len(seen), 1).where(mask[:, None], torch.nan)
    evidence, law = dense(system(), a, mask)
    assert_close(fi.log_evidence(system(), a, mask, backend=backend), evidence)
    found = fi.smoother(system(), a, mask, backend=backend)
    assert_close(found.mean.flatten(), law.mean[: 2 * len(seen)])
    assert_close(torch.stack([law.cov[2 * t : 2 * t + 2, 2 * t : 2 * t + 2] for t in range(len(seen))]), found.cov)


# --- derivatives


def evidence_of(q, backend, a=series(12, 1)):
    return fi.log_evidence(system(Q=torch.diag_embed(q)[None]), a, backend=backend)


@pytest.mark.parametrize("backend", ["auto", *CPU_ROUTES])
def test_second_derivatives_are_right_or_refused_by_name(backend):
    q = torch.tensor([0.1, 0.01], dtype=f64)
    slope = lambda q: torch.autograd.functional.jacobian(lambda q: evidence_of(q, "loop"), q)
    right = torch.stack([(slope(q + h) - slope(q - h)) / 2e-6 for h in 1e-6 * torch.eye(2, dtype=f64)])
    ways = [
        lambda: torch.autograd.functional.hessian(lambda q: evidence_of(q, backend), q),
        lambda: torch.func.hessian(lambda q: evidence_of(q, backend))(q),
        lambda: torch.func.jacrev(torch.func.grad(lambda q: evidence_of(q, backend)))(q),
    ]
    for way in ways:
        try:
            found = way()
        except (RuntimeError, InputError) as refusal:
            assert backend in ("auto", "root", "cpu", "information") and "backend" in str(refusal)
            continue
        assert_close(found, right, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("backend", ["auto", *CPU_ROUTES])
def test_vmap_and_grad_are_right_or_refused_by_name(backend):
    q = torch.tensor([[0.1, 0.01], [0.3, 0.2], [1.0, 0.5]], dtype=f64)
    right = torch.stack([evidence_of(x, "loop") for x in q])
    slopes = torch.stack([torch.autograd.functional.jacobian(lambda q: evidence_of(q, "loop"), x) for x in q])
    try:
        values, grads = (
            torch.func.vmap(lambda x: evidence_of(x, backend))(q),
            torch.func.vmap(torch.func.grad(lambda x: evidence_of(x, backend)))(q),
        )
    except InputError as refusal:
        assert backend in ("root", "cpu", "information") and repr(backend) in str(refusal)
        return
    assert_close(values, right), assert_close(grads, slopes)


# --- samples


@pytest.mark.parametrize("name", SINGULAR)
@pytest.mark.parametrize("dtype", [f32, f64])
def test_paths_of_singular_models_have_the_moments_of_the_dense_gaussian(name, dtype):
    model, a, N = SINGULAR[name], series(6, 1), 4000
    m, g = cast(model, dtype), torch.Generator().manual_seed(0)
    n = model.A.shape[-1]
    law = dense(model, a)[1]
    paths = sample_posterior(m, batched.loop_filter(m, a.to(dtype).expand(N, 6, 1)), g).double().flatten(1)
    prior, joint = sample_prior(m, 6, (N,), generator=g), dense_joint(model, 6)
    for samples, mean, cov in (
        (paths, law.mean[: 6 * n], law.cov[: 6 * n, : 6 * n]),
        (prior.z.double().flatten(1), joint.mean[: 6 * n], joint.cov[: 6 * n, : 6 * n]),
    ):
        var = cov.diagonal()
        var = torch.where(var > 1e-12, var, 0.0)  # what is known: the dense Gaussian's own rounding is left
        rounding = 5e-3 if dtype == f32 else 1e-6  # the root of the type's rounding, of variances of order 1
        assert ((samples.mean(0) - mean).abs() < 5 * (var / N).sqrt() + rounding).all()
        assert ((samples.T.cov() - cov).abs() < 5 * ((var[:, None] * var + cov**2) / N).sqrt() + rounding).all()
        for k in (var == 0).nonzero()[:, 0]:
            assert (samples[:, k] - mean[k]).abs().max() < rounding


def test_a_constant_state_is_constant_in_every_path():
    model = system(A=[[[1.0]]], C=[[[1.0]]], Q=[[[0.0]]], R=[[[1.0]]], mean1=[0.0], cov1=[[1.0]])
    z = sample_posterior(model, batched.loop_filter(model, series(50, 9, 1)))
    assert_close(z, z[:, :1].expand_as(z))
    assert z[:, 0].std() > 0.1  # the fifty posteriors differ
    assert sample_prior(model._replace(cov1=0 * model.cov1), 5).z.abs().max() == 0


def test_gradients_go_through_samples_of_singular_models():
    for m in SINGULAR.values():
        leaf = m.A.clone().requires_grad_()
        z = sample_posterior(
            m._replace(A=leaf), batched.loop_filter(m._replace(A=leaf), series(6, 1)), torch.Generator().manual_seed(0)
        )
        assert torch.autograd.grad(z.square().sum(), leaf)[0].isfinite().all()


@settings(max_examples=50)
@given(st.integers(1, 6), st.integers(0, 6), st.sampled_from([f32, f64]), st.integers(-12, 6), st.integers(0, 1000))
def test_a_root_gives_its_covariance_back(n, rank, dtype, scale, seed):
    X = series(3, n, min(rank, n), seed=seed) * torch.logspace(scale / 4, -scale / 4, n, dtype=f64)[:, None]
    P = (X @ X.mT).to(dtype)
    L, d = psd_root(P), P.diagonal(dim1=-2, dim2=-1).sqrt()
    assert ((L @ L.mT - P).abs() <= 40 * n * torch.finfo(dtype).eps * d[..., :, None] * d[..., None, :]).all()
    assert sample_gaussian(Gaussian(torch.zeros(3, n, dtype=dtype), P)).isfinite().all()


def test_a_covariance_that_float32_has_spoilt_has_samples_and_a_wrong_one_has_none():
    X = series(200, 4, 2).float()
    spoilt = X @ X.mT - 1e-6 * torch.eye(4)  # rank 2, and a little less than nothing in the other directions
    assert (torch.linalg.eigvalsh(spoilt)[:, 0] < 0).all()
    L, d = psd_root(spoilt), spoilt.diagonal(dim1=-2, dim2=-1).sqrt()
    unit = d[..., None] * d[..., None, :]
    below = -torch.linalg.eigvalsh((spoilt / unit).double())[:, 0].clamp_max(0)[
        :, None, None
    ]  # what has to be taken away
    assert ((L @ L.mT - spoilt).abs() <= (below + 40 * torch.finfo(f32).eps) * unit).all()
    assert psd_root(torch.tensor([[1.0, 2], [2, 1]])).isnan().all() and psd_root(-torch.eye(2)).isnan().all()


# --- core


@pytest.mark.parametrize("seed", [-1, 2**63, 2**64, 1e20, 1.5, float("nan")])
def test_seeds_that_are_none_are_refused(seed):
    for f in (seed_everything, derived_seed, lambda s: derived_seed(0, s)):
        with pytest.raises(InputError, match="seed"):
            f(seed)


@pytest.mark.parametrize("name", ["gpu", "", "cuda:99", "meta", "xla", "mps:7", "cpu:1", "cuda:x", "CPU"])
def test_devices_that_are_not_there_are_refused(name):
    with pytest.raises(InputError, match="choose auto or one of: cpu"):
        pick_device(name)


def test_a_measurement_leaves_all_generators_as_they_were():
    import random

    draw = lambda: (random.random(), np.random.rand(), torch.rand(1).item())
    seed_everything(3)
    want = draw()
    seed_everything(3)
    with pytest.raises(KeyError):
        with kept_random_state():
            seed_everything(9), draw()
            raise KeyError
    assert draw() == want


# --- switching systems


def test_a_gap_that_nobody_declared_destroys_no_parameters():
    torch.manual_seed(0)
    a = chains.bouncing_point(6, 30).a
    parameters = learning.SLDSParameters(2, 1, 1)
    before = [p.clone() for p in parameters.parameters()]
    for wrong in (
        a.index_fill(1, torch.tensor([7]), torch.nan),
        a.index_fill(1, torch.tensor([7]), torch.inf),
        a[0],
        a[:0],
        a.double(),
        a.numpy(),
        a.long(),
    ):
        for method in ("imm", "gpb2", "relaxed"):
            with pytest.raises(InputError):
                learning.fit_slds(parameters, wrong, method=method, steps=2)
    assert all(torch.equal(x, y) for x, y in zip(before, parameters.parameters()))


@pytest.mark.parametrize("method", ["imm", "gpb2", "relaxed"])
def test_what_is_hidden_is_not_learned_from(method):
    a, mask = chains.bouncing_point(6, 30).a, torch.rand(6, 30, generator=torch.Generator().manual_seed(0)) > 0.3
    found = []
    for fill in (torch.nan, 0.0, 1e8, torch.inf):
        torch.manual_seed(0)
        p = learning.SLDSParameters(2, 1, 1)
        history = learning.fit_slds(
            p, a.where(mask[..., None], fill), method=method, steps=3, window=12, mask=mask
        ).history
        found.append((history, [x.tolist() for x in p.parameters()]))
    assert found[0] == found[1] == found[2] == found[3] and all(math.isfinite(x) for x in found[0][0])


def test_a_switching_system_with_known_states_is_smoothed_as_the_linear_one():
    for name in ("known start", "known and not pushed", "no pushes", "AR(3)"):
        m, a = SINGULAR[name], series(8, 1)
        one = slds.SLDS(
            m.A,
            None,
            m.C,
            m.Q,
            m.R,
            m.mean1[None],
            m.cov1[None],
            chains.Chain(*(x.double() for x in chains.sticky(1, 0.5))),
        )
        found = slds_smoother.switching_smoother(one, slds.switching_filter(one, a))
        law = dense(m, a)[1]
        n = m.A.shape[-1]
        assert_close(found.mean[:, 0].flatten(), law.mean[: 8 * n], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("dtype", [f32, f64])
@pytest.mark.parametrize("power", [2, 5, 7, 9, 12, 16])
@pytest.mark.parametrize("backend", CPU_ROUTES)
def test_a_route_that_is_asked_by_name_has_digits_or_refuses(backend, power, dtype):
    v = 10.0**power
    model, a = cast(system(cov1=[[0.01, 0], [0, v]]), dtype), series(60, 1).cumsum(0).to(dtype)
    judge, x = cast(model, f64), a.double()
    try:
        evidence, smoothed = fi.log_evidence(model, a, backend=backend), fi.smoother(model, a, backend=backend)
    except InputError as refusal:
        assert backend not in ("root", "information") and power > 5 and "no digits left" in str(refusal)
        return
    assert evidence.isfinite() and ((evidence.double() - fi.log_evidence(judge, x, backend="root")).abs() < 3)
    right = fi.smoother(judge, x, backend="root").cov.diagonal(dim1=-2, dim2=-1)
    if dtype == f64:
        assert_close(smoothed.cov.diagonal(dim1=-2, dim2=-1), right, rtol=0.05, atol=0)


@pytest.mark.parametrize("power", [6, 8, 10, 12])
@pytest.mark.parametrize("f", [fi.kalman_filter, fi.smoother])
def test_float64_keeps_six_digits_as_well(f, power):
    model, a = system(R=[[[1e-4]]], cov1=[[0.01, 0], [0, 10.0**power]]), series(60, 1).cumsum(0)
    variances = (f(model, a, backend=b).cov.diagonal(dim1=-2, dim2=-1) for b in ("auto", "root"))
    assert_close(*variances, rtol=1e-6, atol=0)


@pytest.mark.parametrize("steps", [60, 260])
def test_a_smoother_with_gradients_is_computed_in_float64(steps):
    model, a = (
        cast(system(Q=[[[1e-4, 0], [0, 1e-4]]], cov1=[[0.01, 0], [0, 500.0]]), f32),
        series(steps, 1).cumsum(0).float(),
    )
    found = fi.smoother(model._replace(A=model.A.clone().requires_grad_()), a).cov
    assert found.requires_grad and found.dtype == f32
    assert_close(
        found.detach().double(), fi.smoother(cast(model, f64), a.double(), backend="root").cov, rtol=1e-6, atol=1e-9
    )


# --- vague where only later steps look
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, limit", [(f32, 1e-4), (f64, 1e-7)])
@pytest.mark.parametrize("vague", [1e4, 1e6, 1e9, 1e12])
@pytest.mark.parametrize("own", [False, True])
def test_a_regressor_that_is_zero_for_long_hides_no_vague_coefficient(vague, dtype, limit, own):
    "A constant coefficient whose regressor is an intervention after eight steps."
    T, level = 30, 2.0
    C = torch.stack([torch.ones(T, dtype=f64), (torch.arange(T) >= 8).to(f64)], -1)[:, None]
    m = system(A=[[[1.0, 0], [0, 1]]], C=C, Q=[[[0.01, 0], [0, 0.01]]], cov1=[[1.0, 0], [0, vague]])
    x = series(T, 1) + level * C[:, :, 1]
    evidence, law = dense(m._replace(cov1=m.cov1.clamp_max(1e6)), x)
    m, x = cast(m, dtype), x.to(dtype)
    if own:
        m, x = m._replace(A=m.A.expand(3, T, 2, 2), cov1=m.cov1.expand(3, 2, 2)), x.expand(3, T, 1)
    for what, f in (("evidence", fi.log_evidence), ("filter", fi.kalman_filter), ("smoother", fi.smoother)):
        assert vagueness(m, T) > vague / 10
        got, right = f(m, x), f(cast(m, f64), x.double(), backend="root")
        if what == "evidence":
            assert_close(got.double(), right, rtol=limit, atol=limit)
            continue
        s = right.cov.diagonal(dim1=-2, dim2=-1).sqrt()
        assert ((got.cov.double() - right.cov).abs() <= 10 * limit * s[..., None] * s[..., None, :]).all()
        assert ((got.mean.double() - right.mean).abs() <= 10 * limit * s).all()
    if vague <= 1e6:  # the dense joint in float64 has digits enough
        assert_close(fi.log_evidence(m, x).double(), evidence.expand(3) if own else evidence, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("vague", [1e9, 1e10, 1e12])
def test_a_vague_direction_that_is_missed_by_a_cancellation_goes_by_root(vague):
    "C = (1, 1) sees nothing of the difference of both states, but it sees the rounding errors of its variance."
    odd = torch.tensor([[1.0, -1], [-1, 1]], dtype=f64)
    m = system(A=[[[0.9, 0], [0, 0.9]]], C=[[[1.0, 1]]], cov1=torch.eye(2, dtype=f64) + vague * odd)
    assert vagueness(m, 9) > vague and fi.choose("evidence", m, series(9, 1)).backend == "root"


@pytest.mark.parametrize("k", ["A", "C", "Q", "R", "mean1", "cov1"])
def test_functions_can_be_transformed_in_each_parameter(k):
    "Inside torch.func no value is looked at, of a parameter that is transformed or of another one."
    m, x = system(cov1=[[1.0, 0.2], [0.2, 1]]), series(6, 1)
    of = lambda M: fi.log_evidence(m._replace(**{k: M}), x)
    M = getattr(m, k)
    right = torch.autograd.functional.hessian(lambda M: fi.log_evidence(m._replace(**{k: M}), x, backend="loop"), M)
    for f in (torch.func.hessian(of), torch.func.jacrev(torch.func.grad(of))):
        assert_close(f(M), right)
    assert_close(torch.func.vmap(of)(torch.stack([M, M])), of(M).expand(2))


def test_a_known_state_that_rounding_leaves_below_zero_is_forecast():
    m = system(cov1=[[0.0, 0], [0, 0]])
    last = Gaussian(m.mean1, torch.tensor([[-2e-18, 0], [0, 1]], dtype=f64))
    assert_close(forecast(m, last, 3).z.cov, forecast(m, last._replace(cov=last.cov.clamp_min(0)), 3).z.cov)
    with pytest.raises(InputError, match="variance"):
        forecast(m, last._replace(cov=last.cov - 1e-3 * torch.eye(2, dtype=f64)), 3)
