"""Modes whose norm is limited (notebook 06b) beside free ones: 80 steps ahead, and what the limit costs.

    python experiments/stable.py                    # three seeds of pendulum and box; stores after every run, and goes
    on with those that are missing: about forty minutes on one CPU core
    python experiments/stable.py --seeds 1 --out /tmp/runs
    python experiments/stable.py --runs pendulum:free:RUN "pendulum:norm at most 1:RUN" …   # measures finished runs

The pendulum's model, films and training are those of pendulum.py; the box is the preset demo with 60 epochs on 1500
films of 16 x 16 pixels of our own simulator. Each arm has the same seeds, films and number of steps. Measured on films
that nothing was trained or chosen on: the bound, the error of a gap of seven frames, and 80 frames generated without
noise after a prefix, beside what was simulated. A path has left when its a lies farther from the mean of the training
films' a than three times as far as the farthest of them.
Writes experiments/results/stable.json.
"""

import argparse
import json
import shlex
import tempfile
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path

import torch
from pendulum import MODEL, TRAIN
from shared import begin, missing

from kvae_nb.data.films import from_simulation, mask_gap, to_float
from kvae_nb.data.opening import DataConfig, save_video_data, simulate_pendulum
from kvae_nb.evaluation.imputation import imputation_errors
from kvae_nb.evaluation.scores import held_out_elbo
from kvae_nb.models.kvae import KVAEConfig
from kvae_nb.training.config import TrainConfig
from kvae_nb.training.loop import fit
from kvae_nb.training.runs import PRESETS, RunConfig, load_run, run_data
from kvae_nb.worlds.balls import simulate

AHEAD, FILMS, FAR = 80, 100, 3.0
LIMITS = {"free": 0.0, "norm at most 1": 1.0, "norm at most .99": 0.99}
PREFIX = {"pendulum": 15, "box": 20}


def films(world: str, count: int, steps: int, seed: int):
    "So many films of a world."
    if world == "pendulum":
        return simulate_pendulum(count, steps, seed=seed)
    return from_simulation(simulate(sequences=count, steps=steps, seed=seed, size=16, workers=1))


def config(world: str, path: str, limit: float, seed: int) -> RunConfig:
    "One training."
    data = DataConfig(path=path, steps=PREFIX[world], size=16, binarize=world == "box", test=1 / 3, valid=1 / 3)
    if world == "pendulum":
        return RunConfig(data, KVAEConfig(**MODEL, stable=limit), TrainConfig(**TRAIN, seed=seed))
    base = PRESETS["demo"]
    train = replace(base.train, epochs=60, picture_every=0, threads=1, device="cpu", seed=seed)
    return RunConfig(data, replace(base.model, size=16, stable=limit), train)


@torch.no_grad()
def ahead(model, known, long, prefix: int) -> dict:
    "Where 80 steps without noise lead, and how far the frames are from the simulated ones."
    codes = model.encode(to_float(known.frames)).flatten(0, 1)
    centre = codes.mean(0)
    reach = (codes - centre).norm(dim=-1).max()
    x, u = to_float(long.frames), long.controls
    made = model.generate(AHEAD, x=x[:, :prefix], u=u, noise=False)
    distance = (made.a - centre).norm(dim=-1) / reach
    z = made.z.norm(dim=-1)
    error = (made.frames - x[:, prefix:]).square().mean((2, 3, 4)).median(0).values
    mean = x.mean(0, keepdim=True)
    return {
        "share of paths that left": round((distance.amax(1) > FAR).float().mean().item(), 4),
        "largest distance": float(f"{distance.max().item():.4g}"),
        "median of the largest distances": float(f"{distance.amax(1).median().item():.4g}"),
        "length of z at step 80 beside step 1": float(f"{(z[:, -1] / z[:, 0]).median().item():.4g}"),
        "mse of steps, of the median film": {
            "1-10": round(error[:10].mean().item(), 5),
            "11-40": round(error[10:40].mean().item(), 5),
            "41-80": round(error[40:].mean().item(), 5),
            "41-80 if the mean film is said": round(
                (x - mean)[:, prefix + 40 :].square().mean((2, 3, 4)).median(0).values.mean().item(), 5
            ),
        },
    }


@torch.no_grad()
def measure(folder: Path, world: str, arm: str) -> dict:
    "Everything that is stored about a run."
    run, history = load_run(folder), json.loads((folder / "metrics.json").read_text())
    data, prefix = run_data(run), PREFIX[world]
    A = run.model.dynamics.A.detach()
    elbo = held_out_elbo(run.model, data.test, 5)
    gap = imputation_errors(run.model, data.test, mask_gap(len(data.test), prefix, 4, 7), particles=0)
    return {
        "world": world,
        "arm": arm,
        "seed": run.config.train.seed,
        "train_seconds": history["seconds"],
        "attempt": run.progress.attempt,
        "valid_elbo_per_frame": round(run.progress.best, 3),
        "test_elbo_per_frame": round(elbo.per_frame, 3),
        "mse of frames 4-10 hidden": {k: round(gap.mse[k], 6) for k in ("smoothing", "filtering")},
        "largest eigenvalue of a mode": round(torch.linalg.eigvals(A).abs().max().item(), 4),
        "largest singular value of a mode": round(torch.linalg.matrix_norm(A, 2).max().item(), 4),
        "ahead": ahead(run.model, data.train, films(world, FILMS, prefix + AHEAD, seed=1000), prefix),
    }


def head(args) -> dict:
    "What is stored beside the runs."
    command = ["python", "experiments/stable.py"]
    command += ["--seeds", str(args.seeds)] * (args.seeds != 3) + ["--arms", *args.arms] * (args.arms != list(LIMITS))
    train = {k: asdict(v) if is_dataclass(v) else v for k, v in TRAIN.items()}
    return {"command": shlex.join(command), "arms": LIMITS, "pendulum": {"model": MODEL, "train": train}}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--worlds", nargs="+", choices=list(PREFIX), default=list(PREFIX))
    parser.add_argument("--arms", nargs="+", choices=list(LIMITS), default=list(LIMITS))
    parser.add_argument("--runs", nargs="*", default=[], help="world:arm:folder of finished runs, measured first")
    parser.add_argument("--out", default="runs/stable", help="where the run folders are kept")
    args = parser.parse_args()
    begin()
    row = lambda world, arm, seed: {"world": world, "arm": arm, "seed": seed}
    for world, arm, folder in (r.split(":", 2) for r in args.runs):
        seed = load_run(folder).config.train.seed
        missing("stable", [row(world, arm, seed)], lambda _: measure(Path(folder), world, arm), head(args))
    with tempfile.TemporaryDirectory() as folder:
        for world in args.worlds:
            path = Path(folder) / f"{world}.npz"
            save_video_data(path, films(world, 1500, PREFIX[world], seed=0))
            train = lambda r: fit(config(r["world"], str(path), LIMITS[r["arm"]], r["seed"]), args.out, quiet=True)
            wanted = [row(world, arm, seed) for seed in range(args.seeds) for arm in args.arms]
            missing("stable", wanted, lambda r: measure(train(r), r["world"], r["arm"]), head(args))


if __name__ == "__main__":
    main()
