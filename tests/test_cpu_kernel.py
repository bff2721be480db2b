"""The compiled CPU kernel against the plain loop, the dense joint law and finite differences, and what it refuses."""

import math
import os
import subprocess
import sys
from itertools import product as all_of

import pytest
import torch
from torch.testing import assert_close

from kvae_nb.core.errors import InputError
from kvae_nb.inference.batched import rts_smoother
from kvae_nb.inference.cpu_kernel import MOST, cpu_evidence, cpu_filter, cpu_kernel_fits, cpu_smoother
from kvae_nb.inference.lgssm import LGSSM, dense_joint
from kvae_nb.inference.routes import kalman_filter, log_evidence

f32, f64 = torch.float32, torch.float64
NAMES = (*LGSSM._fields, "a", "u")


def spd(k, *lead):
    X = torch.randn(*lead, k, k, dtype=f64)
    return X @ X.mT / k + 0.2 * torch.eye(k, dtype=f64)


def case(lanes=3, steps=6, n=3, p=2, m=0, own=True, changing=True):
    "A random model, observations, a mask that hides some of them behind NaN, and controls."
    lead, time = (lanes,) if own else (), steps if changing else 1
    A = 0.9 * torch.linalg.qr(torch.randn(*lead, time, n, n, dtype=f64))[0]
    B = torch.randn(*lead, time, n, m, dtype=f64) if m else None
    model = LGSSM(
        A,
        B,
        torch.randn(*lead, time, p, n, dtype=f64),
        spd(n, *lead, time),
        spd(p, *lead, time),
        torch.randn(*lead, n, dtype=f64),
        spd(n, *lead),
    )
    mask = torch.rand(lanes, steps) > 0.3
    a = torch.randn(lanes, steps, p, dtype=f64)
    return (
        model,
        torch.where(mask[..., None], a, math.nan),
        mask,
        torch.randn(lanes, steps, m, dtype=f64) if m else None,
    )


def to(dtype, model, *tensors):
    move = lambda x: x if x is None or x.dtype == torch.bool else x.to(dtype)
    return LGSSM(*map(move, model)), *map(move, tensors)


def value_and_gradients(evidence, model, a, mask, u, weights):
    leaves = {k: x.detach().clone().requires_grad_() for k, x in zip(NAMES, (*model, a, u)) if x is not None}
    given = LGSSM(*(leaves.get(k) for k in LGSSM._fields))
    value = evidence(given, leaves["a"], mask, leaves.get("u"))
    grads = torch.autograd.grad((value * weights.to(value)).sum(), list(leaves.values()), materialize_grads=True)
    return value.detach(), dict(zip(leaves, grads))


SIZES = [
    (1, 1, 1, 1, 0),
    (3, 1, 2, 1, 1),
    (1, 7, 3, 2, 0),
    (7, 5, 4, 2, 2),
    (16, 4, 2, 3, 0),
    (33, 6, 4, 2, 1),
    (70, 3, 8, 8, 0),
    (2, 4, 1, 5, 3),
]


@pytest.mark.parametrize("lanes, steps, n, p, m", SIZES)
@pytest.mark.parametrize("own, changing", list(all_of((True, False), repeat=2)))
def test_evidence_and_every_gradient_are_the_loops(lanes, steps, n, p, m, own, changing):
    model, a, mask, u = case(lanes, steps, n, p, m, own, changing)
    weights = torch.linspace(0.5, 1.5, lanes)
    for seen in (mask, None):
        x = a if seen is not None else a.nan_to_num()
        value, grads = value_and_gradients(cpu_evidence, model, x, seen, u, weights)
        right, wanted = value_and_gradients(log_evidence, model, x.nan_to_num(), seen, u, weights)
        assert_close(value, right, rtol=1e-11, atol=1e-10)
        for k in wanted:
            assert_close(
                grads[k],
                wanted[k],
                rtol=1e-8,
                atol=1e-9 * max(1, wanted[k].abs().max().item()),
                msg=lambda text: f"{k}: {text}",
            )


