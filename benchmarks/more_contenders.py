"""Two more libraries for lgssm_peers.py: cuthbert (JAX, Cholesky factors) and statsmodels (compiled, float64)."""

from types import SimpleNamespace

import numpy as np
import torch
from contenders import Contender, Dynamax, read_filter, read_smoother


class Cuthbert(Dynamax):
    """cuthbert, jitted, and mapped over the sequences by jax.vmap. It carries Cholesky factors, and its first state is
    not observed: the first step of ours is a transition that forgets the state before it.
    """

    package = "cuthbert"

    def __init__(self, name: str, parallel: bool = False):
        import jax
        import jax.numpy as jnp
        from cuthbert import filter, smoother
        from cuthbert.gaussian import kalman

        Contender.__init__(self, name)
        self.jax, self.jnp, self.parallel, self.double, self.way = jax, jnp, parallel, False, self
        self.kalman, self.run_filter, self.run_smoother = kalman, filter, smoother

    def params(self, A, C, Q, R, mean1, cov1):
        return A, C, Q, R, mean1, cov1

    def states(self, params, a):
        "The filtered states, the one before the first step included, and how a smoother reads the transitions."
        A, C, Q, R, mean1, cov1 = params
        jnp, steps, n, p = self.jnp, len(a), A.shape[-1], C.shape[-2]
        each = lambda M: jnp.broadcast_to(M, (steps, *M.shape[-2:]))
        first = jnp.arange(steps) == 0
        F = jnp.where(first[:, None, None], 0.0, each(A))
        shift = jnp.where(first[:, None], mean1, jnp.zeros(n, a.dtype))
        root = self.jnp.linalg.cholesky
        chol_Q = jnp.where(first[:, None, None], root(cov1), each(root(Q)))
        dynamics = lambda x: x[:3]
        seen = lambda x: (x[3], jnp.zeros(p, a.dtype), x[4], x[5])
        filter_ = self.kalman.build_filter(jnp.zeros(n, a.dtype), jnp.eye(n, dtype=a.dtype), dynamics, seen)
        inputs = (F, shift, chol_Q, each(C), each(root(R)), a)
        return self.run_filter(filter_, inputs, filter_.init_prepare(), parallel=self.parallel), dynamics

    def lgssm_filter(self, params, a):
        states, _ = self.states(params, a)
        L = states.chol_cov[1:]
        return SimpleNamespace(
            marginal_loglik=states.log_normalizing_constant[-1],
            filtered_means=states.mean[1:],
            filtered_covariances=L @ L.swapaxes(-1, -2),
        )

    def lgssm_smoother(self, params, a):
        states, dynamics = self.states(params, a)
        found = self.run_smoother(self.kalman.build_smoother(dynamics), states, parallel=self.parallel)
        L = found.chol_cov[1:]
        return SimpleNamespace(smoothed_means=found.mean[1:], smoothed_covariances=L @ L.swapaxes(-1, -2))

    def smoother(self, problem):
        def f(params, a):
            found = self.lgssm_smoother(params, a)
            return found.smoothed_means, found.smoothed_covariances

        run, tensor = self.compile(problem, f)
        return run, lambda r: read_smoother(*map(tensor, r))


class Statsmodels(Contender):
    "statsmodels: compiled, in float64 always, one sequence at a time. Entry t of its transitions leads to step t + 1."

    package, numbers = "statsmodels", "float64"
    limits = {"filter": 50_000, "smoother": 50_000}

    def __init__(self, name: str):
        from statsmodels.tsa.statespace.kalman_smoother import KalmanSmoother

        super().__init__(name)
        self.kf = KalmanSmoother

    def bound(self, problem):
        "A filter for each sequence, with its observations."
        m, (batch, _, p) = problem.model, problem.a.shape

        def one(M, k, rank=3):
            return (M[k] if M.dim() > rank else M).double().numpy()

        def along(M, k, ahead):
            M = one(M, k)
            M = np.concatenate([M[1:], M[-1:]]) if ahead and len(M) > 1 else M
            return np.asfortranarray(np.moveaxis(M, 0, -1))

        def make(k):
            kf = self.kf(p, m.A.shape[-1])
            kf.bind(np.asfortranarray(problem.a[k].double().numpy().T))
            kf["design"], kf["obs_cov"] = along(m.C, k, False), along(m.R, k, False)
            kf["transition"], kf["state_cov"] = along(m.A, k, True), along(m.Q, k, True)
            kf["selection"] = np.eye(m.A.shape[-1])
            kf.initialize_known(one(m.mean1, k, 1), one(m.cov1, k, 2))
            return kf

        return [make(k) for k in range(batch)]

    def filter(self, problem):
        kfs = self.bound(problem)
        moved = lambda x: torch.from_numpy(np.moveaxis(np.stack(x), -1, 1))

        def run():
            found = [kf.filter() for kf in kfs]
            return [(r.llf_obs.sum(), r.filtered_state, r.filtered_state_cov) for r in found]

        return run, lambda r: read_filter(torch.tensor([x[0] for x in r]), *(moved(x) for x in list(zip(*r))[1:]))

    def smoother(self, problem):
        kfs = self.bound(problem)
        moved = lambda x: torch.from_numpy(np.moveaxis(np.stack(x), -1, 1))

        def run():
            found = [kf.smooth() for kf in kfs]
            return [(r.smoothed_state, r.smoothed_state_cov) for r in found]

        return run, lambda r: read_smoother(*(moved(x) for x in zip(*r)))
