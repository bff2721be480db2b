"""Are predictions of hidden frames calibrated? Plugged-in weights and particles, by filter and smoother, in the model's
coordinates and in pixels.

    python experiments/calibration.py --data ../shared/data/box.npz --runs RUN RUN RUN

This takes minutes a run on one CPU core. The runs are those of fresh.py: the preset `best` on split 1. Reported on
those test films of split 1 that are neither test nor validation films of split 0 (`fresh_films`), with standard errors
over films. Beside each result stands the one after recalibration: one factor for each predictor and direction, chosen
on validation films, multiplies the deviations from the mean. Writes experiments/results/calibration.json after every
kind of hiding.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import torch
from fresh import FRESH, fresh_films, parts
from pack import command
from shared import begin, store

from kvae_nb.core.errors import InputError
from kvae_nb.core.gaussians import Gaussian
from kvae_nb.core.runtime import derived_seed
from kvae_nb.data.films import VideoData, mask_gap
from kvae_nb.data.opening import open_data
from kvae_nb.evaluation.calibration import (
    HiddenFrames,
    Verdict,
    fit_reading,
    gaussian_predictor,
    judge,
    particle_predictor,
    predict_hidden,
    read_position,
    stretched,
)
from kvae_nb.evaluation.checks import FIRST
from kvae_nb.evaluation.imputation import drop_mask
from kvae_nb.evaluation.proper_scores import Weighted, effective, gaussian_level, region_level
from kvae_nb.training.runs import Run, load_run

LEVELS = (0.5, 0.9, 0.99)
GAPS, DROP = (3, 7, 11, 15), 0.5
HOW = ("filtered", "smoothed")
CHOSEN_ON = ("gap 7", "gap 15")  # what is hidden where the factor is chosen
LAG = 1  # the frame at t shows the state at t - 1 in files of the paper's generator
READ, CHOOSE = 400, 40  # training films for the reading, validation films for the factor
MORE, FEW, LONG = 1024, 48, ("gap 11", "gap 15")  # more particles, on so many films, where the effective number is low


def masks(films: int, steps: int) -> dict[str, torch.Tensor]:
    "What is hidden, by name."
    return {f"gap {n}": mask_gap(films, steps, FIRST, n) for n in GAPS} | {
        f"drop {DROP}": drop_mask(films, steps, DROP)
    }


def random(*key, shape, normal=False) -> torch.Tensor:
    "Random numbers that belong to this key."
    generator = torch.Generator().manual_seed(derived_seed(0, *key))
    return (torch.randn if normal else torch.rand)(shape, generator=generator, dtype=torch.float64)


def share(level: torch.Tensor, film: torch.Tensor) -> dict:
    "How often the truth was inside, and the standard errors when films are the independent draws."
    inside = (level[:, None] <= torch.tensor(LEVELS, dtype=level.dtype)).double()
    mean, films = inside.mean(0), int(film.max()) + 1
    total = torch.zeros(films, len(LEVELS), dtype=torch.float64).index_add_(0, film, inside - mean)
    error = total.std(0) * films**0.5 / len(level)
    return {"share": mean.tolist(), "standard_error": error.tolist()}


def summary(v: Verdict, film: torch.Tensor) -> dict:
    "What is stored of some verdicts."
    return share(v.level, film) | {
        "energy": v.energy.mean().item(),
        "crps": v.crps.mean().item(),
        "error": v.error.square().sum(-1).mean().sqrt().item(),
        "pit": (torch.histc(v.pit, 10, 0, 1) / v.pit.numel() * 10).tolist(),
    }


def levels(p: Gaussian | Weighted, y: torch.Tensor, key: int) -> torch.Tensor:
    "The probability of the smallest region with the truth in it."
    if isinstance(p, Gaussian):
        return gaussian_level(p, y)
    parts = zip(*(v.split(16) for v in (*p, y, random(key, shape=(len(y),)))))
    return torch.cat([region_level(Weighted(x, w), t, u) for x, w, t, u in parts])


def best_factor(hidden: list[HiddenFrames], how: str) -> float:
    "The factor at which the three shares are right on average, by bisection."
    low, high = 0.25, 6.0
    for _ in range(7):
        middle = (low * high) ** 0.5
        inside = [levels(stretched(getattr(h.predicted, how), middle), h.a, 1) for h in hidden]
        found = sum((torch.cat(inside) <= p).double().mean().item() - p for p in LEVELS)
        low, high = (middle, high) if found < 0 else (low, middle)
    return (low * high) ** 0.5


def reading_of(model, data: VideoData):
    "The position given a, fitted on films whose frames are all seen."
    q = model.posterior(data.frames.float() / 255)
    a = (q.mean + q.var.sqrt() * random(0, shape=q.mean.shape, normal=True))[:, LAG:]
    where = data.state[:, : data.steps - LAG, :2]
    return fit_reading(a.flatten(0, 1).double(), where.flatten(0, 1).double())


def judged(h: HiddenFrames, how: str, factor: float, reading, data: VideoData) -> dict:
    "What was found of a, of a after recalibration, and of the position in pixels."
    p, uniform = getattr(h.predicted, how), random(2, shape=(len(h.a), 3))
    noise = random(3, shape=p.values.shape, normal=True) if isinstance(p, Weighted) else None
    where = data.state[h.film, h.step - LAG, :2].double()
    found = {
        "a": summary(judge(p, h.a, uniform), h.film),
        "recalibrated": share(levels(stretched(p, factor), h.a, 4), h.film),
        "position": summary(judge(read_position(reading, p, noise), where, uniform), h.film),
    }
    return found | ({"effective": effective(p).median().item()} if noise is not None else {})


def with_more(model, data: VideoData, particles: tuple[int, ...]) -> dict:
    "Shares and effective number of the smoother in long gaps of a few films, for several numbers of particles."
    few, found = data[:FEW], {}
    for n in particles:
        found[str(n)] = {}
        for kind in LONG:
            h = predict_hidden(model, few, masks(len(few), data.steps)[kind], particle_predictor(n))
            p = h.predicted.smoothed
            found[str(n)][kind] = share(levels(p, h.a, 5), h.film) | {"effective": effective(p).median().item()}
    return found


@torch.no_grad()
def measure(run: Run, whole: VideoData, particles: int, films: int, keep):
    "All rows of a run, given to `keep` as they come. Raises `InputError` for a run on another split."
    c, model, start = run.config.data, run.model, time.perf_counter()
    if c.split_seed != FRESH:
        raise InputError(f"{run.folder} has split_seed {c.split_seed}, but {FRESH} is needed.")
    train, valid, _ = (torch.tensor(sorted(p)) for p in parts(c, len(whole), FRESH))
    test, choose = whole.subset(fresh_films(c, len(whole))[:films]), whole.subset(valid[:CHOOSE])
    reading, R = reading_of(model, whole.subset(train[:READ])), model.dynamics.R().double()
    tools = {"particles": particle_predictor(particles), "plug-in": gaussian_predictor(R)}
    rows = {
        "films": len(test),
        "seed": run.config.train.seed,
        "command": command(run.config),
        "R": R.diagonal().tolist(),
    }
    rows["q_variance"] = model.posterior(test.frames[:100].float() / 255).var.mean((0, 1)).tolist()
    rows["reading_deviation"] = reading.cov.diagonal().sqrt().tolist()
    for name, tool in tools.items():
        hidden = [predict_hidden(model, choose, masks(CHOOSE, whole.steps)[kind], tool) for kind in CHOSEN_ON]
        factors = {how: best_factor(hidden, how) for how in HOW}
        rows[name] = {"factor": factors}
        for kind, m in masks(len(test), whole.steps).items():
            h = predict_hidden(model, test, m, tool)
            rows[name][kind] = {how: judged(h, how, factors[how], reading, test) for how in HOW}
            print(name, kind, {how: rows[name][kind][how]["a"]["share"] for how in HOW}, flush=True)
            keep(rows | {"seconds": round(time.perf_counter() - start)})
    rows["more particles"] = with_more(model, test, (particles, MORE))
    keep(rows | {"seconds": round(time.perf_counter() - start)})


def rounded(value):
    "Numbers with few digits."
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path, help="the .npz file of the paper's box generator")
    parser.add_argument("--runs", nargs="+", required=True, help="run folders")
    parser.add_argument("--particles", type=int, default=256)
    parser.add_argument("--films", type=int, default=500, help="at most so many films are reported on")
    args = parser.parse_args()
    begin()
    found = {}

    def keep(folder, row):
        found[folder] = row
        content = {
            "command": f"python experiments/calibration.py --data {args.data.name} --runs {'RUN ' * len(found)}"
            f"--particles {args.particles} --films {args.films}",
            "particles": args.particles,
            "levels": LEVELS,
            "runs": list(found.values()),
        }
        store("calibration", rounded(content), indent=None)

    for folder in args.runs:
        run = load_run(folder)
        measure(run, open_data(run.config.data), args.particles, args.films, partial(keep, folder))


if __name__ == "__main__":
    main()
