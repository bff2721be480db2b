"""What a GPU's path can be asked without a GPU: on the meta device, with stand-ins for torch.cuda, in Triton's
interpreter (`test_kernels_interpreted.py`)."""

import ast
import contextlib
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from models import MODELS, SEQUENCES, awake, observed
from torch.utils._python_dispatch import TorchDispatchMode

import kvae_nb.inference.gpu_kernel as gpu_kernel
import kvae_nb.inference.routes as routes
import kvae_nb.models.protocol as protocol
import kvae_nb.models.sequence_inputs as sequence_inputs
import kvae_nb.training.loop as loop
import kvae_nb.training.scaling as scaling
from kvae_nb.core.errors import InputError
from kvae_nb.data.batches import batches
from kvae_nb.data.films import VideoData, take
from kvae_nb.inference.batched import loop_evidence
from kvae_nb.inference.lgssm import LGSSM
from kvae_nb.models.dynamics import evidence_dynamics, filter_masked
from kvae_nb.models.kvae import KVAE, KVAEConfig
from kvae_nb.training.config import TrainConfig
from kvae_nb.training.records import Reporter
from kvae_nb.training.step import (
    Replayed,
    capturable,
    draw,
    make_optimiser,
    make_trainer,
    replayable,
    reseed,
    train_step,
    update,
)

ROOT = Path(__file__).resolve().parents[1]
TINY = KVAEConfig(size=16, filters=4, alpha="mlp", alpha_units=8)


class NoCopies(TorchDispatchMode):
    "Copies between CPU and device, which make a program wait, or cannot be recorded, are errors."

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if (name := func._schema.name) in ("aten::_to_copy", "aten::copy_"):
            source = args[name == "aten::copy_"]
            assert source.device.type == out.device.type, f"{source.device} to {out.device}"
        return out


@contextlib.contextmanager
def as_on_a_gpu():
    "Tensors of the meta device are taken as a CUDA device's; kernels are launched, and do nothing."
    fits = lambda model, a: not gpu_kernel._misfit(model, a)
    with contextlib.ExitStack() as held:
        for module in (protocol, sequence_inputs):  # which refuse meta tensors, as they should
            held.enter_context(patch.object(module, "as_tensor", lambda values, *named: values))
        held.enter_context(patch.object(torch, "autocast", lambda *given, **named: contextlib.nullcontext()))
        held.enter_context(patch.object(gpu_kernel, "is_interpreted", lambda: True))
        held.enter_context(patch.object(routes, "gpu_kernel_fits", fits))
        yield held.enter_context(patch.object(gpu_kernel, "launch_kernel"))


def on_meta(name: str, masked: bool):
    "The model, observations, mask and controls on the meta device."
    model = awake(name)
    x, u = observed(model, 3, 9) if name in SEQUENCES else frames_of(model), controls_of(model)
    mask = torch.ones(3, 9, dtype=torch.bool) if masked else None
    return model.to("meta"), *(None if v is None else v.to("meta") for v in (x, mask, u))


def frames_of(model):
    return torch.rand(3, 9, model.config.channels, model.config.size, model.config.size)


def controls_of(model):
    dim_u = getattr(model.config, "dim_u", 0)
    return torch.randn(3, 9, dim_u) if dim_u else None


# The published estimator draws from covariances whose roots are looked at, outside of a recording, on every device; in
# continuous time the longest step is looked at, which says how often steps are doubled.
LOOKS = {"published bound", "continuous time", "continuous time, controls"}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", [k for k in MODELS | SEQUENCES if k not in LOOKS])
def test_bound_and_gradients_wait_for_no_device(name, masked):
    model, x, mask, u = on_meta(name, masked)
    with as_on_a_gpu() as launch, NoCopies():
        terms = model(x, mask, u, model.noise(3, 9, 4, torch.ones((), device="meta")))
        terms.elbo.sum().backward()
    assert all(v.is_meta and v.shape[:1] == (3,) and v.dtype == torch.float32 for v in terms if v is not None)
    weights = [p for part in model.parts().values() for p in part]
    assert all(p.grad.shape == p.shape for p in weights if p.grad is not None)
    unused = sum(p.grad is None for p in weights)
    assert unused <= (name in SEQUENCES and not masked)  # what stands for a hidden observation
    if name in ("paper", "window", "constant"):  # a constant system is no other one where frames are hidden
        assert launch.call_count == (2 if name == "constant" or not masked else 0)


def test_a_model_that_asks_is_noticed():
    model, x, mask, u = on_meta("paper", False)
    with as_on_a_gpu(), NoCopies(), pytest.raises(RuntimeError, match="item"):
        model(x, mask, u, model.noise(3, 9)).elbo.sum().item()
    with as_on_a_gpu(), NoCopies(), pytest.raises(AssertionError, match="cpu to meta"):
        model(x, mask, u, model.noise(3, 9)._replace(a=torch.zeros(3, 9, 2).to("meta")))


