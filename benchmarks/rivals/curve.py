"""Errors of both models on the pendulum along one long training of each, with the schedule of NCDSSM's own script: its
learning rate, a tenth less every 500 steps, 2000 steps. Stores after every look.

    python benchmarks/rivals/curve.py --checkout ../rivals/NCDSSM

Writes benchmarks/results/rival_curve.json. The time of the looks is not counted.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

import compare  # noqa: E402
import rival_data as data  # noqa: E402
import rival_ncdssm as ncdssm  # noqa: E402
import rival_ours as ours  # noqa: E402
from common import machine, versions  # noqa: E402

from kvae_nb.core.errors import InputError  # noqa: E402
from kvae_nb.core.files import atomic_write  # noqa: E402
from kvae_nb.core.runtime import tune_cpu  # noqa: E402
from kvae_nb.data.films import epoch_order  # noqa: E402

LOOKS = (0, 25, 50, 100, 200, 400, 700, 1000, 1500, 2000)  # steps after which errors are measured
MISSING, RATE, BATCH = 0.3, 0.01, 64  # of the pendulum's configuration


def walk(model: torch.nn.Module, take: Callable, look: Callable, x: torch.Tensor, seen: torch.Tensor):
    "All steps of a training; `look` gets the number of steps and the CPU seconds that they took."
    optimiser, steps, used, epoch = torch.optim.Adam(model.parameters(), lr=RATE), 0, 0.0, 0
    look(0, 0.0)
    while True:
        for rows in epoch_order(len(x), 0, epoch).split(BATCH):
            optimiser.param_groups[0]["lr"] = RATE * 0.9 ** (steps // 500)
            started = time.process_time()
            model.train()
            take(model, optimiser, x[rows], seen[rows])
            used, steps = used + time.process_time() - started, steps + 1
            if steps in LOOKS:
                look(steps, used)
            if steps == LOOKS[-1]:
                return
        epoch += 1


def parts(name: str, checkout: Path) -> tuple:
    "A new model, how it takes a step, how it predicts."
    torch.manual_seed(0)
    if name == "kvae_nb":
        return ours.mixed(2), ours.step_numbers, ours.predicted_numbers
    model, config = ncdssm.built(checkout, "pendulum", compare.DYNAMICS)
    times = ncdssm.STEP * torch.arange(data.SYSTEMS["pendulum"].context, dtype=torch.float64)

    def take(model, optimiser, x, seen):
        ncdssm.step(model, optimiser, x.float(), seen.float(), times, float(config["max_grad_norm"]))

    return model, take, ncdssm.predicted


def measure(args: argparse.Namespace):
    "Both trainings, one after the other; a model that has all its looks in the file is left out."
    checkout, path, system = ncdssm.opened(args.checkout or "(no --checkout)"), Path(args.out), data.SYSTEMS["pendulum"]
    looks = json.loads(path.read_text())["looks"] if path.exists() else []
    above = {"command": "python benchmarks/rivals/curve.py", "system": "pendulum", "missing": MISSING, "seed": 0}
    above |= {"test": compare.TEST, "machine": machine(1), "versions": versions("torch", "numpy", "torchdiffeq")}
    made = data.numbers("pendulum", MISSING, compare.TEST, "test")
    new, mask = compare.tensors(made)
    x, seen = compare.tensors(data.numbers("pendulum", MISSING, compare.TRAIN, "train"))
    x, new = x[:, : system.context], new[:, : system.context]
    for name in ("kvae_nb", "NCDSSM"):
        if any(r["model"] == name and r["steps"] == LOOKS[-1] for r in looks):
            continue
        looks = [r for r in looks if r["model"] != name]
        model, take, predict = parts(name, checkout)

        def look(steps, used, name=name, model=model, predict=predict):
            found = compare.errors(predict(model, new, mask, system.ahead).double().numpy(), made)
            looks.append({"model": name, "steps": steps, "cpu_seconds": round(used, 1)} | found)
            with atomic_write(path) as tmp:
                tmp.write_text(json.dumps(above | {"looks": looks}, indent=1) + "\n")
            print(looks[-1], flush=True)

        walk(model, take, look, x, seen)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("--checkout", help="folder of a checkout of NCDSSM")
    p.add_argument("--out", default=compare.RESULTS / "rival_curve.json", help="file to write")
    args = p.parse_args()
    try:
        tune_cpu()
        torch.set_num_threads(1)
        measure(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
