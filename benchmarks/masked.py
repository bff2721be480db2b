"""What hidden frames cost: evidence and gradient of the mixed dynamics, and whole training steps, beside seen ones.

    python benchmarks/masked.py                # presets demo and best; writes benchmarks/results/masked.json
    python benchmarks/masked.py --quick        # few rounds, writes nothing

Everything lives in one process and takes turns, A B C A B C …. What is counted is processor time of this process, so
that other work on the machine changes little; one thread. Three contenders for the dynamics: all frames seen, the plain
turns of `filter_masked` through autograd, and `evidence_dynamics` with a mask as it is. Two for a whole training step:
train.drop 0 and .3.
"""

import argparse
import statistics
import sys
import time
from dataclasses import replace

from common import HERE, limit_threads, machine, significant, table, versions, write_json

limit_threads(1)

import torch  # noqa: E402

from kvae_nb.core.runtime import tune_cpu  # noqa: E402
from kvae_nb.data.films import from_simulation, take  # noqa: E402
from kvae_nb.models.dynamics import evidence_dynamics, filter_masked  # noqa: E402
from kvae_nb.training.runs import PRESETS, build_model  # noqa: E402
from kvae_nb.training.step import make_trainer, train_step  # noqa: E402
from kvae_nb.worlds.balls import simulate  # noqa: E402

BATCH, STEPS, SIZE, DROP = 32, 20, 32, 0.3


def dynamics_runs(preset: str) -> dict:
    "Functions that compute evidence and gradient once."
    torch.manual_seed(0)
    d = build_model(PRESETS[preset]).dynamics
    a, mask = torch.randn(BATCH, STEPS, d.a0.shape[0], requires_grad=True), torch.rand(BATCH, STEPS) > DROP
    mask[:, :4] = True
    plain = lambda: filter_masked(d, a, mask).filtered.log_prob.sum(-1)
    parts = {
        "all seen": lambda: evidence_dynamics(d, a),
        "hidden, plain turns": plain,
        "hidden": lambda: evidence_dynamics(d, a, mask),
    }
    same = (parts["hidden"]() - plain()).abs().max() / plain().abs().max()
    assert same < 1e-4, f"{preset}: the two ways differ by {same:.1e} in float32"
    return {name: lambda f=f: f().sum().backward() for name, f in parts.items()}


def step_runs(preset: str, films) -> dict:
    "Functions that take a whole training step."
    runs = {}
    for name, drop in (("all seen", 0.0), ("hidden", DROP)):
        train = replace(PRESETS[preset].train, device="cpu", join={}, drop=drop)
        trainer = make_trainer(build_model(replace(PRESETS[preset], train=train)), train)
        runs[name] = lambda trainer=trainer, batch=take(films, torch.arange(BATCH)): train_step(trainer, batch, 0.0, 0)
    return runs


def cpu_times(runs: dict, rounds: int) -> dict:
    "Processor seconds of each, taken in turn: median and minimum."
    for f in runs.values():
        f(), f(), f()
    seen = {name: [] for name in runs}
    for _ in range(rounds):
        for name, f in runs.items():
            start = time.process_time()
            f()
            seen[name].append(time.process_time() - start)
    found = {name: {"median": statistics.median(s), "min": min(s), "rounds": rounds} for name, s in seen.items()}
    for cell in found.values():
        cell["times_all_seen"] = cell["median"] / found["all seen"]["median"]
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds, writes nothing")
    parser.add_argument("--presets", nargs="+", default=["demo", "best"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    tune_cpu()
    rounds = 10 if args.quick else 60
    films = from_simulation(simulate(sequences=BATCH, steps=STEPS, seed=0, size=SIZE, workers=1))
    results = {
        "command": "python benchmarks/masked.py " + " ".join(sys.argv[1:]),
        "machine": machine(1),
        "versions": versions("kvae_nb", "torch", "llvmlite"),
        "settings": {"batch": BATCH, "steps": STEPS, "size": SIZE, "drop": DROP, "clock": "processor time, seconds"},
        "dynamics": {},
        "training_step": {},
    }
    for preset in args.presets:
        results["dynamics"][preset] = cpu_times(dynamics_runs(preset), rounds)
        results["training_step"][preset] = cpu_times(step_runs(preset, films), rounds)
    for what in ("dynamics", "training_step"):
        rows = [
            [f"{preset}, {name}", f"{c['median'] * 1e3:.2f}", f"×{significant(c['times_all_seen'])}"]
            for preset, found in results[what].items()
            for name, c in found.items()
        ]
        print(table(what.replace("_", " "), ["", "ms", "of all seen"], rows))
    if not args.quick:
        write_json(HERE / "results" / "masked.json", results)


if __name__ == "__main__":
    main()
