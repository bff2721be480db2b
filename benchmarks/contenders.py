"""Each library's way to filter, smooth and differentiate, behind one interface: `build(operation, problem, dtype) ->
(run, read)`.

`run()` does the work and returns only when it is done; `read(result)` gives named tensors, in the axes of kvae_nb, to
compare with what is right. Everything that can be prepared once (conversion, construction, compilation) is done by
`build` or in the first call of `run`.
"""

import math
from contextlib import nullcontext

import numpy as np
import torch

from kvae_nb.core.errors import InputError
from kvae_nb.inference import routes

OPERATIONS = {"filter": "Filter + evidence", "smoother": "Filter + smoother", "gradient": "Evidence and its gradient"}


class NotOffered(Exception):
    "The library cannot do this; the message says why."


def per_step(problem) -> bool:
    return problem.model.A.shape[-3] > 1


def per_sequence(problem) -> bool:
    return problem.model.A.dim() > 3


def read_filter(evidence, mean, cov):
    return {"evidence": evidence, "mean": mean, "cov": cov}


def read_smoother(mean, cov):
    return {"smoothed mean": mean, "smoothed cov": cov}


class Contender:
    "A library, or one of its ways."

    package = ""  # as pip calls it
    limits: dict = {}  # operation -> most steps times sequences it is given, so that a benchmark ends
    numbers = "float32"

    def __init__(self, name: str):
        self.name = name

    def build(self, operation: str, problem, dtype):
        "run and read. Raises `NotOffered`."
        make = getattr(self, operation, None)
        if make is None:
            raise NotOffered("not offered")
        size = problem.a.shape[0] * problem.a.shape[1]
        if size > self.limits.get(operation, math.inf):
            raise NotOffered("left out: takes too long")
        return make(problem.to(dtype))


class Ours(Contender):
    "A back end of kvae_nb.inference.routes."

    package = "kvae_nb"

    def __init__(self, name: str, backend: str):
        super().__init__(name)
        self.key = {"backend": backend}
        if backend == "loop":
            self.limits = {"gradient": 50_000}

    def filter(self, problem):
        def run():
            with torch.no_grad():
                found = routes.kalman_filter(problem.model, problem.a, **self.key)
                return found.log_prob.sum(-1), found.mean, found.cov

        return run, lambda r: read_filter(*r)

    def smoother(self, problem):
        def run():
            with torch.no_grad():
                return routes.smoother(problem.model, problem.a, **self.key)

        return run, lambda r: read_smoother(r.mean, r.cov)

    def gradient(self, problem):
        leaves = {
            k: (problem.a if k == "a" else getattr(problem.model, k)).clone().requires_grad_() for k in problem.wrt
        }
        model, a = problem.model._replace(**{k: v for k, v in leaves.items() if k != "a"}), leaves.get("a", problem.a)

        def run():
            value = routes.log_evidence(model, a, **self.key)
            return value, torch.autograd.grad(value.sum(), list(leaves.values()))

        return run, lambda r: {"evidence": r[0].detach(), **{f"d/d{k}": g for k, g in zip(leaves, r[1])}}


