"""The forward pass of notebook 25 in Numba beside ours: fastest time of the compiled programs alone, and what it takes
to compile them.

    python benchmarks/numba_kernel.py             # prints a table and writes benchmarks/results/numba_kernel.json

Numba's version keeps every matrix as [entry, lane]; the innermost loop runs over the lanes (sequences), and the sizes n
and p and the pitch of a lane are constants for the compiler, as they are lengths of tuples. Indices are unsigned, since
the test for negative ones stands in the way of vector instructions. One thread, float32.
"""

import math
import time

from common import HERE, last_cpu, limit_threads, machine, side_by_side, versions, write_json

limit_threads(1, last_cpu())
import numpy as np
import torch
from numba import njit

from kvae_nb.inference import cpu_kernel
from kvae_nb.inference.lgssm import LGSSM
from kvae_nb.inference.routes import log_evidence

U, LANES = np.uint64, 32
inline, kernel = njit(fastmath={"contract", "nsz"}, forceinline=True), njit(fastmath={"contract", "nsz"}, nogil=True)


@inline
def product(Z, X, Y, r, k, c, w, m, sign, add):
    "Z = ± X Y, or Z ± X Y."
    r, k, c, w, m = U(r), U(k), U(c), U(w), U(m)
    for i in range(r):
        for l in range(m):
            for j in range(c):
                z = X[i * k * w + l] * Y[j * w + l]
                for q in range(U(1), k):
                    z += X[(i * k + q) * w + l] * Y[(q * c + j) * w + l]
                Z[(i * c + j) * w + l] = Z[(i * c + j) * w + l] + sign * z if add else sign * z


@inline
def product_nt(Z, X, Y, r, k, c, w, m, add):
    "Z = X Yᵀ, or Z + X Yᵀ."
    r, k, c, w, m = U(r), U(k), U(c), U(w), U(m)
    for i in range(r):
        for l in range(m):
            for j in range(c):
                z = X[i * k * w + l] * Y[j * k * w + l]
                for q in range(U(1), k):
                    z += X[(i * k + q) * w + l] * Y[(j * k + q) * w + l]
                Z[(i * c + j) * w + l] = Z[(i * c + j) * w + l] + z if add else z


@inline
def product_tn(Z, X, Y, r, k, c, w, m):
    "Z = Xᵀ Y."
    r, k, c, w, m = U(r), U(k), U(c), U(w), U(m)
    for i in range(r):
        for l in range(m):
            for j in range(c):
                z = X[i * w + l] * Y[j * w + l]
                for q in range(U(1), k):
                    z += X[(q * r + i) * w + l] * Y[(q * c + j) * w + l]
                Z[(i * c + j) * w + l] = z


@inline
def copy(Z, X, size):
    "The first numbers of X."
    for k in range(U(size)):
        Z[k] = X[k]


@inline
def identity(Z, n, w):
    "The unit matrix in every lane."
    n, w = U(n), U(w)
    for k in range(n * n * w):
        Z[k] = 0
    for i in range(n):
        for l in range(w):
            Z[(i * n + i) * w + l] = 1


@inline
def fetch(Z, M, t, start, e, w, m):
    "Numbers of [lane or 1, time or 1, entry], as PyTorch has them."
    start, e, w, m = U(start), U(e), U(w), U(m)
    s = min(t, M.shape[1] - 1)
    if M.shape[0] == 1:
        for k in range(e):
            for l in range(m):
                Z[k * w + l] = M[0, s, k]
    else:
        for l in range(m):
            for k in range(e):
                Z[k * w + l] = M[start + l, s, k]


@inline
def keep(M, t, Z, start, e, w, m):
    "Writes to [time, entry, lane]."
    start, e, w, m = U(start), U(e), U(w), U(m)
    for k in range(e):
        for l in range(m):
            M[t, k, start + l] = Z[k * w + l]


@inline
def recall(Z, M, t, start, e, w, m):
    "What was kept; a single lane serves all."
    start, e, w, m = U(start), U(e), U(w), U(m)
    if M.shape[2] == 1:
        for k in range(e):
            for l in range(m):
                Z[k * w + l] = M[t, k, 0]
    else:
        for k in range(e):
            for l in range(m):
                Z[k * w + l] = M[t, k, start + l]