def meta_system(dtype, lead=(3,), steps=5, n=4, p=2, m=0):
    make = lambda *shape: torch.empty(*shape, dtype=dtype, device="meta", requires_grad=True)
    B = make(*lead, 1, n, m) if m else None
    system = (make(*lead, steps, n, n), B, make(*lead, steps, p, n), make(1, n, n), make(1, p, p), make(n), make(n, n))
    return LGSSM(*system), make(*lead, steps, p), make(*lead, steps, m) if m else None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("masked, m", [(False, 0), (True, 2)])
def test_kernels_return_what_they_promise(dtype, masked, m):
    model, a, u = meta_system(dtype, m=m)
    mask = torch.ones(3, 5, dtype=torch.bool, device="meta") if masked else None
    with as_on_a_gpu() as launch, NoCopies():
        value = gpu_kernel.triton_evidence(model, a, mask, u)
        value.sum().backward()
        filtered = gpu_kernel.triton_filter(model, a, mask, u)
        smoothed = gpu_kernel.triton_smoother(model, a, mask, u)
    assert value.shape == (3,) and all(x.dtype == dtype for x in (value, *filtered, *smoothed))
    assert all(x.grad.shape == x.shape for x in (*model, a, u) if x is not None)
    assert [tuple(x.shape) for x in filtered] == [(3, 5, 4), (3, 5, 4, 4)] * 2 + [(3, 5)]
    assert [tuple(x.shape) for x in smoothed] == [(3, 5, 4), (3, 5, 4, 4), (3, 4, 4, 4)]
    assert [c.args[0] for c in launch.call_args_list] == ["_forward", "_backward", "_forward", "_forward", "_backward"]


def test_frames_hidden_from_a_constant_system_have_the_evidence_of_the_loop():
    torch.manual_seed(0)
    d = awake("constant").dynamics.double()
    a, mask = torch.randn(3, 9, 2, dtype=torch.float64), torch.rand(3, 9) > 0.4
    right = filter_masked(d, a, mask).filtered.log_prob.sum(-1)
    with patch("kvae_nb.models.dynamics.masked_fits", lambda *given: False):
        found = evidence_dynamics(d, a.where(mask[..., None], torch.nan), mask)
    torch.testing.assert_close(found, right, rtol=1e-10, atol=1e-10)


# --- what experts said should be looked at first ---------------------------------------------------------------------


@contextlib.contextmanager
def pretended_cuda(recording: bool):
    "What torch's optimisers ask before each step, in an older and a newer way; warnings are errors."
    stream = SimpleNamespace(is_capturing=lambda: recording)
    with (
        patch.object(torch.backends.cuda, "is_built", lambda: True),
        patch.object(torch.cuda, "is_available", lambda: True),
        patch.object(torch.cuda, "is_current_stream_capturing", lambda: recording),
        patch.object(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("cuda")),
        patch.object(torch.accelerator, "current_stream", lambda device=None: stream),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("error")
        yield


def health(optimiser):
    "Torch's own question to an optimiser before a step."
    new, old = "_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"
    optimiser._warned_capturable_if_run_uncaptured = False  # it warns once
    getattr(optimiser, new if hasattr(optimiser, new) else old)()


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_optimiser_is_capturable_while_it_is_recorded_and_only_then(decay):
    optimiser = make_optimiser(KVAE(TINY), 0.01, decay)
    with pretended_cuda(recording=False):
        health(optimiser)
        with capturable(optimiser), pytest.raises(UserWarning, match="graph capture"):
            health(optimiser)
    with pretended_cuda(recording=True):
        with pytest.raises(RuntimeError, match="capturable.*False"):
            health(optimiser)
        with capturable(optimiser):
            health(optimiser)
    assert not any(group["capturable"] for group in optimiser.param_groups)


class Broken:
    "A recorder in which recording fails."

    def __init__(self, error):
        self.error = error

    def rehearse(self, function):
        return function()

    def record(self, function):
        raise self.error


def films(n=16, steps=8):
    g = torch.Generator().manual_seed(0)
    return VideoData((torch.rand(n, steps, 1, 16, 16, generator=g) > 0.8).to(torch.uint8) * 255)


def test_a_step_that_cannot_be_recorded_is_refused_in_a_sentence():
    trainer, rows = make_trainer(KVAE(TINY), TrainConfig(device="cpu", join={})), torch.arange(4)
    for error, kind, words in (
        (
            RuntimeError("operation not\npermitted"),
            InputError,
            r"\(operation not permitted\); set train.graph to false",
        ),
        (torch.OutOfMemoryError("full"), torch.OutOfMemoryError, "full"),
    ):
        replayed = Replayed(trainer, films(), lambda: Broken(error))
        for step in range(3):
            replayed(rows, 0.0, step)
        with pytest.raises(kind, match=words):
            replayed(rows, 0.0, 3)
    assert not trainer.optimiser.param_groups[0]["capturable"]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_what_is_recorded(precision):
    data, cuda = films(), torch.device("cuda")
    trainer = make_trainer(KVAE(TINY), TrainConfig(device="cpu", join={}))
    trainer = trainer._replace(config=replace(trainer.config, precision=precision))
    plain = trainer._replace(config=replace(trainer.config, graph=False))
    assert not replayable(trainer, data)
    with patch.object(Accelerator, "device", cuda):
        assert not replayable(trainer, data)
        with patch.object(VideoData, "device", cuda):
            assert [replayable(t, data) for t in (trainer, plain)] == [True, False]
            with patch.object(Accelerator, "num_processes", 2):
                assert not replayable(trainer, data)


def with_scaler(scale):
    "A trainer on the CPU whose gradients are scaled as in fp16."
    torch.manual_seed(0)
    trainer = make_trainer(KVAE(TINY), TrainConfig(device="cpu", join={}))
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=2)
    acc, optimiser = trainer.accelerator, AcceleratedOptimizer(trainer.optimiser.optimizer, scaler=scaler)
    acc.scaler, acc.native_amp, acc._optimizers = scaler, True, [optimiser]
    return trainer._replace(config=replace(trainer.config, precision="fp16"), optimiser=optimiser), scaler


