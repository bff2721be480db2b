"""What was computed is freed with its last reference: nothing waits in a cycle for Python's collector, which comes late
where few objects hold much memory.
"""

import gc

import pytest
import torch
from models import MODELS, SEQUENCES, awake, observed, random_controls
from test_cpu_kernel import case, to

from kvae_nb.core.roots import psd_root
from kvae_nb.inference.routes import BACKENDS, log_evidence


def left_over(run) -> int:
    "Tensors that two calls leave behind, with the collector off."
    run()  # what is made once, such as gradients and caches
    gc.collect()
    gc.disable()
    gc.freeze()  # what is there already is not listed below
    try:
        run()
        run()
        return sum(issubclass(type(x), torch.Tensor) for x in gc.get_objects())
    finally:
        gc.unfreeze()
        gc.enable()


def given(name: str):
    "A model, sequences, a mask, controls."
    model = awake(name)
    if name in SEQUENCES:
        width = model.config.dim_u
        x, u = observed(model, 3, 9), torch.randn(3, 9, width) if width else None
    else:
        c = model.config
        x, u = (torch.rand(3, 9, c.channels, c.size, c.size) > 0.8).float(), random_controls(model, 3, 9)
    mask = torch.ones(3, 9, dtype=torch.bool)
    mask[:, 4:6] = False
    return model, x, mask, u


@pytest.mark.parametrize("name", [*MODELS, *SEQUENCES])
def test_a_model_leaves_nothing_behind(name):
    model, x, mask, u = given(name)

    def learn(mask):
        terms = model.elbo(x, mask, u)
        sum(v.sum() for v in terms if v is not None and v.requires_grad).backward()

    def all_of_it():
        learn(None)
        learn(mask)
        model.impute(x, mask, u)
        model.elbo(x, mask, u)  # a graph that nobody goes back through

    assert left_over(all_of_it) == 0


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("backend", [b for b in BACKENDS if b != "gpu"])
def test_an_evidence_leaves_nothing_behind(backend, own):
    model, a, mask, _ = to(torch.float32, *case(own=own))
    A = model.A.requires_grad_()
    evidence = lambda: log_evidence(model._replace(A=A), a, mask, backend=backend)
    assert left_over(evidence) == 0
    assert left_over(lambda: evidence().sum().backward()) == 0
    assert left_over(lambda: torch.autograd.grad(evidence().sum(), A, create_graph=True)) == 0


def test_a_gradient_taken_twice_takes_no_more_memory():
    model, a, mask, _ = to(torch.float32, *case())
    value = log_evidence(model._replace(A=model.A.requires_grad_()), a, mask, backend="cpu").sum()
    assert left_over(lambda: value.backward(retain_graph=True)) == 0


def test_a_root_leaves_nothing_behind():
    P = torch.diag(torch.tensor([1.0, 0.0])).requires_grad_()
    assert left_over(lambda: psd_root(P).sum().backward()) == 0


def test_a_cycle_would_be_seen():
    class Knot:
        pass

    def tie():
        knot = Knot()
        knot.self, knot.value = knot, torch.zeros(3)

    assert left_over(tie) == 2
    gc.collect()