class Dynamax(Contender):
    "dynamax, jitted, and mapped over the sequences by jax.vmap."

    package = "dynamax"

    def __init__(self, name: str, parallel: bool, double: bool = False):
        import jax
        import jax.numpy as jnp
        from dynamax.linear_gaussian_ssm import inference, parallel_inference

        super().__init__(name)
        self.jax, self.jnp, self.ssm, self.parallel, self.double = jax, jnp, inference, parallel, double
        self.way = parallel_inference if parallel else inference
        self.numbers = "float64" if double else "float32"

    def context(self, dtype):
        return self.jax.enable_x64(True) if dtype == torch.float64 else nullcontext()

    def params(self, A, C, Q, R, mean1, cov1):
        n, p, s, jnp = A.shape[-1], C.shape[-2], self.ssm, self.jnp
        nothing = lambda *shape: jnp.zeros(shape, A.dtype)
        return s.ParamsLGSSM(
            s.ParamsLGSSMInitial(mean1, cov1),
            s.ParamsLGSSMDynamics(A, nothing(n), nothing(n, 0), Q),
            s.ParamsLGSSMEmissions(C, nothing(p), nothing(p, 0), R),
        )

    def arrays(self, problem):
        """Parameters and observations for jax, and over which of them to map. Entry t of dynamax's dynamics leads
        to step t, as ours does.
        """
        m, alone = problem.model, len(problem.a) == 1
        found, axes = [], []
        for name, rank in (("A", 3), ("C", 3), ("Q", 3), ("R", 3), ("mean1", 1), ("cov1", 2)):
            M = getattr(m, name)
            if rank == 3 and M.shape[-3] == 1:
                M, rank = M.squeeze(-3), 2
            axes.append(0 if M.dim() > rank else None)
            found.append(self.jnp.asarray(M.numpy()))
        a = problem.a[0] if alone else problem.a
        return (*found, self.jnp.asarray(a.numpy())), None if alone else (*axes, 0)

    def compile(self, problem, f, reduce=None):
        "A function without arguments that runs f(params, a) for all sequences, and waits."
        with self.context(problem.a.dtype):
            arrays, axes = self.arrays(problem)
            one = lambda *x: f(self.params(*x[:-1]), x[-1])
            many = one if axes is None else self.jax.vmap(one, in_axes=axes)
            fast = self.jax.jit(reduce(many) if reduce else many)
        wait = self.jax.block_until_ready
        if problem.a.dtype == torch.float64:

            def run():
                with self.context(torch.float64):
                    return wait(fast(*arrays))
        else:

            def run():
                return wait(fast(*arrays))

        def tensor(x, batched=True):
            x = torch.from_numpy(np.array(x))
            return x[None] if axes is None and batched else x

        return run, tensor

    def build(self, operation, problem, dtype):
        return super().build(operation, problem, torch.float64 if self.double else dtype)

    def filter(self, problem):
        def f(params, a):
            found = self.way.lgssm_filter(params, a)
            return found.marginal_loglik, found.filtered_means, found.filtered_covariances

        run, tensor = self.compile(problem, f)
        return run, lambda r: read_filter(*map(tensor, r))

    def smoother(self, problem):
        def f(params, a):
            found = self.way.lgssm_smoother(params, a)
            more = () if self.parallel else (found.smoothed_cross_covariances,)  # the scan does not compute them
            return found.smoothed_means, found.smoothed_covariances, *more

        run, tensor = self.compile(problem, f)
        return run, lambda r: read_smoother(*map(tensor, r[:2]))

    def gradient(self, problem):
        names = ("A", "C", "Q", "R", "mean1", "cov1", "a")

        def reduce(many):
            def total(*x):
                values = many(*x)
                return values.sum(), values

            return self.jax.value_and_grad(total, argnums=tuple(names.index(k) for k in problem.wrt), has_aux=True)

        run, tensor = self.compile(problem, lambda params, a: self.way.lgssm_filter(params, a).marginal_loglik, reduce)

        def like(g, k):
            return tensor(g, False).reshape(problem.a.shape if k == "a" else getattr(problem.model, k).shape)

        return run, lambda r: {
            "evidence": tensor(r[0][1]),
            **{f"d/d{k}": like(g, k) for k, g in zip(problem.wrt, r[1])},
        }


class TorchKF(Contender):
    """torch-kf, with its defaults. Its filter returns no evidence, which is therefore put together from its
    predict, project and update.
    """

    package = "torch-kf"
    limits = {"gradient": 50_000}

    def __init__(self, name: str):
        import torch_kf

        super().__init__(name)
        self.kf = torch_kf

    def parts(self, problem, model=None, a=None):
        """Filter, first state and observations, time first; parameters that nobody owns keep one covariance for all
        sequences.
        """
        m, a = model or problem.model, problem.a if a is None else a
        steps = lambda M: M.movedim(-3, 0)
        A, C, Q, R = map(steps, (m.A, m.C, m.Q, m.R))
        state = self.kf.GaussianState(m.mean1.expand(len(problem.a), -1)[..., None], m.cov1)
        return self.kf.KalmanFilter(A[0], C[0], Q[0], R[0]), state, a.movedim(1, 0)[..., None], A, C

    def forward(self, problem, model=None, a=None):
        kf, state, a, A, C = self.parts(problem, model, a)
        changing, evidence, means, covs = len(A) > 1, 0.0, [], []
        for t, a_t in enumerate(a):
            if t:
                state = kf.predict(state, process_matrix=A[t] if changing else None)
            H = C[t] if changing else None
            seen = kf.project(state, measurement_matrix=H)
            evidence = evidence + seen.log_likelihood(a_t)
            state = kf.update(state, a_t, projection=seen, measurement_matrix=H)
            means.append(state.mean), covs.append(state.covariance)
        return evidence, torch.stack(means), torch.stack(covs)

    def shape(self, problem, mean, cov):
        cov = cov.movedim(0, -3)
        return mean[..., 0].movedim(0, 1), cov.expand(len(problem.a), *cov.shape[-3:])

    def filter(self, problem):
        def run():
            with torch.no_grad():
                return self.forward(problem)

        return run, lambda r: read_filter(r[0], *self.shape(problem, *r[1:]))

    def smoother(self, problem):
        if per_step(problem):
            raise NotOffered("not offered: its smoother takes one model for all steps")
        kf, state, a, *_ = self.parts(problem)

        def run():
            with torch.no_grad():
                return kf.rts_smooth(kf.filter(state, a, return_all=True), inplace=True)

        return run, lambda r: read_smoother(*self.shape(problem, r.mean, r.covariance))

    def gradient(self, problem):
        leaves = {
            k: (problem.a if k == "a" else getattr(problem.model, k)).clone().requires_grad_() for k in problem.wrt
        }
        model, a = problem.model._replace(**{k: v for k, v in leaves.items() if k != "a"}), leaves.get("a", problem.a)

        def run():
            value = self.forward(problem, model, a)[0]
            return value, torch.autograd.grad(value.sum(), list(leaves.values()))

        return run, lambda r: {"evidence": r[0].detach(), **{f"d/d{k}": g for k, g in zip(leaves, r[1])}}


