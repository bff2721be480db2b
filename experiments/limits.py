"""What nobody can beat: the errors of the best possible prediction of the box videos, by one who knows the physics
exactly.

    python experiments/limits.py --data ../shared/data/box.npz                # all 500 held-out films: about ten
    minutes on one CPU core

In the videos of the paper's own generator the ball is drawn at whole pixels, so a frame says only in which cell of the
pixel grid the ball was. Given the frames that a mask shows, every start (position and velocity) that puts the ball into
the seen cells is possible. The script lays a grid over these starts, axis by axis, refines it, moves all of them by the
engine's own step (the recorded states are reproduced to 1e-5: checked first), weighs pairs of them by the generator's
law of the launch speed, and marks a pixel as on if it is on in the weighted majority: no other prediction has fewer
wrong pixels on average. Filtering uses the frames seen before each step, smoothing all. The same weights give the
probability of each frame given those before it, and so the highest log p(x) on average that any model can reach. Beside
each mean stands its standard error: the films are the independent draws. Writes experiments/results/limits.json.
"""

import argparse
import json
import platform
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kvae_nb.core.files import atomic_write
from kvae_nb.data.films import mask_gap, split
from kvae_nb.data.opening import DataConfig, open_data
from kvae_nb.evaluation.checks import FIRST
from kvae_nb.evaluation.imputation import DROPS, GAPS, drop_mask

RESULT = Path(__file__).parent / "results" / "limits.json"
DT, RADIUS, LOW, HIGH = 0.2, 3.0, 2.0, 30.0  # the generator's step and ball; inner faces of its walls, in pixels
SLOP, PUSH = (
    0.1,
    1 - (0.9**60) ** DT,
)  # pymunk's defaults: how deep contacts may stay, and the share of the rest that is pushed out in a step
SPEED = (10.0, 15.0)  # launch speed, uniform; any direction
GRID, PAIRS = 80, 4000


class Motion(NamedTuple):
    "Positions, velocities and the engine's push out of the wall along one axis."

    p: np.ndarray
    v: np.ndarray
    push: np.ndarray


def contact(p, v) -> Motion:
    "What the engine does with balls that overlap a wall after a step."
    high, low = p + RADIUS - HIGH, LOW + RADIUS - p
    push = PUSH / DT * (np.maximum(low - SLOP, 0) - np.maximum(high - SLOP, 0))
    return Motion(p, np.where((high > 0) & (v > 0) | (low > 0) & (v < 0), -v, v), push)


def move(m: Motion) -> Motion:
    "One step of the engine."
    return contact(m.p + (m.v + m.push) * DT, m.v)


def check_physics(state: np.ndarray) -> float:
    """The largest distance between the recorded positions and those that `move` makes of the record before; raises
    if it is not tiny.
    """
    p, v = state[:, :-1, :2], state[:, :-1, 2:]
    made = move(Motion(p, v, contact(p, 0 * v).push))
    off = max(np.abs(made.p - state[:, 1:, :2]).max(), np.abs(made.v - state[:, 1:, 2:]).max())
    if off > 1e-4:
        raise SystemExit(
            f"The recorded states differ by {off:.2g} from the engine's rule; these are no box videos of the "
            "paper's generator."
        )
    return float(off)


def cells_of(state: np.ndarray) -> np.ndarray:
    "The cell in which the ball of each frame was drawn: the frame at t shows the state at t-1."
    before = state[:, :1, :2] - DT * state[:, :1, 2:]
    return np.floor(np.concatenate([before, state[:, :-1, :2]], 1)).astype(int)