@patch.object(Accelerator, "mixed_precision", "fp16")  # so that it takes the scale away before it clips
def test_a_scaled_step_asks_nothing_and_skips_an_overflow():
    class Unasked(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            name = func._schema.name
            assert "_local_scalar_dense" not in name and "nonzero" not in name, name
            return func(*args, **(kwargs or {}))

    data, unread = films(), lambda *tensors: False
    module = "kvae_nb.models.dynamics.log_evidence"
    trainer, scaler = with_scaler(2.0**8)
    with patch(module, loop_evidence):
        train_step(trainer, take(data, torch.arange(16)), 0.0, 0)
    assert scaler.get_scale() == 2**8
    with patch(module, loop_evidence), patch("kvae_nb.inference.checks.readable", unread), Unasked():
        reseed(trainer.config, "train", 1)
        update(trainer, take(data, torch.arange(16)), draw(trainer, 16, 8), 0)
    assert scaler.get_scale() == 2**9  # two good steps: the scale has grown
    torch.manual_seed(0)
    plain = make_trainer(KVAE(TINY), TrainConfig(device="cpu", join={}))
    with patch(module, loop_evidence):
        train_step(plain, take(data, torch.arange(16)), 0.0, 0)
        train_step(plain, take(data, torch.arange(16)), 0.0, 1)
    both = zip(trainer.bare.parameters(), plain.bare.parameters())
    assert all(torch.equal(scaled, p) for scaled, p in both)  # powers of two cost no digits
    trainer, scaler = with_scaler(2.0**127)  # gradients overflow
    before = [p.detach().clone() for p in trainer.bare.parameters()]
    train_step(trainer, take(data, torch.arange(16)), 0.0, 0)
    assert all(torch.equal(b, p) for b, p in zip(before, trainer.bare.parameters())) and scaler.get_scale() == 2**126


def test_several_processes_need_not_look_for_unused_weights_in_every_step():
    handler = make_trainer(KVAE(TINY), TrainConfig(device="cpu", join={})).accelerator.ddp_handler
    assert handler.static_graph and not handler.find_unused_parameters


class Said(Reporter):
    "What was said."

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


@pytest.mark.parametrize("free, stays", [(10**9, False), (3 * 10**4, True)])
def test_data_that_do_not_fit_stay_on_the_cpu(free, stays):
    data, reporter, moved = films(), Said(), []
    with (
        patch.object(torch.cuda, "mem_get_info", lambda device: (free, 10**9)),
        patch.object(VideoData, "to", lambda self, where: moved.append(str(where)) or self),
    ):
        loop.placed(data, torch.device("cuda"), reporter)
    assert loop.bytes_of(data) == 16 * 8 * 16 * 16 and moved == ["cpu" if stays else "cuda"]
    assert ["stay on the CPU" in line for line in reporter.lines] == [True] * stays


def test_data_that_find_no_room_stay_on_the_cpu():
    reporter, moved = Said(), []

    def to(self, where):
        moved.append(str(where))
        if str(where) == "cuda":
            raise torch.OutOfMemoryError("full")
        return self

    with (
        patch.object(torch.cuda, "mem_get_info", lambda device: (10**9, 10**9)),
        patch.object(torch.cuda, "empty_cache", lambda: None),
        patch.object(VideoData, "to", to),
    ):
        loop.placed(films(), torch.device("cuda"), reporter)
    assert moved == ["cuda", "cpu"] and len(reporter.lines) == 1


def test_batches_of_data_that_stay_are_moved():
    mask = torch.rand(16, 8) > 0.2
    data, order = replace(films(), mask=mask), torch.tensor([3, 1, 2, 0])
    for batch in batches(data, 2, order, device=torch.device("meta")):
        assert batch.x.is_meta and batch.x.dtype == torch.float32 and batch.mask.is_meta and batch.x.shape[:2] == (2, 8)
    here = list(batches(data, 2, order, device=torch.device("cpu")))
    for b, rows in zip(here, order.split(2)):
        assert torch.equal(b.x, take(data, rows).x) and torch.equal(b.mask, mask[rows])


def point(width: float, dtype=torch.float32):
    "One turning state seen by its first coordinate, under a prior of that variance."
    A = torch.tensor([[1.0, 0.1], [0.0, 1.0]])
    model = LGSSM(A[None], None, A[None, :1], 0.01 * A.new_ones(2).diag()[None], A.new_full((1, 1, 1), 0.01), A[0] * 0,
                  width * A.new_ones(2).diag())  # fmt: skip
    return LGSSM(*(None if x is None else x.to(dtype) for x in model)), torch.randn(6, 1, dtype=dtype)


def chosen_on_a_gpu(what, model, a, waits=True):
    with (
        patch.object(routes, "readable", lambda *given: False),
        patch.object(routes, "cpu_kernel_fits", lambda *given: False),
        patch.object(routes, "gpu_kernel_fits", lambda *given: True),
        patch.object(routes, "may_wait", lambda like: waits),
        patch.object(torch.Tensor, "is_cpu", False),
    ):
        return routes.choose(what, model, a)


@pytest.mark.parametrize("what", ["evidence", "filter", "smoother"])
def test_a_vague_prior_on_a_gpu_is_met(what):
    with patch.object(routes, "lacks", lambda *given: None):  # which reads by itself
        assert chosen_on_a_gpu(what, *point(1.0)) == ("gpu", what == "smoother")
        assert chosen_on_a_gpu(what, *point(1e3)) == ("loop" if what == "smoother" else "gpu", True)
        assert chosen_on_a_gpu(what, *point(1e9)) == ("root", True)
        assert chosen_on_a_gpu(what, *point(1e9), waits=False) == ("gpu", False)
        model, a = point(1e9)
        gradient = chosen_on_a_gpu(what, model, a.requires_grad_())
        assert gradient == (("gpu" if what == "evidence" else "loop"), False)  # nobody waits in training


def test_when_a_program_may_wait_for_a_gpu():
    assert not routes.may_wait(torch.zeros(1))
    for recording in (False, True):
        with (
            patch.object(torch.Tensor, "is_cuda", True),
            patch.object(torch.cuda, "is_current_stream_capturing", lambda: recording),
        ):
            assert routes.may_wait(torch.zeros(1)) == (not recording)


def test_launching_does_not_ask_cuda_in_this_process():
    def never(*given, **named):
        raise AssertionError("CUDA was asked before the fork")

    answer = SimpleNamespace(stdout="1\n")
    with patch.object(torch.cuda, "device_count", never), patch.object(torch.cuda, "is_available", never):
        assert scaling.count_gpus() == 0  # this torch was built without
        with (
            patch.object(torch.backends.cuda, "is_built", lambda: True),
            patch.object(scaling.subprocess, "run", lambda *given, **named: answer),
            pytest.raises(InputError, match="this machine has 1 GPU"),
        ):
            scaling.launch(print, processes=2)


def doubled_before(node) -> bool:
    "Whether a chain of calls has .double() of what has not gone through .cpu()."
    doubled = False
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr != "cpu":
        doubled, node = doubled or node.func.attr == "double", node.func.value
    through = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    return doubled and not through


def test_numbers_become_float64_on_the_cpu_only():
    "MPS has no float64: `.double().cpu()` fails there, `.cpu().double()` does not."
    last = lambda code: ast.parse(code).body[0].value.func.value
    assert [doubled_before(last(c)) for c in ("x.double().sum().cpu()", "x.cpu().double().numpy()")] == [True, False]
    for path in (ROOT / "kvae_nb").rglob("*.py"):
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        chains = [n for n in calls if isinstance(n.func, ast.Attribute) and n.func.attr in ("cpu", "numpy")]
        assert not [n.lineno for n in chains if doubled_before(n.func.value)], path