class SimdKalman(Contender):
    "simdkalman: numpy in float64; its log-likelihood leaves out the constant, which is put back."

    package, numbers = "simdkalman", "float64"

    def __init__(self, name: str):
        import simdkalman

        super().__init__(name)
        self.kf = simdkalman.KalmanFilter

    def compute(self, problem, **wanted):
        if per_step(problem) or per_sequence(problem):
            raise NotOffered("not offered: one model for all sequences and steps")
        m = [
            M.double().numpy()
            for M in (
                problem.model.A[0],
                problem.model.Q[0],
                problem.model.C[0],
                problem.model.R[0],
                problem.model.mean1,
                problem.model.cov1,
            )
        ]
        kf, a = self.kf(*m[:4]), problem.a.double().numpy()
        return lambda: kf.compute(a, 0, m[4], m[5], observations=False, **wanted)

    def filter(self, problem):
        run = self.compute(problem, smoothed=False, filtered=True, log_likelihood=True)
        constant = -0.5 * problem.a[0].numel() * math.log(2 * math.pi)
        return run, lambda r: read_filter(
            *map(torch.from_numpy, (r.log_likelihood + constant, r.filtered.states.mean, r.filtered.states.cov))
        )

    def smoother(self, problem):
        run = self.compute(problem, smoothed=True)
        return run, lambda r: read_smoother(
            torch.from_numpy(r.smoothed.states.mean), torch.from_numpy(r.smoothed.states.cov)
        )


class PyKalman(Contender):
    "pykalman: numpy in float64, one sequence at a time; its evidence filters a second time."

    package, numbers = "pykalman", "float64"
    limits = {"filter": 1000, "smoother": 1000}

    def __init__(self, name: str):
        from pykalman import KalmanFilter

        super().__init__(name)
        self.kf = KalmanFilter

    def filters(self, problem):
        "A filter and the observations of each sequence. Entry t of its transitions leads to step t + 1."
        batch, steps, _ = problem.a.shape
        m = problem.model

        def one(M, k):
            M = (M[k] if M.dim() > 3 else M).double().numpy()
            return M[0] if len(M) == 1 else M

        def make(k):
            A, C, Q, R = (one(M, k) for M in (m.A, m.C, m.Q, m.R))
            mean1, cov1 = (m.mean1[k] if m.mean1.dim() > 1 else m.mean1), (m.cov1[k] if m.cov1.dim() > 2 else m.cov1)
            return self.kf(
                A if A.ndim == 2 else A[1:],
                C,
                Q,
                R,
                initial_state_mean=mean1.double().numpy(),
                initial_state_covariance=cov1.double().numpy(),
            )

        same = make(0) if m.A.dim() == 3 else None
        return [(same or make(k), problem.a[k].double().numpy()) for k in range(batch)]

    def filter(self, problem):
        pairs = self.filters(problem)

        def run():
            return [(kf.loglikelihood(a), *kf.filter(a)) for kf, a in pairs]

        return run, lambda r: read_filter(*(torch.from_numpy(np.stack(x)) for x in zip(*r)))

    def smoother(self, problem):
        pairs = self.filters(problem)

        def run():
            return [kf.smooth(a) for kf, a in pairs]

        return run, lambda r: read_smoother(*(torch.from_numpy(np.stack(x)) for x in zip(*r)))


def our_contenders() -> list[Contender]:
    "Every back end that kvae_nb.inference.routes names, and the one it picks itself."
    names = ["auto", *(b for b in routes.BACKENDS if b not in ("auto", "loop")), "loop"]
    return [Ours(f"kvae_nb {b}", b) for b in names]


def more():
    "The module of the other contenders, which needs this one."
    import more_contenders

    return more_contenders


PEERS = {  # name: how it is made
    "dynamax sequential": lambda name: Dynamax(name, parallel=False),
    "dynamax scan": lambda name: Dynamax(name, parallel=True),
    "dynamax seq. f64": lambda name: Dynamax(name, parallel=False, double=True),
    "cuthbert sequential": lambda name: more().Cuthbert(name),
    "cuthbert scan": lambda name: more().Cuthbert(name, parallel=True),
    "torch-kf": TorchKF,
    "simdkalman f64": SimdKalman,
    "pykalman f64": PyKalman,
    "statsmodels f64": lambda name: more().Statsmodels(name),
}


def peers() -> tuple[list[Contender], dict[str, str]]:
    "The peers that can be imported, and why the others cannot."
    found, missing = [], {}
    for name, make in PEERS.items():
        try:
            found.append(make(name))
        except ImportError as error:
            missing[name] = f"not installed ({error})"
    return found, missing


REFUSALS = (NotOffered, InputError, NotImplementedError)