def consistent(cells: np.ndarray, seen: list[int], rng) -> tuple[np.ndarray, np.ndarray] | None:
    """Launch velocities and paths of cells, [starts] and [time, starts], of random starts along one axis that pass
    through the seen cells; None if the grid found none.
    """
    box = (
        np.array([[cells[0], cells[0] + 1.0], [-SPEED[1], SPEED[1]]])
        if 0 in seen
        else np.array([[LOW + RADIUS, HIGH - RADIUS], [-SPEED[1], SPEED[1]]])
    )
    # A few frames first: the starts that agree with all of them are too few for a coarse grid to meet.
    stages = [seen[:k] for k in (2, 4, 7, 11) if k < len(seen)] + [seen, seen]
    for stage, known in enumerate(stages):
        at = (
            rng.random((2, GRID**2))
            if stage == len(stages) - 1
            else (np.indices((GRID, GRID)).reshape(2, -1) + 0.5) / GRID
        )
        p, v = box[:, :1] + np.diff(box) * at
        m, path, ok = Motion(p, v, 0 * p), [], np.ones(p.shape, bool)
        for t in range(len(cells)):
            path.append(np.floor(m.p).astype(int))
            if t in known:
                ok &= path[-1] == cells[t]
            m = move(m)
        if not ok.any():
            return None
        reach = np.diff(box) / GRID
        box = np.stack([np.stack([x[ok].min(), x[ok].max()]) + r * [-1, 1] for x, r in zip((p, v), reach)])
    return v[ok], np.stack(path)[:, ok]


class Paths(NamedTuple):
    "Weighted paths of cells that agree with what was seen."

    x: np.ndarray  # [time, pairs]
    y: np.ndarray  # [time, pairs]
    weight: np.ndarray  # [pairs], sum 1


def possible(cells: np.ndarray, seen: list[int], rng) -> Paths | None:
    """Pairs of consistent starts along the two axes, weighed by the law of the launch velocity (density 1/speed on
    a ring).
    """
    axes = [consistent(cells[:, k], seen, rng) for k in (0, 1)]
    if None in axes:
        return None
    (vx, x), (vy, y) = axes
    i, j = rng.integers(len(vx), size=PAIRS), rng.integers(len(vy), size=PAIRS)
    speed = np.hypot(vx[i], vy[j])
    weight = np.where((speed >= SPEED[0]) & (speed <= SPEED[1]), 1 / speed, 0)
    return Paths(x[:, i], y[:, j], weight / weight.sum()) if weight.sum() else None


def majority(paths: Paths, t: int, images: dict) -> np.ndarray:
    "The pixels that are on in the weighted majority of possible frames at t."
    table = np.zeros((64, 64))
    np.add.at(table, (paths.x[t] + 16, paths.y[t] + 16), paths.weight)
    total, frame = 0.0, 0.0
    for i, j in np.argwhere(table):
        image = images.get((i - 16, j - 16))
        if image is not None:  # the few cells never drawn in 100 000 frames have next to no weight
            total, frame = total + table[i, j], frame + table[i, j] * image
    return frame / total > 0.5


def errors(cells, frames, hidden, images, rng) -> tuple[np.ndarray, np.ndarray]:
    """Fractions of wrong pixels of one sequence's hidden frames by smoothing and by filtering; NaN where the grid
    found no start.
    """
    times, seen = np.flatnonzero(hidden), np.flatnonzero(~hidden).tolist()
    whole, found, before, past = possible(cells, seen, rng), [], None, None
    for t in times:
        if (new := [s for s in seen if s < t]) != before:
            before, past = new, possible(cells, new, rng)
        found.append(
            [np.nan if paths is None else (majority(paths, t, images) != frames[t]).mean() for paths in (whole, past)]
        )
    return tuple(np.array(found).T)


def log_evidence(cells, rng) -> float:
    """Log-probability in nats of one sequence of frames after the first, by the chain rule; NaN if the grid found
    no start.
    """
    total = 0.0
    for t in range(1, len(cells)):
        paths = possible(cells, list(range(t)), rng)
        hit = 0.0 if paths is None else paths.weight[(paths.x[t] == cells[t, 0]) & (paths.y[t] == cells[t, 1])].sum()
        if not hit:
            return np.nan
        total += np.log(hit)
    return total


def film(k: int, cells, frames, masks: dict, images: dict) -> dict:
    """Sum of the errors of one film's hidden frames and their number, by mask and method; its random numbers depend
    on its index alone.
    """
    rng, found = np.random.default_rng(k), {}
    for name, hidden in masks.items():
        found[name] = np.zeros((2, 2))  # smoothing and filtering; sum and number
        if hidden[k].any():
            wrong = np.stack(errors(cells[k], frames[k], hidden[k], images, rng))
            found[name] = np.stack([np.nansum(wrong, 1), np.isfinite(wrong).sum(1)], 1)
    return found | {"log_evidence": log_evidence(cells[k], rng)}