@inline
def inverse(V, logdet, S, p, w, m):
    "Gauss–Jordan without pivoting; NaN where S is not positive definite."
    copy(V, S, p * p * w)
    p, w, m = U(p), U(w), U(m)
    for l in range(m):
        logdet[l] = 0
    for k in range(p):
        kk = (k * p + k) * w
        for l in range(m):
            d = V[kk + l] if V[kk + l] > 0 else np.nan
            logdet[l] += math.log(d)
            V[kk + l] = 1 / d
        for i in range(p):
            if i != k:
                for l in range(m):
                    V[(i * p + k) * w + l] *= -V[kk + l]
                for j in range(p):
                    if j != k:
                        for l in range(m):
                            V[(i * p + j) * w + l] += V[(i * p + k) * w + l] * V[(k * p + j) * w + l]
        for j in range(p):
            if j != k:
                for l in range(m):
                    V[(k * p + j) * w + l] *= V[kk + l]


@kernel
def forward(N, D, W, A, C, Q, R, cov1, mean1, a, P, K, V, mean, Ve, total):
    "The filter; covariances once if all sequences share them. The last entry of V is log det S."
    n, p, w = len(N), len(D), len(W)
    n_, p_ = mean.shape[1], Ve.shape[1]  # the same, but not known to the compiler: only inner loops are unrolled
    steps, lanes = P.shape[0], mean.shape[2]
    room, one, const = (
        np.zeros((19, max(n, p) ** 2 * w), P.dtype),
        P.dtype.type(1),
        P.dtype.type(p * math.log(2 * math.pi)),
    )
    A_, C_, Q_, R_, P_t, Pp, X, S, J, K_t = (
        room[0],
        room[1],
        room[2],
        room[3],
        room[4],
        room[5],
        room[6],
        room[7],
        room[8],
        room[9],
    )
    V_t, CP, logdet, m_t, mp, e, Ve_t, sums = (
        room[10],
        room[11],
        room[12],
        room[13],
        room[14],
        room[15],
        room[16],
        room[17],
    )
    covs, start = True, 0
    means = not (P.shape[2] == 1 and lanes > 1)
    while start < lanes:
        m = min(w, lanes - start) if means else 1
        for l in range(w):
            sums[l] = 0
        for t in range(steps):
            if t == 0 or A.shape[1] > 1:
                fetch(A_, A, t, start, n_ * n_, w, m)
            if t == 0 or C.shape[1] > 1:
                fetch(C_, C, t, start, p_ * n_, w, m)
            if covs:
                if t == 0 or Q.shape[1] > 1:
                    fetch(Q_, Q, t, start, n_ * n_, w, m)
                if t == 0 or R.shape[1] > 1:
                    fetch(R_, R, t, start, p_ * p_, w, m)
                if t == 0:
                    fetch(Pp, cov1, t, start, n_ * n_, w, m)
                else:
                    product(X, A_, P_t, n_, n, n, w, m, one, False)
                    copy(Pp, Q_, n * n * w)
                    product_nt(Pp, X, A_, n_, n, n, w, m, True)
                product(CP, C_, Pp, p_, n, n, w, m, one, False)
                copy(S, R_, p * p * w)
                product_nt(S, CP, C_, p_, n, p, w, m, True)
                inverse(V_t, logdet, S, p_, w, m)
                product_tn(K_t, CP, V_t, n_, p, p, w, m)
                identity(J, n_, w)
                product(J, K_t, C_, n_, p, n, w, m, -one, True)
                product(X, J, Pp, n_, n, n, w, m, one, False)
                product_nt(P_t, X, J, n_, n, n, w, m, False)
                product(X, K_t, R_, n_, p, p, w, m, one, False)
                product_nt(P_t, X, K_t, n_, p, n, w, m, True)
                keep(P, t, P_t, start, n_ * n_, w, m)
                keep(K, t, K_t, start, n_ * p_, w, m)
                keep(V, t, V_t, start, p_ * p_, w, m)
                keep(V[:, p_ * p_ :], t, logdet, start, 1, w, m)
            if means:
                if not covs:
                    recall(K_t, K, t, start, n_ * p_, w, m)
                    recall(V_t, V, t, start, p_ * p_, w, m)
                    recall(logdet, V[:, p_ * p_ :], t, start, 1, w, m)
                if t == 0:
                    fetch(mp, mean1, t, start, n_, w, m)
                else:
                    product(mp, A_, m_t, n_, n, 1, w, m, one, False)
                fetch(e, a, t, start, p_, w, m)
                product(e, C_, mp, p_, n, 1, w, m, -one, True)
                product(Ve_t, V_t, e, p_, p, 1, w, m, one, False)
                copy(m_t, mp, n * w)
                product(m_t, K_t, e, n_, p, 1, w, m, one, True)
                for l in range(m):
                    sums[l] += logdet[l] + const
                for k in range(p_):
                    for l in range(m):
                        sums[l] += e[k * w + l] * Ve_t[k * w + l]
                keep(mean, t, m_t, start, n_, w, m)
                keep(Ve, t, Ve_t, start, p_, w, m)
        if means:
            for l in range(m):
                total[start + l] = sums[l] / -2
            start += w
        else:
            covs, means = False, True


