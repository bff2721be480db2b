"""Hidden frames of a switching Kalman VAE: merged hypotheses and Kim's smoother beside particles over regimes.

    python experiments/regime_particles.py --data ../shared/data/box.npz                 # some minutes, one CPU core

The packaged weights `box_switching`, trained on the training part of this file. Numbers of particles are compared on
films of its validation part; the table is measured on films of its test part, on which nothing was chosen. An error is
the share of wrong pixels in hidden frames. Writes experiments/results/regime_particles.json.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from shared import begin, store, wrong_pixels

from kvae_nb.data.films import mask_gap, split_indices
from kvae_nb.data.opening import open_data
from kvae_nb.evaluation.imputation import drop_mask
from kvae_nb.training.pretrained import load_pretrained

WEIGHTS, PARTICLES, TRIED = "box_switching", 256, (16, 64, 256, 1024)
HOW = ("smoothing", "filtering")


def masks(films: int, steps: int) -> dict[str, torch.Tensor]:
    "What is hidden, by name: a gap after four frames, or frames at random."
    gaps = {f"gap {n}": mask_gap(films, steps, 4, n) for n in (3, 7, 11, 15)}
    return gaps | {"drop 0.3": drop_mask(films, steps, 0.3)}


def merging(model, method: str):
    "The same model with this filter in the place of its own."
    model.config = replace(model.config, filter=method)
    return model


def row(errors: torch.Tensor, hidden: torch.Tensor, reference: torch.Tensor | None = None) -> dict:
    "Mean error with its standard error over films, and of the difference to a reference."
    count, n = hidden.double(), len(hidden)
    stated = {}
    for k, how in enumerate(HOW):
        mean = errors[:, k].sum() / count.sum()
        spread = (errors[:, k] - mean * count).std() / n**0.5 / count.mean()
        stated[how] = {"error": round(mean.item(), 5), "standard_error": round(spread.item(), 5)}
        if reference is not None:
            less = errors[:, k] - reference[:, k]
            gain = less.sum() / count.sum()
            spread = (less - gain * count).std() / n**0.5 / count.mean()
            stated[how] |= {"difference": round(gain.item(), 5), "its_standard_error": round(spread.item(), 5)}
    return stated


def measure(model, x: torch.Tensor, ways: dict[str, tuple[str, int]], wanted: tuple[str, ...] | None = None) -> dict:
    "Errors by mask and way; the first way is what the others are compared with."
    table = {}
    for name, mask in masks(*x.shape[:2]).items():
        if wanted and name not in wanted:
            continue
        reference, table[name] = None, {}
        for way, (method, particles) in ways.items():
            start = time.process_time()
            errors = wrong_pixels(merging(model, method), x, mask, particles=particles)
            seconds = time.process_time() - start
            table[name][way] = row(errors, (~mask).sum(1), reference) | {"seconds": round(seconds, 1)}
            reference = errors if reference is None else reference
            print(name, way, table[name][way], flush=True)
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="box.npz of the authors' generator")
    parser.add_argument("--films", type=int, default=100, help="of the test part")
    parser.add_argument("--choice", type=int, default=40, help="films of the validation part")
    args = parser.parse_args()
    begin()
    found = load_pretrained(WEIGHTS)
    config = replace(found.data, path=args.data)
    data = open_data(config)
    _, valid, test = split_indices(len(data), config.test, config.valid, config.split_seed)
    films = lambda part, n: data[part[:n]].frames.float() / 255
    tried = {"IMM, Kim": ("imm", 0)} | {f"{n} particles": ("imm", n) for n in TRIED}
    chosen = {"IMM, Kim": ("imm", 0), "GPB2, Kim": ("gpb2", 0), f"{PARTICLES} particles": ("imm", PARTICLES)}
    content = {
        "command": f"python experiments/regime_particles.py --data {Path(args.data).name}",
        "weights": WEIGHTS,
        "seed": "the fixed noise of draw_regime_noise",
        "validation": {"films": args.choice}
        | measure(found.model, films(valid, args.choice), tried, ("gap 3", "gap 7", "gap 15")),
        "test": {"films": args.films} | measure(found.model, films(test, args.films), chosen),
    }
    store("regime_particles", content)


if __name__ == "__main__":
    main()