def average(sums: np.ndarray) -> dict:
    "The mean error over hidden frames and its standard error, from [films, (sum, number)]."
    total, count = sums.T
    mean = total.sum() / count.sum()
    error = (total - mean * count).std(ddof=1) / np.sqrt(len(sums)) / count.mean()
    return {"mean": round(float(mean), 5), "standard_error": round(float(error), 5)}


def curve(films: list[dict], name: tuple, expected: int) -> dict:
    "Both averages of one mask, how many frames were hidden and for how many predictions the grid found no start."
    sums = np.stack([f[name] for f in films])
    both = {how: average(sums[:, i]) for i, how in enumerate(("smoothing", "filtering"))}
    flat = {how: e["mean"] for how, e in both.items()} | {
        f"{how}_error": e["standard_error"] for how, e in both.items()
    }
    return flat | {"frames": expected, "without_start": int(2 * expected - sums[..., 1].sum())}


def evidence(films: list[dict], steps: int) -> dict:
    "The mean log-probability in nats per frame and its standard error."
    values = np.array([f["log_evidence"] for f in films])
    values, first = (
        values[np.isfinite(values)],
        -np.log(np.prod([HIGH - LOW - 2 * RADIUS] * 2)),
    )  # the first cell: at most as surprising as a uniform one
    error = values.std(ddof=1) / np.sqrt(len(values))
    return {
        "per_frame": round(float(values.mean() + first) / steps, 4),
        "standard_error": round(float(error) / steps, 4),
        "sequences": len(values),
        "first frame, taken as uniform": round(float(first) / steps, 3),
    }


def drawn(cells, frames):
    "The frame of each cell, as the generator drew it."
    at, seen = cells[:, 1:].reshape(-1, 2).tolist(), frames[:, 1:].reshape(-1, *frames.shape[2:])
    return {tuple(c): f for c, f in zip(at, seen)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="the .npz file of the paper's box generator")
    parser.add_argument("--sequences", type=int, default=500, help="how many of the held-out sequences")
    args = parser.parse_args()
    config, started = DataConfig(path=args.data), time.perf_counter()
    whole = open_data(config)
    test = split(whole, config.test, config.valid, config.split_seed).test
    off = check_physics(whole.state.double().numpy())
    everything, frames = cells_of(whole.state.double().numpy()), whole.frames[:, :, 0].numpy() > 127
    images = drawn(everything, frames)
    n, steps = min(args.sequences, len(test)), test.steps
    cells, frames = cells_of(test.state.double().numpy())[:n], test.frames[:n, :, 0].numpy() > 127
    masks = {("gap", str(g)): ~mask_gap(len(test), steps, FIRST, g).numpy() for g in GAPS} | {
        ("drop", str(p)): ~drop_mask(len(test), steps, p).numpy() for p in DROPS
    }
    films = []
    for k in range(n):
        films.append(film(k, cells, frames, masks, images))
        if k % 50 == 49:
            now = {g: curve(films, ("gap", g), 0)["filtering"] for g in ("1", "7", "15")}
            print(k + 1, "films", now, f"{time.perf_counter() - started:.0f} s", flush=True)
    curves = {"gap": {}, "drop": {}}
    for (kind, size), hidden in masks.items():
        curves[kind][size] = curve(films, (kind, size), int(hidden[:n].sum()))
    content = {
        "command": f"python experiments/limits.py --data {Path(args.data).name} --sequences {n}",
        "machine": f"{platform.machine()} CPU, 1 thread",
        "seconds": round(time.perf_counter() - started),
        "data": Path(args.data).name,
        "sequences": n,
        "largest distance of the engine's rule from the recorded states": off,
        "imputation": curves,
        "log_evidence": evidence(films, steps),
    }
    with atomic_write(RESULT) as tmp:
        tmp.write_text(json.dumps(content, indent=1) + "\n")
    print(content["log_evidence"])


if __name__ == "__main__":
    main()
