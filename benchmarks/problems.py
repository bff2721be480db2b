"""The problems every library has to solve, in float64, and what is right about them."""

from typing import NamedTuple

import torch
from torch import Tensor

from kvae_nb.inference.batched import rts_smoother
from kvae_nb.inference.lgssm import LGSSM, sample_prior
from kvae_nb.inference.routes import kalman_filter

N, P = 4, 2
ROWS = {  # name: sequences, steps, whose own the parameters are
    "a": (32, 20, "nobody"),
    "b": (256, 100, "nobody"),
    "bp": (256, 100, "sequence"),
    "c": (1, 10_000, "nobody"),
    "d": (1, 100_000, "nobody"),
    "e": (32, 20, "step"),
}
TITLES = {
    "a": "32×20",
    "b": "256×100",
    "bp": "256×100, own parameters",
    "c": "1×10,000",
    "d": "1×100,000",
    "e": "32×20, own A_t, C_t",
}


class Problem(NamedTuple):
    "Observations and the model that made them."

    row: str
    model: LGSSM  # parameters that nobody owns have no batch axis, those that do not change a time axis of 1
    a: Tensor  # [batch, time, p]
    wrt: tuple[str, ...] = ("A", "C", "a")  # what the evidence is differentiated by; `a` are the observations

    def to(self, dtype) -> "Problem":
        "The same in another precision."
        return self._replace(model=LGSSM(*(M if M is None else M.to(dtype) for M in self.model)), a=self.a.to(dtype))


def turning_point(own: tuple[int, ...] = (), time: int = 1, wobble: float = 0.0, seed: int = 0) -> LGSSM:
    """A damped, turning state seen through a dense C. `own` are batch axes, `wobble` what tells the matrices of two
    sequences or steps apart.
    """
    g = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=g)

    turn = torch.linalg.matrix_exp(torch.tensor([[0, 0.3], [-0.3, 0.0]], dtype=torch.float64))
    A = 0.95 * torch.kron(torch.eye(2, dtype=torch.float64), turn) + 0.05 * torch.diag(
        torch.ones(2, dtype=torch.float64), 2
    )
    C = torch.tensor([[1.0, 0.2, 0.5, 0], [0, 0.3, -0.2, 1.0]], dtype=torch.float64)
    I, O = torch.eye(N, dtype=torch.float64), torch.eye(P, dtype=torch.float64)
    A, C = A + wobble * randn(*own, time, N, N), C + wobble * randn(*own, time, P, N)
    return LGSSM(A, None, C, 0.08 * I[None], 0.03 * O[None], torch.zeros(N, dtype=torch.float64), I)


def exact(problem: Problem) -> Problem:
    "The same, rounded to numbers that float32 can hold: what is measured afterwards is arithmetic, not rounded data."
    return problem.to(torch.float32).to(torch.float64)


def make_problem(row: str, wrt: tuple[str, ...] = ("A", "C", "a"), sizes: tuple | None = None) -> Problem:
    "One of the ROWS."
    batch, steps, owner = sizes or ROWS[row]
    if owner == "nobody":
        model = turning_point()
    elif owner == "step":
        model = turning_point((batch,), steps, 0.03)
    else:
        model = turning_point((batch,), 1, 0.03)
        g = torch.Generator().manual_seed(1)
        factor = 0.5 + torch.rand(3, batch, 1, 1, 1, dtype=torch.float64, generator=g)
        model = model._replace(
            Q=factor[0] * model.Q,
            R=factor[1] * model.R,
            cov1=factor[2, :, 0] * model.cov1,
            mean1=model.mean1.expand(batch, -1),
        )
    a = sample_prior(model, steps, (batch,) if owner == "nobody" else (), generator=torch.Generator().manual_seed(2)).a
    return exact(Problem(row, model, a.reshape(batch, steps, P), wrt))


