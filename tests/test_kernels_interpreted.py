"""The Triton kernels in Triton's interpreter, on a CPU, against the loop in float64: types, sizes, masks, controls.

Triton decides when it is imported whether it interprets, so everything runs once in a process of its own (this file is
its program), and the tests below look at what it found. torch.compile, the plain alternative, is asked the same."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import torch

from kvae_nb.inference.batched import loop_evidence, loop_filter, rts_smoother
from kvae_nb.inference.gpu_kernel import triton_evidence, triton_filter, triton_smoother
from kvae_nb.inference.lgssm import LGSSM

F64 = torch.float64
CASES = {  # states, observed numbers, steps, batch axes, what changes in time, what each sequence has for itself
    "everything": (3, 2, 3, (3,), "ABCQR", "ABCQR1a"),
    "shared": (2, 2, 4, (3,), "", "a"),
    "a KVAE": (4, 2, 4, (3,), "AC", "ACa"),
    "noises": (2, 2, 3, (2,), "QR", "QRa"),
    "smallest": (1, 1, 4, (2, 2), "A", "Aa"),
    "more than a warp": (2, 1, 3, (33,), "A", "1a"),
    "more observed than states": (2, 4, 2, (2,), "C", "Ca"),
    "one sequence": (2, 1, 6, (), "AC", ""),
    "one step": (2, 1, 1, (3,), "", "a"),
    "largest": (8, 4, 2, (1,), "", "a"),
}
LIMITS = {
    "float64": 1e-9,
    "float32": 1e-3,
}  # some hundred roundings, enlarged by the conditioning of innovations (≤ 100)
TYPES = ("float64", "float32")
KINDS = ("plain", "masked", "controls", "both")


def spd(k, *lead, g):
    X = torch.randn(*lead, k, k, dtype=F64, generator=g)
    return X @ X.mT / k + 0.3 * torch.eye(k, dtype=F64)


def system(name: str, kind: str):
    "Leaves of model, observations and controls in float64, and the mask; what is hidden is NaN."
    n, p, steps, lead, vary, own = CASES[name]
    g = torch.Generator().manual_seed(len(name))
    of = lambda k: (*(lead if k in own else ()), steps if k in vary else 1)
    rand = lambda *s: torch.randn(*s, dtype=F64, generator=g)
    first, seen = lead if "1" in own else (), lead if "a" in own else ()
    leaves = [0.6 * rand(*of("A"), n, n), rand(*of("B"), n, 2), rand(*of("C"), p, n), spd(n, *of("Q"), g=g)]
    leaves += [
        spd(p, *of("R"), g=g),
        rand(*first, n),
        spd(n, *first, g=g),
        rand(*seen, steps, p),
        rand(*lead, steps, 2),
    ]
    mask = None
    if kind in ("masked", "both"):
        mask = torch.rand(*seen, steps, generator=g) < 0.6
        leaves[7] = leaves[7].where(mask[..., None], torch.nan)
    if kind not in ("controls", "both"):
        leaves[1] = leaves[8] = None
    return leaves, mask


def answers(functions, leaves, mask, dtype):
    "Evidence, its gradients, filtered and smoothed moments."
    leaves = [None if x is None else x.to(dtype).requires_grad_() for x in leaves]
    model, a, u = LGSSM(*leaves[:7]), leaves[7], leaves[8]
    value = functions[0](model, a, mask, u)
    weights = torch.linspace(0.5, 2.0, value.numel(), dtype=dtype).reshape(value.shape)
    used = [x for x in leaves if x is not None]
    grads = torch.autograd.grad((weights * value).sum(), used, materialize_grads=True)
    with torch.no_grad():
        return [value, *grads], [*functions[1](model, a, mask, u)], [*functions[2](model, a, mask, u)]


def apart(found, right) -> float:
    "The largest difference, relative to the largest entry, or to 1; NaN is not passed over."
    pairs = [(f.detach().double(), r.detach()) for f, r in zip(found, right) if r.numel()]
    assert all(f.shape == r.shape for f, r in pairs)
    return max(((f - r).abs().max() / max(1.0, r.abs().max().item())).item() for f, r in pairs)


def compared() -> dict:
    "How far the kernels are from the loop, by case, kind and type."
    smooth = lambda model, a, mask, u: rts_smoother(model, loop_filter(model, a, mask, u))
    kernels, loops = (triton_evidence, triton_filter, triton_smoother), (loop_evidence, loop_filter, smooth)
    found = {}
    for name in CASES:
        for kind in KINDS if name in ("everything", "a KVAE") else ("plain",) if name == "largest" else ("both",):
            leaves, mask = system(name, kind)
            right = answers(loops, leaves, mask, F64)
            for dtype in TYPES:
                ours = answers(kernels, leaves, mask, getattr(torch, dtype))
                assert all(x.dtype == getattr(torch, dtype) for part in ours for x in part)
                found[f"{name}/{kind}/{dtype}"] = [apart(o, r) for o, r in zip(ours, right)]
    return found


@pytest.fixture(scope="module")
def found():
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton does not exist for this system")
    env = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, __file__], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", CASES)
def test_kernels_agree_with_the_loop(found, name, dtype):
    here = {k: v for k, v in found.items() if k.startswith(f"{name}/") and k.endswith(dtype)}
    assert len(here) == (len(KINDS) if name in ("everything", "a KVAE") else 1)
    for differences in here.values():
        assert len(differences) == 3 and all(d <= LIMITS[dtype] for d in differences), here


def test_float32_was_float32(found):
    "Or the type would not have been the one that was asked for: rounding shows."
    assert all(max(v) > 1e-9 for k, v in found.items() if k.endswith("float32"))


def test_the_compiled_loop_is_the_loop(found):
    "torch.compile, the plain alternative to a kernel: evidence and gradients, traced without a break."
    assert found["compiled"] <= LIMITS["float64"]


def compiled() -> float:
    "How far the evidence that torch.compile traces whole, and its gradients, are from the loop's."
    leaves, mask = system("a KVAE", "masked")
    leaves = [None if x is None else x.requires_grad_() for x in leaves]
    used, pairs = [x for x in leaves if x is not None], []
    for function in (torch.compile(loop_evidence, backend="aot_eager", fullgraph=True), loop_evidence):
        value = function(LGSSM(*leaves[:7]), leaves[7], mask, None)
        pairs.append([value, *torch.autograd.grad(value.sum(), used, materialize_grads=True)])
    return apart(*pairs)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({**compared(), "compiled": compiled()}))
