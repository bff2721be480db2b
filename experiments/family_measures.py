"""What is measured of every row of the one table (family.py): hidden frames, forecasts, calibration, long films.

A predictor takes films whose hidden frames are blank, and a mask; it answers with the expected frames given all seen
frames, and given the earlier ones (None where it has no such answer). Models, copying and interpolation are predictors
alike, so that the same function counts for all.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from budget import Films, engine
from limits import DT, Motion, move
from torch import Tensor

from kvae_nb.data.films import VideoData, mask_gap
from kvae_nb.evaluation.checks import FIRST
from kvae_nb.evaluation.imputation import copy_last, drop_mask, interpolate_latents
from kvae_nb.evaluation.probes import judge_films
from kvae_nb.models.protocol import hide
from kvae_nb.worlds.balls import WORLDS, launch
from kvae_nb.worlds.published import draw_published

HOW = ("smoothing", "filtering")
GAPS, DROPS = (1, 3, 7, 11, 15), (0.3, 0.5, 0.8)
RELIABLE = ("gap 7", "drop 0.5")  # where the probabilities of pixels are compared with how often they were on
LEAST = 1e-3  # probabilities are kept between this and 1 minus this before a logarithm is taken, in every row
BINS = 20
SEEN, AHEAD = 20, 40  # frames shown, and forecast
NEAR = 3.0  # pixels: the ball's radius
Predictor = Callable[[Tensor, Tensor], tuple[Tensor | None, Tensor | None]]


def masks(films: int, steps: int) -> dict[str, Tensor]:
    "Which frames are seen: the protocol of the paper's Fig. 3."
    return {f"gap {n}": mask_gap(films, steps, FIRST, n) for n in GAPS} | {
        f"drop {p}": drop_mask(films, steps, p) for p in DROPS
    }


def by_model(model, batch: int = 50, **given) -> Predictor:
    "The predictor that asks a model."

    @torch.no_grad()
    def predict(x, mask):
        parts = [model.impute(a, m, **given) for a, m in zip(x.split(batch), mask.split(batch))]
        return tuple(torch.cat([getattr(p, how).frames for p in parts]) for how in ("smoothed", "filtered"))

    return predict


def copied(x: Tensor, mask: Tensor) -> tuple[None, Tensor]:
    "The last seen frame again: a filter."
    return None, copy_last(x, mask)


def interpolated(x: Tensor, mask: Tensor) -> tuple[Tensor, None]:
    "A straight line between the pixels of the seen frames on both sides: no filter."
    return interpolate_latents(x.flatten(2), mask).view_as(x), None


def constant(frame: Tensor) -> Predictor:
    "The same expected frame always, whatever is seen."

    def predict(x, mask):
        return (frame.expand_as(x),) * 2

    return predict


class Pixels(NamedTuple):
    "What is counted in frames."

    wrong: float  # share of pixels on the wrong side of 1/2
    log_score: float  # nats a frame: log of the probability of the true pixels, added up
    brier: float  # mean squared error of the probabilities, added up over a frame
    calibration: float  # pixels a frame: |how often on - how probable|, over groups of equal probability
    bins: list  # for each group: how many pixels, their mean probability, the share of them that was on


def pixel_scores(expected: Tensor, truth: Tensor) -> Pixels:
    "Scores of expected frames beside true ones, both [frames, pixels]; groups are equal parts of 0 to 1."
    p, y = expected.double().clamp(0, 1), (truth > 0.5).double()
    safe = p.clamp(LEAST, 1 - LEAST)
    log = (y * safe.log() + (1 - y) * (1 - safe).log()).sum(1).mean()
    group = (p * BINS).long().clamp(max=BINS - 1).flatten()
    count = torch.bincount(group, minlength=BINS).double()
    said, was = (torch.bincount(group, v.flatten(), BINS) for v in (p, y))
    gap = (said - was).abs().sum() / len(p)
    table = [[int(n), s / n, w / n] for n, s, w in zip(*(v.tolist() for v in (count, said, was))) if n]
    wrong = ((p > 0.5) != (y > 0.5)).double().mean()
    return Pixels(wrong.item(), log.item(), (p - y).square().sum(1).mean().item(), gap.item(), table)


def imputation(predict: Predictor, x: Tensor) -> dict:
    "Scores of all hidden frames of these films under every mask; the groups only where `RELIABLE` says so."
    found = {}
    for name, mask in masks(*x.shape[:2]).items():
        found[name], truth = {}, x[~mask].flatten(1)
        for how, frames in zip(HOW, predict(hide(x, mask), mask)):
            if frames is not None:
                scores = pixel_scores(frames[~mask].flatten(1), truth)._asdict()
                found[name][how] = scores if name in RELIABLE else {k: v for k, v in scores.items() if k != "bins"}
    return found


def engine_states(films: int, steps: int, seed: int) -> np.ndarray:
    "Positions and velocities by the published generator's own rule (limits.py), from launches of our simulator."
    starts = np.array([launch(WORLDS["box"], seed, k, 1, 3.0, WORLDS["box"].speed)[0] for k in range(films)])
    m, path = Motion(starts[:, :2], starts[:, 2:], 0 * starts[:, :2]), []
    for _ in range(steps):
        path.append(np.concatenate([m.p, m.v], 1))
        m = move(m)
    return np.stack(path, 1)


def engine_films(films: int, steps: int, seed: int) -> VideoData:
    "Films that move by the published generator's rule and are drawn as it draws; frame and state of the same instant."
    state = engine_states(films, steps, seed)
    frames = draw_published(state, WORLDS["box"].corners)
    return VideoData(torch.from_numpy(frames)[:, :, None], state=torch.from_numpy(state).float())


def centre(frames: Tensor, background: Tensor) -> Tensor:
    "Centre of mass (column, row) of what is bright in [..., height, width] beside the background; NaN if nothing is."
    w = frames.double() * ~background
    row, column = (torch.arange(n, dtype=w.dtype) for n in w.shape[-2:])
    return torch.stack([w.sum(-2) @ column, w.sum(-1) @ row], -1) / w.sum((-2, -1))[..., None]


def forecast_scores(expected: Tensor, truth: Tensor, background: Tensor) -> dict:
    "At each step: share of wrong pixels, mean distance of the ball's centre in pixels, share of balls that are near."
    wrong = ((expected > 0.5) != (truth > 0.5)).double().mean((0, 2, 3, 4))
    away = (centre(expected[:, :, 0], background) - centre(truth[:, :, 0], background)).norm(dim=-1)
    away = away.nan_to_num(away.new_tensor(truth.shape[-1]))  # no ball at all: as far as the frame is wide
    return {
        "wrong": wrong.tolist(),
        "distance": away.mean(0).tolist(),
        "near": (away <= NEAR).double().mean(0).tolist(),
    }


def forecast(predict: Predictor, x: Tensor, background: Tensor) -> dict:
    "Scores of the expected frames after the first ones."
    mask = torch.zeros(x.shape[:2], dtype=torch.bool)
    mask[:, :SEEN] = True
    smoothed, filtered = predict(hide(x, mask), mask)
    return forecast_scores((smoothed if filtered is None else filtered)[:, SEEN:], x[:, SEEN:], background)


@torch.no_grad()
def rollouts(model, x: Tensor, steps: int, seed: int = 0, **given) -> Tensor:
    "Expected frames along one drawn path of each film that continues x (what a model drew itself is not shown)."
    generator, torch_state = torch.Generator().manual_seed(seed), torch.get_rng_state()
    torch.manual_seed(seed)
    made = model.generate(steps, x=x, generator=generator, **given)
    torch.set_rng_state(torch_state)
    return made.frames if made.expected is None else made.expected


def long_films(made: Tensor, x: Tensor, world: Tensor) -> dict:
    "Of 200 new frames: the share that shows one ball of the right size, in eighths of the time, and its speed."
    found = judge_films(made, x[:, FIRST:], world)
    eighths = [part.mean().item() for part in found.sound.tensor_split(8)]
    return {
        "sound": found.sound.mean().item(),
        "sound_by_time": eighths,
        "sound_data": found.sound_data,
        "speed": found.speed.nanmean().item(),
        "speed_data": found.speed_data,
    }


def film_cells(state: np.ndarray, x: Tensor, lag: int) -> Films:
    "Cells, positions and pictures of films, as budget.py takes them; the frame at t shows the state at t - lag."
    points = state[..., :2]
    if lag:
        points = np.concatenate([state[:, :1, :2] - DT * state[:, :1, 2:], state[:, :-1, :2]], 1)
    return Films(torch.from_numpy(np.floor(points)).long(), torch.from_numpy(points).float(), x[:, :, 0] > 0.5)


def limit(films: Films, images: Tensor) -> Predictor:
    "The expected frames of one who knows the generator's rule exactly; the last seen frame where no start was found."
    table = images.flatten(0, 1).flatten(1).float()

    def predict(x, mask):
        last, found = copy_last(x, mask), []
        for how, rows in engine(films, mask).items():
            made, lost = last.clone(), rows.isnan().any(1)
            frames = torch.where(lost[:, None], last[~mask].flatten(1), rows.nan_to_num(0) @ table)
            made[~mask] = frames.view_as(made[~mask])
            found.append(made)
        return tuple(found)

    return predict