def make_tiny(wrt: tuple[str, ...]) -> dict[str, Problem]:
    """Three sequences of five steps, for each owner of the parameters, with a first state of its own mean: to see
    whether all mean the same model.
    """
    found = {owner: make_problem(owner, wrt, (3, 5, owner)) for owner in ("nobody", "sequence", "step")}
    mean1 = torch.tensor([1.0, -2, 0.5, 3], dtype=torch.float64)
    return {k: p._replace(model=p.model._replace(mean1=p.model.mean1 + mean1)) for k, p in found.items()}


STRESS = {  # name: variance of the observations, variance of the first state, steps
    "R=1e-4, Σ₁=1e4": (1e-4, 1e4, 200),
    "R=1e-2, Σ₁=1e6, T=10,000": (1e-2, 1e6, 10_000),
    "R=1e-8, Σ₁=100": (1e-8, 100.0, 200),
}


def make_stress(name: str) -> Problem:
    """One sequence that starts almost anywhere, moves smoothly and is seen sharply: position and speed on a plane,
    only the position observed.
    """
    R, cov1, steps = STRESS[name]
    I = torch.eye(2, dtype=torch.float64)
    A = torch.cat([torch.cat([I, I], 1), torch.cat([0 * I, 0.99 * I], 1)])
    model = LGSSM(
        A[None],
        None,
        torch.cat([I, 0 * I], 1)[None],
        1e-4 * torch.eye(N, dtype=torch.float64)[None],
        R * I[None],
        torch.zeros(N, dtype=torch.float64),
        cov1 * torch.eye(N, dtype=torch.float64),
    )
    a = sample_prior(
        model._replace(cov1=torch.eye(N, dtype=torch.float64)), steps, (1,), generator=torch.Generator().manual_seed(3)
    ).a
    return Problem(name, model, a)


def expected_score(model: LGSSM, a: Tensor, mean: Tensor, cov: Tensor, lag: Tensor) -> Tensor:
    """E[log p(a, z)] under the law of the states with these moments, summed: by Fisher's identity its gradient is
    the evidence's.
    """

    def quadratic(S, noise):
        L = torch.linalg.cholesky(noise)
        return -0.5 * torch.cholesky_solve(S, L).diagonal(dim1=-2, dim2=-1).sum(-1) - L.diagonal(
            dim1=-2, dim2=-1
        ).log().sum(-1)

    def outer(x):
        return x[..., :, None] * x[..., None, :]

    later = lambda M: M if M.shape[-3] == 1 else M[..., 1:, :, :]
    A, C = later(model.A), model.C
    first = quadratic(cov[..., 0, :, :] + outer(mean[..., 0, :] - model.mean1), model.cov1)
    e = mean[..., 1:, :] - (A @ mean[..., :-1, :, None])[..., 0]
    AL = A @ lag.mT  # A Cov(z_t, z_{t+1})
    moved = quadratic(cov[..., 1:, :, :] - AL - AL.mT + A @ cov[..., :-1, :, :] @ A.mT + outer(e), later(model.Q))
    seen = quadratic(C @ cov @ C.mT + outer(a - (C @ mean[..., None])[..., 0]), model.R)
    return first.sum() + moved.sum() + seen.sum()


def reference(problem: Problem, gradient: bool = True) -> dict[str, Tensor]:
    """What is right, from the plain loop in float64; the gradient by Fisher's identity, so that no filter is
    differentiated.
    """
    model, a, wrt = problem.model, problem.a, problem.wrt
    with torch.no_grad():
        filtered = kalman_filter(model, a)
        smoothed = rts_smoother(model, filtered)
    right = {
        "evidence": filtered.log_prob.sum(-1),
        "mean": filtered.mean,
        "cov": filtered.cov,
        "smoothed mean": smoothed.mean,
        "smoothed cov": smoothed.cov,
    }
    if gradient:
        leaves = {k: (a if k == "a" else getattr(model, k)).clone().requires_grad_() for k in wrt}
        score = expected_score(
            model._replace(**{k: v for k, v in leaves.items() if k != "a"}), leaves.get("a", a), *smoothed
        )
        right |= {f"d/d{k}": g for k, g in zip(wrt, torch.autograd.grad(score, list(leaves.values())))}
    return {k: v.detach() for k, v in right.items()}
