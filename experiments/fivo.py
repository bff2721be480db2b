"""Training while frames are hidden: their prediction plugged in, or followed by particles (notebook 28c).

    python experiments/fivo.py                # one seed of three arms; stores after every run, goes on with the others
    python experiments/fivo.py --seeds 3

The preset demo as it is (16 epochs on 4250 films of our own simulator). Every arm has the same seeds, films and number
of steps. Measured on the 500 test films, which nothing was trained or chosen on: the bound with all frames seen; the
bound of what is seen where half the frames after the fourth are hidden, by 64 particles for every arm (100 films); the
error of a hidden gap of seven frames, with plugged-in weights for every arm. Writes experiments/results/fivo.json.
"""

import argparse
import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import torch
from shared import begin, missing

from kvae_nb.data.films import mask_gap, to_float
from kvae_nb.evaluation.imputation import drop_mask, imputation_errors
from kvae_nb.evaluation.scores import held_out_elbo
from kvae_nb.training.loop import fit
from kvae_nb.training.runs import PRESETS, RunConfig, load_run, run_data

ARMS = {
    "all seen": (0.0, 0),
    "drop .5, plugged in": (0.5, 0),
    "drop .5, 4 particles": (0.5, 4),
}


def config(arm: str, seed: int) -> RunConfig:
    "One training."
    (drop, particles), base = ARMS[arm], PRESETS["demo"]
    train = replace(base.train, drop=drop, picture_every=0, threads=1, device="cpu", seed=seed)
    return RunConfig(base.data, replace(base.model, particles=particles), train)


@torch.no_grad()
def hidden_bound(model, films, samples: int = 5) -> float:
    "The bound of what is seen, nats per seen frame, half the frames hidden, by 64 particles."
    own, model.config = model.config, replace(model.config, particles=64)
    x, mask = to_float(films.frames), drop_mask(*films.frames.shape[:2], 0.5)
    torch.manual_seed(0)
    values = [model.elbo(x, mask) for _ in range(samples)]
    model.config = own
    return round(sum(v.per_frame.mean().item() for v in values) / samples, 3)


@torch.no_grad()
def measure(folder: Path, arm: str) -> dict:
    "Everything that is stored about a run."
    run, history = load_run(folder), json.loads((folder / "metrics.json").read_text())
    test = run_data(run).test
    gap = imputation_errors(run.model, test, mask_gap(len(test), 20, 4, 7), particles=0)
    return {
        "arm": arm,
        "seed": run.config.train.seed,
        "train_seconds": history["seconds"],
        "attempt": run.progress.attempt,
        "bound, all seen": round(held_out_elbo(run.model, test, 5).per_frame, 3),
        "bound, half hidden": hidden_bound(run.model, test[:100]),
        "mse of a gap of 7": {k: round(gap.mse[k], 5) for k in ("smoothing", "filtering")},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--out", default="runs/fivo", help="where the run folders are kept")
    args = parser.parse_args()
    begin()
    arms = {k: dict(zip(("drop", "particles"), v)) for k, v in ARMS.items()}
    head = {"command": shlex.join(["python", "experiments/fivo.py", *sys.argv[1:]]), "arms": arms}
    trained = lambda row: measure(fit(config(**row), args.out, quiet=True), row["arm"])
    missing("fivo", [{"arm": arm, "seed": s} for s in range(args.seeds) for arm in args.arms], trained, head)


if __name__ == "__main__":
    main()
