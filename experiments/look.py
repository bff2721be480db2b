"""Our simulator's published look beside the authors' own frames, pixel by pixel.

    python experiments/look.py ../shared/data                                      # half a minute

Where states are recorded (box, gravity, polygon) frame t is drawn from state t - 1 and compared with theirs; where they
are not (pong) the ball's pixel is found in the frame, the paddles follow from the balls of the frames before, and the
frame that these give is compared. Counted are wrong pixels with and without the marks at contacts, and those of our own
look for the same states. Writes experiments/results/look.json.
"""

import argparse
import itertools
import json
from collections import Counter
from pathlib import Path
from time import perf_counter

import numpy as np

from kvae_nb.core.files import atomic_write
from kvae_nb.worlds.balls import PUBLISHED, UNITS, draw
from kvae_nb.worlds.published import (
    draw_published,
    mark_contacts,
    published_bars,
    published_walls,
    put_discs,
    put_paddles,
)

RESULT = Path(__file__).parent / "results" / "look.json"
FILES = {"box": "box", "gravity": "box_gravity", "polygon": "polygon"}


def wrong(found: np.ndarray, images: np.ndarray) -> np.ndarray:
    "How many pixels of each frame differ."
    return ((found > 0) != (images > 0)).sum((-2, -1))


def unmarked(state: np.ndarray, world) -> np.ndarray:
    "The published look without the marks at contacts."
    white = np.zeros((state.shape[0] * state.shape[1], UNITS, UNITS), dtype=bool) | published_walls(
        world.corners, world.paddle
    )
    xy = state[..., :2].reshape(-1, 2)
    put_discs(white, np.stack([np.trunc(xy[:, 0]), UNITS - np.trunc(xy[:, 1])], -1).astype(int))
    return white.reshape(*state.shape[:2], UNITS, UNITS)


def compared(name: str, folder: Path) -> dict:
    "Wrong pixels of a world whose states are recorded."
    with np.load(folder / f"{FILES[name]}.npz") as file:
        images, state = file["images"][:, 1:] > 0, file["state"][:, :-1]
    world, total = PUBLISHED[name], Counter()
    for some in np.array_split(np.arange(len(state)), 20):
        theirs, s = images[some], state[some]
        with_marks, without = (
            wrong(draw_published(s, world.corners, world.paddle), theirs),
            wrong(unmarked(s, world), theirs),
        )
        bad = with_marks > 0
        total.update(
            wrong_frames_by_rounding=int(by_rounding(s[bad], world, theirs[bad]).sum()),
            frames=with_marks.size,
            wrong=int(with_marks.sum()),
            wrong_frames=int((with_marks > 0).sum()),
            wrong_without_marks=int(without.sum()),
            wrong_frames_without_marks=int((without > 0).sum()),
            wrong_in_our_look=int(wrong(draw(s.astype(np.float32), world, 32, 3.0), theirs).sum()),
        )
    return dict(total) | {"pixels": total["frames"] * UNITS**2}


def balls_in(images: np.ndarray) -> np.ndarray:
    "Column and row of the ball that explains the inner pixels of each frame best."
    centres = np.array([(x, y) for y in range(UNITS + 1) for x in range(UNITS + 1)])
    discs = np.zeros((len(centres), UNITS, UNITS), dtype=bool)
    put_discs(discs, centres)
    inner = lambda a: a[:, 1:31, 2:30].reshape(len(a), -1).astype(np.float32)
    shape = inner(discs)
    cost = (shape.sum(1)[None] - 2 * inner(part) @ shape.T for part in np.array_split(images, 50))
    return centres[np.concatenate([c.argmin(1) for c in cost])]


def by_rounding(state: np.ndarray, world, images: np.ndarray, within: float = 4e-6) -> np.ndarray:
    "Whether a frame is theirs once a coordinate within float32's rounding of a whole number is moved across it."
    right = np.zeros(len(state), dtype=bool)
    for dx, dy in itertools.product((-within, 0, within), repeat=2):
        moved = state.astype(np.float64) + np.array([dx, dy, 0, 0])
        right |= wrong(draw_published(moved[:, None], world.corners)[:, 0], images) == 0
    return right


def by_fraction(centre: np.ndarray, paddle: np.ndarray, images: np.ndarray, steps: int = 24) -> int:
    "How many frames of pong are theirs for some position within the ball's pixel, where the paddle is at this height."
    world, fractions, found = PUBLISHED["pong"], (np.arange(steps) + 0.5) / steps, 0
    for (column, row), height, image in zip(centre, paddle, images):
        white = np.zeros((steps**2, UNITS, UNITS), dtype=bool) | published_walls(world.corners, world.paddle)
        xy = np.stack(np.meshgrid(column + fractions, UNITS - row + fractions), -1).reshape(-1, 2)
        put_discs(white, np.tile([column, row], (steps**2, 1)))
        for start, end, thickness in published_bars(world.corners, world.paddle, np.full(steps**2, height)):
            mark_contacts(white, xy, start, end, thickness)
        put_paddles(white, world.corners, world.paddle, np.full(steps**2, height))
        found += bool((wrong(white, image[None]) == 0).any())
    return found


def pong(folder: Path) -> dict:
    "Wrong pixels of pong, whose states are not recorded."
    with np.load(folder / "pong.npz") as file:
        images = file["images"] > 0
    n, time = images.shape[:2]
    centre = balls_in(images.reshape(-1, UNITS, UNITS)).reshape(n, time, 2)
    floor, world = UNITS - centre[..., 1], PUBLISHED["pong"]
    paddle, total = first_paddle(images[:, 0], centre[:, 0]), Counter(frames=n * time)
    total["starts"] = dict(Counter(paddle.tolist()))
    for t in range(time):
        if t:  # |y - p| > 1 for whole p: the whole part of y is above p, or below p - 1
            away = floor[:, t - 1] - paddle
            paddle = np.clip(paddle + 2 * (away > 0) - 2 * (away < -1), world.paddle, UNITS - world.paddle)
        white = np.zeros((n, UNITS, UNITS), dtype=bool) | published_walls(world.corners, world.paddle)
        put_discs(white, centre[:, t])
        put_paddles(white, world.corners, world.paddle, paddle)
        bad = wrong(white, images[:, t])
        odd = bad > 0
        marks = by_fraction(centre[odd, t], paddle[odd], images[odd, t])
        total.update(wrong=int(bad.sum()), wrong_frames=int(odd.sum()), wrong_frames_by_marks=marks)
    return dict(total) | {"pixels": n * time * UNITS**2}


def first_paddle(images: np.ndarray, centre: np.ndarray) -> np.ndarray:
    "Height of the paddles in the first frames, by the pixels of the left one."
    heights, rows = np.arange(3, 30), images[:, 1:31, 0]
    bars = np.zeros((len(heights), UNITS, UNITS), dtype=bool)
    put_paddles(bars, PUBLISHED["pong"].corners, 3.0, heights.astype(float))
    return heights[(rows[:, None] != bars[None, :, 1:31, 0]).sum(-1).argmin(1)].astype(float)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with box.npz, box_gravity.npz, polygon.npz and pong.npz")
    folder, started = parser.parse_args().data, perf_counter()
    worlds = {name: compared(name, folder) for name in FILES} | {"pong": pong(folder)}
    for name, found in worlds.items():
        print(name, found)
    content = {
        "command": "python experiments/look.py ../shared/data",
        "seed": None,  # nothing is drawn by chance
        "seconds": round(perf_counter() - started),
        "machine": "x86_64 CPU, 1 thread",
        "worlds": worlds,
    }
    with atomic_write(RESULT) as tmp:
        tmp.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
