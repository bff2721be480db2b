"""Levers by whole trainings: a finished run of `best` goes on, with the same weights or with a heavier reconstruction.

    python experiments/continued.py --data ../shared/data/box.npz --runs RUN RUN RUN

RUN are runs of the preset `best` on split 1, as experiments/fresh.py makes them. Each goes on for 20 epochs with a
learning rate that falls from 0.002 to 0 along half a cosine, β = 1, and the reconstruction weighted by 0.3 as before
("longer") or by 1 ("weight 1"), which makes the training loss minus the bound. `valid` is the bound on the run's
validation films, by which an arm may be chosen; the rest is measured on the first 200 films of experiments/fresh.py,
hidden frames filled in by 256 particles with the tabulated decoder of experiments/particles.py. Stores after every run,
goes on with the others. Writes experiments/results/continued.json.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from fresh import fresh_films
from particles import Table, wrong_pixels
from shared import begin, missing

from kvae_nb.data.films import mask_gap
from kvae_nb.data.opening import open_data
from kvae_nb.evaluation.checks import FIRST
from kvae_nb.evaluation.imputation import drop_mask
from kvae_nb.evaluation.scores import held_out_elbo
from kvae_nb.training.annealing import Schedule
from kvae_nb.training.loop import fit
from kvae_nb.training.runs import load_run, run_data

ARMS = {"as it is": None, "longer": 0.3, "weight 1": 1.0}
FILMS, PARTICLES = 200, 256


def go_on(folder: Path, arm: str, out: str) -> Path:
    "The folder of the run that goes on, or of the one that there is."
    if ARMS[arm] is None:
        return folder
    before = load_run(folder).config
    train = replace(before.train, epochs=20, lr=0.002, beta=Schedule(), reconstruction_weight=ARMS[arm], threads=1)
    return fit(replace(before, train=train), out, quiet=True, init=folder)


@torch.no_grad()
def measure(folder: Path, arm: str, out: str) -> dict:
    "Everything that is stored about an arm of a run."
    run = load_run(go_on(folder, arm, out))
    whole, model = open_data(run.config.data), run.model
    films = whole.subset(fresh_films(run.config.data, len(whole)))[:FILMS]
    x = films.frames.float() / 255
    bounds = {"valid": run_data(run).valid, "report": films}
    row = {"bound " + name: round(held_out_elbo(model, part, 5).per_frame, 3) for name, part in bounds.items()}
    masks = {f"gap {n}": mask_gap(*x.shape[:2], FIRST, n) for n in (1, 7, 15)} | {
        "drop .5": drop_mask(*x.shape[:2], 0.5)
    }
    table = Table(model, model.encode(x))
    model.decode = table.decode
    found = {name: wrong_pixels(model, x, mask, PARTICLES) for name, mask in masks.items()}
    seconds = json.loads((run.folder / "metrics.json").read_text())["seconds"]
    errors = {name: {how: v[how]["mean"] for how in ("smoothing", "filtering")} for name, v in found.items()}
    return {"train_seconds": seconds, **row, **errors}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="the .npz file of the paper's box generator")
    parser.add_argument("--runs", nargs="+", required=True, type=Path, help="run folders of experiments/fresh.py")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--out", default="runs/continued", help="where the run folders are kept")
    args = parser.parse_args()
    begin()
    folders = {load_run(folder).config.train.seed: folder for folder in args.runs}
    head = {"command": "python experiments/continued.py --data box.npz --runs RUN RUN RUN", "films": FILMS}
    wanted = [{"arm": arm, "seed": seed} for seed in folders for arm in args.arms]
    missing("continued", wanted, lambda row: measure(folders[row["seed"]], row["arm"], args.out), head)


if __name__ == "__main__":
    main()
