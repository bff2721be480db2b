"""A Kalman VAE that knows when each frame was taken (notebook 07b) beside one that takes all steps as equal.

    python experiments/irregular_films.py                   # three seeds; stores after every run, and goes on with
    those that are missing: some minutes a training on one CPU core
    python experiments/irregular_films.py --seeds 1 --epochs 20 --out /tmp/runs

Films of a ball in a box, 16 x 16 pixels, taken at random times (gaps from 1/4 to 7/4 of a step). Both arms have the
same films, seeds, number of steps and configuration, except `model.continuous`; the second one gets no times. Measured
on films that nothing was trained or chosen on: the bound, and the share of wrong pixels where frames are hidden.
Writes experiments/results/irregular_films.json.
"""

import argparse
import tempfile
from dataclasses import replace
from functools import partial

import torch
from shared import begin, missing

from kvae_nb.data.films import VideoData, mask_gap, mask_random
from kvae_nb.data.irregular import simulate_irregular
from kvae_nb.data.opening import DataConfig
from kvae_nb.evaluation.imputation import imputation_errors
from kvae_nb.evaluation.scores import held_out_elbo
from kvae_nb.training.loop import fit
from kvae_nb.training.runs import PRESETS, RunConfig, load_run

STEPS, SIZE, TRAIN, TEST = 20, 16, 1000, 100
ARMS = {"times": True, "equal steps": False}


def films(count: int, seed: int) -> VideoData:
    "So many films."
    return simulate_irregular("box", count, STEPS, seed, SIZE)


def config(continuous: bool, seed: int, epochs: int) -> RunConfig:
    "One training."
    base = PRESETS["demo"]
    model = replace(base.model, size=SIZE, filters=8, continuous=continuous)
    train = replace(base.train, epochs=epochs, picture_every=0, threads=1, device="cpu", seed=seed)
    return RunConfig(DataConfig(steps=STEPS, size=SIZE, test=0.0, valid=0.1), model, train)


def masks(data: VideoData) -> dict:
    "What is hidden, by name."
    half = mask_random(len(data), STEPS, 0.5, generator=torch.Generator().manual_seed(0))
    return {"gap of 6": mask_gap(len(data), STEPS, 7, 6), "half": half}


def measured(row: dict, out: str, epochs: int) -> dict:
    "Trains one arm with one seed and measures it on new films."
    known = ARMS[row["arm"]]
    take = lambda data: data if known else replace(data, times=None)
    run = fit(config(known, row["seed"], epochs), out, data=take(films(TRAIN, 100)), quiet=True)
    model, test = load_run(run).model, take(films(TEST, 200))
    found = {"bound, nats per frame": round(held_out_elbo(model, test)[0], 3)}
    for name, mask in masks(test).items():
        for particles in (0, 256) if name != "half" else (0,):
            errors = imputation_errors(model, test, mask, particles=particles)
            plain = {k: round(getattr(errors, k), 5) for k in ("smoothing", "filtering", "copy_last")}
            found[f"{name}, {particles} particles"] = plain
    return found | {"epochs": epochs}


def main():
    "Runs what is missing."
    words = argparse.ArgumentParser()
    words.add_argument("--seeds", type=int, default=3)
    words.add_argument("--epochs", type=int, default=100)
    words.add_argument("--out", default="")
    args = words.parse_args()
    begin()
    with tempfile.TemporaryDirectory() as folder:
        wanted = [{"arm": arm, "seed": seed} for seed in range(args.seeds) for arm in ARMS]
        head = {"command": "python experiments/irregular_films.py", "sequences": TRAIN, "steps": STEPS, "size": SIZE}
        missing("irregular_films", wanted, partial(measured, out=args.out or folder, epochs=args.epochs), head)


if __name__ == "__main__":
    main()
