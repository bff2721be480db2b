"""The data of the comparison, made by our own code: two systems observed as numbers, films of balls, images of a
pendulum. The same arrays go to both models.
"""

import math
from typing import NamedTuple

import numpy as np

from kvae_nb.core.runtime import derived_seed
from kvae_nb.worlds.balls import simulate
from kvae_nb.worlds.pendulum import Pendulum, swing

NOISE = 0.05  # standard deviation of the observation of both systems of numbers
FRICTION, GRAVITY = 0.25, 9.81  # of the damped pendulum, whose equation has GRAVITY / 2


class Numbers(NamedTuple):
    "Sequences of numbers: as observed, without their noise, and which steps of the context are seen."

    noisy: np.ndarray  # [batch, time, p]
    clean: np.ndarray  # [batch, time, p]
    seen: np.ndarray  # bool [batch, context]


class System(NamedTuple):
    "A system of numbers: how it is made, how many steps are context, how many are to be forecast."

    make: object  # (count, steps, generator) -> clean observations [batch, time, p]
    context: int
    ahead: int


def bounces(count: int, steps: int, rng: np.random.Generator) -> np.ndarray:
    "Heights [batch, time, 1] of a point that turns round in the step after it has left [-1, 1]; time steps of 0.1."
    y = rng.uniform(-1, 1, count)
    v = rng.uniform(0.05, 0.5, count) * rng.choice([-1, 1], count)
    path = [y]
    for _ in range(steps - 1):
        y = y + 0.1 * v
        v = np.where(abs(y) >= 1, -v, v)
        path.append(y)
    return np.stack(path, 1)[..., None]


def pendulum(count: int, steps: int, rng: np.random.Generator) -> np.ndarray:
    "Positions [batch, time, 2] of a damped pendulum's bob as a camera two lengths away sees them; time steps of 0.1."
    normal = rng.standard_normal((count, 2)).clip(-2, 2)
    start = normal * [1, 4] + [math.pi, 0]
    one = Pendulum(friction=FRICTION, gravity=GRAVITY / 2, torque=0.0, dt=0.1)
    phi = swing(one, start, np.zeros((count, steps)))[..., 0]
    return np.stack([np.sin(phi), -np.cos(phi)], -1) / 2


SYSTEMS = {"ball": System(bounces, 100, 200), "pendulum": System(pendulum, 50, 100)}


def numbers(name: str, missing: float, count: int, part: str, seed: int = 0) -> Numbers:
    "So many sequences of a system for a part of the data, a share of their steps hidden at random."
    system, parts = SYSTEMS[name], ("train", "valid", "test")
    rng = np.random.default_rng(derived_seed(seed, parts.index(part), round(100 * missing), len(name)))
    clean = system.make(count, system.context + system.ahead, rng)
    noisy = clean + NOISE * rng.standard_normal(clean.shape)
    return Numbers(noisy, clean, rng.random((count, system.context)) >= missing)


class Films(NamedTuple):
    "Films and which frames of the context are seen."

    frames: np.ndarray  # [batch, time, side, side]: bool, or 0 … 255
    seen: np.ndarray  # bool [batch, context]


def seen_frames(count: int, context: int, missing: float, seed: int) -> np.ndarray:
    "Which frames are seen: a share is hidden at random, the first one never."
    seen = np.random.default_rng(seed).random((count, context)) >= missing
    seen[:, 0] = True
    return seen


def stored_films(path: str, missing: float = 0.2, seed: int = 0) -> Films:
    "The films of a file of the authors' generator, a share of their frames hidden."
    frames = np.load(path)["images"] > 0
    return Films(frames, seen_frames(len(frames), frames.shape[1], missing, derived_seed(seed, 11)))


def new_films(world: str, count: int, seed: int, context: int = 20, ahead: int = 40, missing: float = 0.2) -> Films:
    "Films of our simulator, drawn as by the authors' generator, long enough for a forecast."
    frames = simulate(world, count, context + ahead, seed=seed, look="published", workers=1).images > 0
    return Films(frames.reshape(count, context + ahead, 32, 32), seen_frames(count, context, missing, seed))


ROD, HALF_WIDTH, SIDE, FINE = 55 / 128, 4 / 128, 24, 6  # lengths in shares of the image's side; points a pixel


def rod(angle: float) -> np.ndarray:
    "Image [24, 24], 0 … 255, of a rod that hangs from the middle at this angle: shares of the pixels that it covers."
    at = (np.arange(SIDE * FINE) + 0.5) / (SIDE * FINE) - 0.5
    x, down = at[None, :], at[:, None]
    along, across = x * np.sin(angle) + down * np.cos(angle), x * np.cos(angle) - down * np.sin(angle)
    inside = (along >= 0) & (along <= ROD) & (across > -HALF_WIDTH) & (across <= HALF_WIDTH)
    return np.rint(255 * inside.reshape(SIDE, FINE, SIDE, FINE).mean((1, 3))).astype(np.uint8)


def rods(phi: np.ndarray) -> np.ndarray:
    "Images [..., 24, 24] of rods at these angles, each rounded to a quarter of a degree."
    table = np.stack([rod(math.radians(k / 4)) for k in range(1440)])
    return table[np.rint(np.degrees(phi) * 4).astype(int) % 1440]


def pushed_swing(count: int, steps: int, rng: np.random.Generator, friction: float = 0.1, push: float = 0.1):
    """Angle from hanging down and angular velocity [batch, time, 2] of a rod (inertia 1/3) in steps of 0.05, its
    velocity kicked at random in every step; it starts at rest anywhere."""
    one = Pendulum(friction=friction, gravity=3 * 9.81, torque=0.0, dt=0.05)
    y = np.stack([rng.uniform(-math.pi, math.pi, count), np.zeros(count)], 1)
    path = [y]
    for _ in range(steps - 1):
        y = swing(one, y, np.zeros((count, 2)))[:, 1]
        y[:, 1] += push * rng.standard_normal(count)
        path.append(y)
    return np.stack(path, 1)


def images(count: int, seed: int, steps: int = 75, missing: float = 0.5, first: int = 5) -> Films:
    "Grey images of that rod, and which are seen: the first five, and of the others half."
    rng = np.random.default_rng(seed)
    frames = rods(pushed_swing(count, steps, rng)[..., 0])
    seen = rng.random((count, steps)) >= missing
    seen[:, :first] = True
    return Films(frames, seen)
