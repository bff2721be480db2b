"""Regimes learned from observations alone, on two worlds whose regimes are known: five seeds, three ways to learn, and
the true model beside them.

    python experiments/regimes.py                     # about an hour on one shared CPU core; finished runs are kept, so
    it can be stopped

Data, first weights, batches and noise are functions of the seed. Every method begins with the same autoregressive
hidden Markov model (the best of eight by its own evidence, which is a row of its own); regimes are never looked at
before the scores. The row "true model" has the matrices that made the data and a table that stays with probability .95.
Writes experiments/results/regimes.json.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import torch

from kvae_nb.core.files import atomic_write
from kvae_nb.core.runtime import derived_seed, tune_cpu
from kvae_nb.inference.chains import best_path, bouncing_point, fit_autoregression, regime_scores, sticky
from kvae_nb.inference.slds import SLDS, switching_filter, turning_modes, turning_point
from kvae_nb.inference.slds_smoother import switching_smoother
from kvae_nb.models.slds import SLDSParameters, fit_slds, start_from

RESULT = Path(__file__).parent / "results" / "regimes.json"
WORLDS = {
    "ball": dict(make=bouncing_point, sizes=(2, 1, 1), switching="B"),
    "three modes": dict(make=turning_point, sizes=(3, 2, 2), switching="A"),
}
STEPS = {"autoregression": 0, "relaxed": 300, "imm": 150, "gpb2": 60}
WINDOW = 30


def ones(a: torch.Tensor) -> torch.Tensor:
    "The constant control that makes B an offset."
    return torch.ones(*a.shape[:2], 1)


@torch.no_grad()
def scores(slds, transitions, posterior, data) -> dict:
    "Agreement of the smoother's regimes with the truth, and that of the posterior network's if there is one."
    found = switching_filter(slds, data.a, None, None if slds.B is None else ones(data.a), "gpb2", transitions)
    smoothed = switching_smoother(slds, found, None if slds.B is None else ones(data.a))
    out = {
        "smoother": regime_scores(smoothed.log_weights.argmax(-1), data.s)[:3],
        "evidence": found.log_prob.mean().item(),
    }
    if posterior is not None:
        out["network"] = regime_scores(best_path(posterior(data.a), data.a.shape[1]), data.s)[:3]
    return out


def learn(world: str, method: str, seed: int) -> dict:
    "One seed of one method, scored on sequences that it has not seen."
    make, tick = WORLDS[world]["make"], time.perf_counter()
    train, test = make(100, seed=2 * seed), make(50, seed=2 * seed + 1)
    K, p, n = WORLDS[world]["sizes"]
    torch.manual_seed(derived_seed(seed))
    parameters, posterior = SLDSParameters(K, p, n, 1, WORLDS[world]["switching"]), None
    start_from(parameters, fit_autoregression(K, train.a, ones(train.a), seed=seed))
    if STEPS[method]:
        posterior = fit_slds(
            parameters, train.a, ones(train.a), method, STEPS[method], lr=0.02, window=WINDOW, seed=seed
        ).posterior
    found = scores(parameters(test.a), parameters.transitions, posterior, test)
    return {"world": world, "method": method, "seed": seed, **found, "seconds": round(time.perf_counter() - tick, 1)}


def true_model(world: str, seed: int) -> dict:
    "The same scores with the matrices that made the data: what a chain that knows only the regimes can reach."
    test, I = WORLDS[world]["make"](50, seed=2 * seed + 1), torch.eye(1)[None]
    ball = SLDS(
        I, torch.tensor([[[0.5]], [[-0.5]]]), I, 0.05**2 * I, 0.2**2 * I, torch.zeros(1, 1), 30 * I, sticky(2, 0.95)
    )
    return {
        "world": world,
        "method": "true model",
        "seed": seed,
        **scores(ball if world == "ball" else turning_modes(), None, None, test),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=list(STEPS))
    args = parser.parse_args()
    tune_cpu()
    torch.set_num_threads(1)
    runs = json.loads(RESULT.read_text())["runs"] if RESULT.exists() else []
    done = {(r["world"], r["method"], r["seed"]) for r in runs}
    for seed in range(args.seeds):
        for world in WORLDS:
            for method in ("true model", *args.methods):
                if (world, method, seed) in done:
                    continue
                row = true_model(world, seed) if method == "true model" else learn(world, method, seed)
                runs.append(row)
                print({k: [round(x, 3) for x in v] if isinstance(v, tuple) else v for k, v in row.items()}, flush=True)
                content = {
                    "command": "python experiments/regimes.py",
                    "machine": f"{platform.machine()} CPU, 1 thread",
                    "torch": torch.__version__,
                    "steps": STEPS,
                    "window": WINDOW,
                    "runs": runs,
                }
                with atomic_write(RESULT) as tmp:
                    tmp.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