def arguments(model: LGSSM, a, lanes: int) -> tuple:
    "What `forward` takes, with room for its results."
    n, p, (batch, steps) = model.A.shape[-1], model.C.shape[-2], a.shape[:2]
    flat = [
        np.ascontiguousarray((M if M.dim() == 4 else M[None]).flatten(-2).numpy())
        for M in (model.A, model.C, model.Q, model.R)
    ]
    own = 1 if model.A.dim() == 3 else batch
    room = [
        np.empty((steps, k, width), np.float32)
        for k, width in ((n * n, own), (n * p, own), (p * p + 1, own), (n, batch), (p, batch))
    ]
    return (
        (0,) * n,
        (0,) * p,
        (0,) * lanes,
        *flat,
        np.ascontiguousarray(model.cov1.reshape(-1, 1, n * n).numpy()),
        np.ascontiguousarray(model.mean1.reshape(-1, 1, n).numpy()),
        a.numpy(),
        *room,
        np.empty(batch, np.float32),
    )


def problem(batch: int, steps: int, own: bool, changing: bool, n: int = 4, p: int = 2) -> tuple[LGSSM, torch.Tensor]:
    "A random model, with matrices of every sequence (`own`) and step (`changing`), and observations."
    g = torch.Generator().manual_seed(0)
    lead, time_ = (batch,) if own else (), steps if changing else 1
    A = 0.9 * torch.linalg.qr(torch.randn(*lead, time_, n, n, generator=g))[0]
    model = LGSSM(
        A,
        None,
        torch.randn(*lead, time_, p, n, generator=g),
        0.3 * torch.eye(n)[None],
        0.2 * torch.eye(p)[None],
        torch.zeros(n),
        torch.eye(n),
    )
    return model, torch.randn(batch, steps, p, generator=g)


def ours(model: LGSSM, a):
    "Our forward kernel, ready to run, and the evidence it leaves."
    call = cpu_kernel.Call(cpu_kernel.kernel_input(model, a, None, None)[1])
    call.keep(*cpu_kernel.EVIDENCE)
    total = a.new_empty(call.lanes)
    call.point(total, {cpu_kernel.PLACE["total"]: 0})
    return lambda: call.run("evidence"), lambda: total


CASES = {  # name: sequences, steps, own matrices, changing matrices, lanes of Numba's blocks
    "32×20, own matrices": (32, 20, True, True, LANES),
    "32×20, shared": (32, 20, False, False, LANES),
    "256×100, own matrices": (256, 100, True, False, LANES),
    "256×100, shared": (256, 100, False, False, LANES),
    "1×10,000": (1, 10_000, False, False, 1),
}


def main():
    spec, found, cost = machine(1), {}, {}
    for name, (batch, steps, own, changing, lanes) in CASES.items():
        model, a = problem(batch, steps, own, changing)
        given, (run, value) = arguments(model, a, lanes), ours(model, a)
        unknown = (
            np.empty(len(given[0])),
            np.empty(len(given[1])),
            *given[2:],
        )  # arrays, whose lengths the compiler does not know
        for who, f in (("numba", lambda: forward(*given)), ("ours", run), ("any size", lambda: forward(*unknown))):
            begin = time.process_time()
            f()
            cost.setdefault(
                who, time.process_time() - begin
            )  # of the first case: both compile one program for n = 4, p = 2
        right = log_evidence(LGSSM(*(None if M is None else M.double() for M in model)), a.double()).float()
        for result in (value(), torch.from_numpy(given[-1])):
            torch.testing.assert_close(result, right, rtol=1e-4, atol=1e-3)
        times = side_by_side(
            {"ours": run, "numba": lambda: forward(*given), "any size": lambda: forward(*unknown)}, rounds=41
        )
        found[name] = {k: round(1e6 * v["min"], 1) for k, v in times.items()}
        print(
            f"{name:24} ours {found[name]['ours']:9.1f} µs   numba {found[name]['numba']:9.1f} µs, sizes "
            f"unknown {found[name]['any size']:9.1f} µs",
            flush=True,
        )
    print("processor time to compile, seconds:", cost)
    write_json(
        HERE / "results" / "numba_kernel.json",
        {
            "command": "python benchmarks/numba_kernel.py",
            "machine": spec,
            "versions": versions("numba", "llvmlite", "torch"),
            "microseconds": found,
            "compile_s": {k: round(v, 2) for k, v in cost.items()},
        },
    )


if __name__ == "__main__":
    main()