@pytest.mark.parametrize("lanes, steps, n, p, m", SIZES[1:6])
@pytest.mark.parametrize("own, changing", list(all_of((True, False), repeat=2)))
def test_moments_are_the_loops(lanes, steps, n, p, m, own, changing):
    model, a, mask, u = case(lanes, steps, n, p, m, own, changing)
    for seen in (mask, None):  # without a mask, sequences of one model share their covariances
        x = a if seen is not None else a.nan_to_num()
        right = kalman_filter(model, x.nan_to_num(), seen, u)
        for found, wanted in zip(
            (*cpu_filter(model, x, seen, u), *cpu_smoother(model, x, seen, u)), (*right, *rts_smoother(model, right))
        ):
            assert found.shape == wanted.shape
            assert_close(found, wanted, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("lanes, own", [(1, False), (5, True), (33, False), (33, True)])
def test_the_smoother_of_float32_is_that_of_float64_rounded(lanes, own):
    "The arithmetic is float64 either way; single numbers are only read and returned."
    model, a, mask, _ = case(lanes, 6, 3, 2, own=own)
    single = LGSSM(*(None if x is None else x.float() for x in model))
    double = LGSSM(*(None if x is None else x.double() for x in single))
    for seen in (mask, None):
        x = (a if seen is not None else a.nan_to_num()).float()
        for found, wanted in zip(cpu_smoother(single, x, seen), cpu_smoother(double, x.double(), seen)):
            assert found.dtype == torch.float32 and torch.equal(found, wanted.float())


@pytest.mark.parametrize("own", [True, False])
def test_results_are_contiguous_and_what_is_shared_is_there_once(own):
    model, a, _, _ = case(20, 5, 3, 2, own=own)
    found = cpu_filter(model, a.nan_to_num())
    for x in (found.predicted_mean, found.mean, found.log_prob):
        assert x.is_contiguous()
    for x in (found.predicted_cov, found.cov, cpu_smoother(model, a.nan_to_num()).cov):
        assert x.is_contiguous() if own else x.stride(0) == 0


def test_evidence_is_that_of_the_dense_joint():
    model, a, _, u = case(1, 5, 3, 2, m=2, own=False)
    law = dense_joint(model, 5, u[0])
    states = 5 * 3
    x = a[0].nan_to_num()
    right = torch.distributions.MultivariateNormal(law.mean[states:], law.cov[states:, states:]).log_prob(x.flatten())
    assert_close(cpu_evidence(model, x, None, u[0]), right, rtol=1e-12, atol=1e-12)


def test_smoothed_moments_are_those_of_the_dense_joint():
    model, a, mask, _ = case(1, 5, 2, 2, own=False)
    law = dense_joint(model, 5)
    seen = torch.cat([torch.zeros(10, dtype=torch.bool), mask[0].repeat_interleave(2)])
    S = law.cov[seen][:, seen]
    G = torch.linalg.solve(S, law.cov[seen][:, :10]).mT
    mean = law.mean[:10] + G @ (a[0].flatten()[seen[10:]] - law.mean[seen])
    cov = law.cov[:10, :10] - G @ law.cov[seen][:, :10]
    found = cpu_smoother(model, a, mask)
    assert_close(found.mean[0].flatten(), mean, rtol=1e-9, atol=1e-10)
    for t in range(5):
        assert_close(found.cov[0, t], cov[2 * t : 2 * t + 2, 2 * t : 2 * t + 2], rtol=1e-9, atol=1e-10)
    for t in range(4):
        assert_close(found.lag_cov[0, t], cov[2 * t + 2 : 2 * t + 4, 2 * t : 2 * t + 2], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("own", [True, False])
def test_gradients_are_finite_differences(own):
    model, a, mask, u = case(2, 4, 2, 2, m=1, own=own)
    even = lambda P: (P + P.mT) / 2
    inputs = [x.clone().requires_grad_() for x in (*model, a.nan_to_num(), u)]
    f = lambda *x: cpu_evidence(LGSSM(*x[:3], *map(even, x[3:5]), x[5], even(x[6])), x[7], mask, x[8])
    assert torch.autograd.gradcheck(f, inputs, eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("which", ["A", "C", "Q", "R", "mean1", "cov1"])
def test_one_matrix_of_its_own_is_enough_to_be_told_apart(which):
    "Everything is shared but one argument; its gradient has its shape, and so have the others."
    model, a, mask, _ = case(5, 4, 3, 2, own=False, changing=False)
    x = getattr(model, which)
    model = model._replace(**{which: torch.stack([x * (1 + 0.1 * k) for k in range(5)])})
    value, grads = value_and_gradients(cpu_evidence, model, a, mask, None, torch.ones(5))
    right, wanted = value_and_gradients(log_evidence, model, a.nan_to_num(), mask, None, torch.ones(5))
    assert_close(value, right, rtol=1e-11, atol=1e-10)
    for k in wanted:
        assert grads[k].shape == wanted[k].shape
        assert_close(grads[k], wanted[k], rtol=1e-8, atol=1e-9)


def test_batches_broadcast():
    model, a, mask, _ = case(6, 4, 2, 1)
    square = LGSSM(*(None if x is None else x[:3, None] for x in model))
    x, seen = (
        a.unflatten(0, (2, 3))[:1].transpose(0, 1).expand(3, 2, 4, 1),
        mask.unflatten(0, (2, 3))[0][:, None].expand(3, 2, 4),
    )
    wanted = log_evidence(LGSSM(*(None if y is None else y[:3] for y in model)), a[:3].nan_to_num(), mask[:3])
    assert_close(cpu_evidence(square, x, seen), wanted[:, None].expand(3, 2))
    found, right = (
        cpu_smoother(square, x, seen),
        cpu_smoother(LGSSM(*(None if y is None else y[:3] for y in model)), a[:3], mask[:3]),
    )
    assert found.mean.shape == (3, 2, 4, 2) and found.lag_cov.shape == (3, 2, 3, 2, 2)
    assert_close(found.cov[:, 1], right.cov)


def test_views_of_any_kind_are_read_as_what_they_show():
    model, a, _, _ = case(4, 5, 3, 2)
    a = a.nan_to_num()
    wanted = log_evidence(model, a)
    turned = LGSSM(*(None if x is None else x.mT.contiguous().mT if x.dim() > 2 else x for x in model))
    assert_close(cpu_evidence(turned, a.transpose(0, 1).contiguous().transpose(0, 1)), wanted)
    wide = torch.full((4, 5, 6), math.nan, dtype=f64)
    wide[..., ::3] = a
    assert_close(cpu_evidence(model, wide[..., ::3]), wanted)
    negated = torch.complex(torch.zeros_like(a), -a).conj().imag
    for x in (negated, torch._neg_view(-a)):  # the second one lies in memory without gaps
        assert x.is_neg()
        assert_close(cpu_evidence(model, x), wanted)
    repeated = a[:1].expand(4, -1, -1)
    assert_close(cpu_evidence(model, repeated), log_evidence(model, repeated.contiguous()))
    one = model.A[:1].expand(4, -1, -1, -1).clone(memory_format=torch.preserve_format).requires_grad_()
    (g,) = torch.autograd.grad(cpu_evidence(model._replace(A=one), a).sum(), one)
    leaf = one.detach().contiguous().requires_grad_()
    assert_close(g, torch.autograd.grad(log_evidence(model._replace(A=leaf), a).sum(), leaf)[0], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("own", [True, False])
def test_float32_is_float64_rounded(own):
    model, a, mask, u = case(300, 25, 4, 2, 1, own, own)
    single = to(f32, model, a, mask, u)
    double = to(f64, *single)
    weights = torch.ones(300)
    value, grads = value_and_gradients(cpu_evidence, *single, weights)
    right, wanted = value_and_gradients(cpu_evidence, *double, weights)
    assert value.dtype == f32 and all(g.dtype == f32 for g in grads.values())
    assert_close(value.double(), right, rtol=2e-5, atol=2e-4)
    for k in wanted:  # 25 steps of 6e-8 each, times the condition of S
        assert (grads[k].double() - wanted[k]).abs().max() < 2e-4 * wanted[k].abs().max(), k
    found, exact = cpu_smoother(*single), cpu_smoother(*double)
    assert all(x.dtype == f32 for x in found)
    for x, y in zip(found, exact):
        assert_close(x, y.float(), rtol=1e-6, atol=1e-6)


def test_gradient_of_shared_matrices_is_added_up_in_float64():
    "50 000 equal terms: in float32 each new one would be rounded against the sum."
    n = 50_000
    model = LGSSM(
        torch.ones(1, 1, 1),
        None,
        torch.ones(1, 1, 1),
        torch.ones(1, 1, 1),
        torch.ones(1, 1, 1),
        torch.zeros(1, requires_grad=True),
        torch.ones(1, 1),
    )
    cpu_evidence(model, torch.full((n, 1, 1), 0.3)).sum().backward()
    assert_close(model.mean1.grad, torch.tensor([n * 0.15]), rtol=1e-6, atol=0)


def test_eight_small_noises_do_not_underflow():
    "The determinant is 1e-48, which no float32 is."
    n = 8
    I = torch.eye(n)
    model = LGSSM(I[None], None, I[None], 0 * I[None], 1e-6 * I[None], torch.zeros(n), 0 * I)
    a = 1e-3 * torch.randn(2, 3, n)
    assert_close(
        cpu_evidence(model, a).double(),
        log_evidence(LGSSM(*(None if x is None else x.double() for x in model)), a.double()),
        rtol=1e-5,
        atol=0,
    )


def test_singular_covariances_are_ordinary_models():
    model, a, mask, _ = case(3, 6, 3, 2, own=False, changing=False)
    O = torch.zeros(3, 3, dtype=f64)
    for changed in (dict(Q=O[None]), dict(cov1=O), dict(Q=O[None], cov1=O)):
        m = model._replace(**changed)
        value, grads = value_and_gradients(cpu_evidence, m, a, mask, None, torch.ones(3))
        right, wanted = value_and_gradients(log_evidence, m, a.nan_to_num(), mask, None, torch.ones(3))
        assert_close(value, right)
        for k in wanted:
            assert_close(grads[k], wanted[k], rtol=1e-8, atol=1e-9)
    w = torch.tensor([0.5, -0.2, 0.1], dtype=f64)
    A = torch.cat([w[None], torch.eye(3, dtype=f64)[:2]])
    Q = torch.zeros(3, 3, dtype=f64)
    Q[0, 0] = 1
    ar = LGSSM(
        A[None],
        None,
        torch.eye(3, dtype=f64)[None, :1],
        Q[None],
        torch.zeros(1, 1, 1, dtype=f64),
        torch.zeros(3, dtype=f64),
        torch.eye(3, dtype=f64),
    )
    x = torch.randn(40, 1, dtype=f64)
    past = torch.stack([torch.cat([x[max(0, t - 3) : t, 0].flip(0)]) for t in range(3, 40)])
    normal = torch.distributions.Normal(past @ w, 1.0)
    assert_close(cpu_filter(ar, x).log_prob[3:], normal.log_prob(x[3:, 0]))


def test_nothing_observed_is_the_prior():
    model, a, _, _ = case(2, 4, 2, 1)
    hidden = torch.zeros(2, 4, dtype=torch.bool)
    value, grads = value_and_gradients(cpu_evidence, model, torch.full_like(a, math.nan), hidden, None, torch.ones(2))
    assert (value == 0).all() and all((g == 0).all() for g in grads.values())
    found, right = cpu_smoother(model, a, hidden), kalman_filter(model, a.nan_to_num(), hidden)
    assert_close(found.mean, right.predicted_mean)
    assert_close(found.cov, right.predicted_cov)


def test_nan_begins_where_the_loops_does():
    "Sequence 1 has an innovation covariance that is indefinite at step 2; the others do not notice."
    model, a, _, _ = case(3, 5, 2, 2)
    a = a.nan_to_num()
    R = model.R.clone()
    R[1, 2] = 50 * torch.tensor([[1.0, 2], [2, 1]], dtype=f64)
    model = model._replace(R=R)
    for found, wanted in zip(cpu_filter(model, a), kalman_filter(model, a)):
        assert (found.isnan() == wanted.isnan()).all()
        assert_close(found.nan_to_num(), wanted.nan_to_num(), rtol=1e-9, atol=1e-9)
    assert cpu_evidence(model, a).isnan().tolist() == [False, True, False]
    for x in cpu_smoother(model, a):
        assert x[1].isnan().all() and not x[[0, 2]].isnan().any()


def test_a_covariance_that_is_symmetric_to_rounding_is_taken_as_its_symmetric_part():
    model, a, _, _ = case(2, 4, 3, 2)
    a = a.nan_to_num()
    tilt = lambda P: P * (1 + 1e-6 * torch.ones_like(P).tril(-1))
    tilted = model._replace(Q=tilt(model.Q), R=tilt(model.R), cov1=tilt(model.cov1))
    even = lambda P: (P + P.mT) / 2
    straight = model._replace(Q=even(tilted.Q), R=even(tilted.R), cov1=even(tilted.cov1))
    assert_close(cpu_evidence(tilted, a), log_evidence(straight, a), rtol=1e-13, atol=1e-12)
    assert (cpu_evidence(tilted, a) - cpu_evidence(model, a)).abs().min() > 1e-9


@pytest.mark.parametrize("which", NAMES)
@pytest.mark.parametrize("function", [cpu_evidence, cpu_filter, cpu_smoother])
def test_mixed_types_and_devices_are_refused(which, function):
    model, a, _, u = to(f32, *case(3, 4, 2, 1, m=1))
    given = dict(zip(NAMES, (*model, a.nan_to_num(), u)))
    for change in (lambda x: x.double(), lambda x: x.to("meta"), lambda x: x.half(), lambda x: x.int()):
        wrong = given | {which: change(given[which])}
        with pytest.raises(InputError):
            function(LGSSM(*(wrong[k] for k in LGSSM._fields)), wrong["a"], None, wrong["u"])


def test_no_kernel_no_steps_and_other_refusals():
    model, a, mask, _ = case(2, 3, MOST + 1, 1)
    assert not cpu_kernel_fits(model, a)
    with pytest.raises(InputError, match="9 states"):
        cpu_evidence(model, a, mask)
    model, a, mask, _ = case(2, 3, 2, 1)
    assert (
        cpu_kernel_fits(model, a) and not cpu_kernel_fits(model, a.to("meta")) and not cpu_kernel_fits(model, a.half())
    )
    for x in (a[:, :0], a[0, 0], a.numpy(), a[..., :0]):
        with pytest.raises(InputError):
            cpu_evidence(model, x)
    with pytest.raises(InputError):
        cpu_evidence(model, a, mask.float())
    with pytest.raises(InputError, match="torch.func"):
        torch.func.grad(lambda m: cpu_evidence(model._replace(mean1=m), a.nan_to_num()).sum())(model.mean1)
    with pytest.raises(InputError, match="torch.func"):
        torch.func.vmap(lambda x: cpu_evidence(LGSSM(*(None if y is None else y[0] for y in model)), x))(a.nan_to_num())
    assert cpu_evidence(LGSSM(*(None if y is None else y[:0] for y in model)), a[:0]).shape == (0,)


@pytest.mark.parametrize("which", ["A", "C", "Q", "R", "mean1", "cov1"])
def test_second_derivatives_are_refused(which):
    model, a, mask, _ = case(1, 4, 2, 1, own=False)
    f = lambda x: cpu_evidence(model._replace(**{which: x}), a, mask).sum()
    with pytest.raises(RuntimeError, match="'cpu' .* use backend='loop' or 'scan'"):
        torch.autograd.functional.hessian(f, getattr(model, which))


def test_a_change_in_place_between_forward_and_backward_is_noticed():
    model, a, mask, _ = case(2, 3, 2, 1)
    leaf = model.C.clone().requires_grad_()
    C = leaf * 1
    value = cpu_evidence(model._replace(C=C), a, mask).sum()
    C.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_backward_can_run_twice_and_in_any_order():
    model, a, mask, _ = case(3, 4, 2, 1)
    leaf = model.A.clone().requires_grad_()
    one, two = cpu_evidence(model._replace(A=leaf), a, mask), cpu_evidence(model._replace(A=2 * leaf), a, mask)
    (g2,), (g1,) = (
        torch.autograd.grad(two.sum(), leaf, retain_graph=True),
        torch.autograd.grad(one.sum(), leaf, retain_graph=True),
    )
    assert_close(torch.autograd.grad(one.sum() + two.sum(), leaf)[0], g1 + g2)
    assert not torch.equal(g1, g2)


@pytest.mark.parametrize("spoil", ["damaged", "read only", "a file"])
def test_a_spoilt_cache_costs_time_and_nothing_else(tmp_path, spoil):
    "In a process of its own: the folder is filled, spoilt, and asked again."
    code = (
        "import torch; from kvae_nb.inference.cpu_kernel import cpu_evidence; from kvae_nb.inference.lgssm "
        "import LGSSM; I = torch.eye(1)[None]; torch.set_num_threads(1);"
        "print(round(cpu_evidence(LGSSM(I, None, I, I, I, torch.zeros(1), I[0]), torch.ones(3, 1)).item(), 4))"
    )
    folder = tmp_path / "cache"
    run = lambda: subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"KVAE_NB_CACHE": str(folder)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    if spoil == "a file":
        folder.write_text("not a folder")
    else:
        folder.mkdir()
    if spoil == "read only":
        folder.chmod(0o500)
    first = run()
    if spoil == "damaged":
        files = list(folder.glob("*.o"))
        assert files
        for f in files:
            content = bytearray(f.read_bytes())
            content[len(content) // 2] ^= 255
            f.write_bytes(content)
    second = run()
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    I = torch.eye(1)[None]
    right = log_evidence(LGSSM(I, None, I, I, I, torch.zeros(1), I[0]), torch.ones(3, 1)).item()
    assert float(first.stdout) == float(second.stdout) == pytest.approx(right, abs=1e-4)
