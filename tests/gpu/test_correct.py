"""On a CUDA device: what models and kernels compute there is what a CPU computes in float64."""

import pytest
import torch
from models import MODELS, SEQUENCES, awake, observed
from test_kernels_interpreted import CASES, KINDS, answers, apart, system
from torch.utils._pytree import tree_map

from kvae_nb.inference.batched import loop_evidence, loop_filter, rts_smoother
from kvae_nb.inference.gpu_kernel import gpu_kernel_fits, triton_evidence, triton_filter, triton_smoother
from kvae_nb.inference.lgssm import LGSSM
from kvae_nb.inference.routes import choose, kalman_filter, log_evidence, smoother

DEVICE = "cuda"
# float32: a sum of some 10⁴ rounded terms through a dozen layers; float64: the same with 2⁻⁵² for 2⁻²³
TOLERANCE = {torch.float32: 2e-3, torch.float64: 1e-9}
SMOOTH = lambda model, a, mask, u: rts_smoother(model, loop_filter(model, a, mask, u))
LOOPS, KERNELS = (loop_evidence, loop_filter, SMOOTH), (triton_evidence, triton_filter, triton_smoother)


@pytest.fixture(autouse=True)
def plain_products():
    "TF32, which has ten bits of mantissa, is not what is compared here."
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def moved(values, device, dtype):
    "Tensors on the device, wherever they stand in tuples; floats of that type."
    there = lambda v: v.to(device, dtype if v.is_floating_point() else None) if torch.is_tensor(v) else v
    return tree_map(there, values)


def bound_and_gradients(model, x, mask, u, noise):
    "The parts of the bound of each sequence, and the gradient of their sum by every weight; 0 where it has no part."
    terms = model(x, mask, u, noise)
    terms.elbo.sum().backward()
    return [v for v in terms if v is not None], [
        p.new_zeros(p.shape) if p.grad is None else p.grad for part in model.parts().values() for p in part
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", MODELS | SEQUENCES)
def test_bound_and_gradients_are_those_of_the_cpu_in_float64(name, masked, dtype):
    reference, model = awake(name).double(), awake(name).to(DEVICE, dtype)
    c = model.config
    pixels = lambda: (torch.rand(3, 9, c.channels, c.size, c.size) > 0.8).float()
    x = observed(awake(name), 3, 9) if name in SEQUENCES else pixels()
    u = torch.randn(3, 9, c.dim_u) if getattr(c, "dim_u", 0) else None
    mask = torch.rand(3, 9) > 0.3 if masked else None
    noise = awake(name).noise(3, 9, 4, 0.5)
    here, there = moved(noise, "cpu", torch.float64), moved(noise, DEVICE, dtype)
    right = bound_and_gradients(reference, *moved((x, mask, u), "cpu", torch.float64), here)
    found = bound_and_gradients(model, *moved((x, mask, u), DEVICE, dtype), there)
    for ours, theirs in zip(found, right):
        assert all(v.is_cuda and v.dtype in (dtype, torch.float32) for v in ours)
        assert apart([v.cpu() for v in ours], theirs) <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_kernels_are_the_loop(name, kind, dtype):
    leaves, mask = system(name, kind)
    right = answers(LOOPS, leaves, mask, torch.float64)
    there = [None if x is None else x.to(DEVICE) for x in leaves]
    found = answers(KERNELS, there, None if mask is None else mask.to(DEVICE), dtype)
    for ours, theirs in zip(found, right):
        assert all(v.is_cuda for v in ours)
        assert apart([v.cpu() for v in ours], theirs) <= {torch.float32: 1e-3, torch.float64: 1e-9}[dtype]


def test_two_launches_are_bit_equal():
    leaves, mask = system("more than a warp", "both")
    leaves = [None if x is None else x.to(DEVICE) for x in leaves]
    first, second = (answers(KERNELS, leaves, mask.to(DEVICE), torch.float32) for _ in range(2))
    assert all(torch.equal(x, y) for a, b in zip(first, second) for x, y in zip(a, b))


def test_auto_takes_the_kernel_and_meets_a_vague_prior():
    leaves, _ = system("a KVAE", "plain")
    model = LGSSM(*(None if x is None else x.to(DEVICE, torch.float32) for x in leaves[:7]))
    a, wide = leaves[7].to(DEVICE, torch.float32), model._replace(cov1=1e9 * torch.eye(4, device=DEVICE))
    assert gpu_kernel_fits(model, a) and choose("evidence", model, a).backend == "gpu"
    assert choose("evidence", wide, a).backend == "root"
    exact = LGSSM(*(None if x is None else x.cpu().double() for x in wide))
    for function in (log_evidence, kalman_filter, smoother):
        right, found = (function(m, v) for m, v in ((exact, a.cpu().double()), (wide, a)))
        right, found = ([right], [found]) if torch.is_tensor(right) else (right, found)
        assert apart([v.cpu() for v in found], right) <= 1e-3
