"""What the two panels of the site need: a sheet of decoded frames, codes of films, and a series with a gap.

    python experiments/panels.py

The frames are what the pretrained model `box` decodes on a grid of its latent plane, drawn side by side in one picture;
the codes are of films of our simulator in the look of its training data. The series is drawn from a point with a
velocity. Writes nbs/images/latent_sheet.png and nbs/images/panels.json. Takes seconds.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kvae_nb import LGSSM, load_pretrained, simulate
from kvae_nb.core.files import atomic_write
from kvae_nb.inference.lgssm import sample_prior

IMAGES = Path(__file__).parents[1] / "nbs" / "images"
WORLD, CELLS, FILMS, SEED = "box", 41, 40, 1
STEPS, HIDDEN, START = 40, (18, 27), 4.0  # of the series; what is known of its first state: N(0, START) each
TRUE_Q, TRUE_R = 0.1, 1.0


class Grid(NamedTuple):
    "A square grid of codes; the first row of the sheet is the highest second number."

    low: tuple[float, float]
    high: tuple[float, float]
    cells: int


def codes() -> tuple[Tensor, Tensor]:
    "The code of every frame of some films, and the height of the ball from the floor (0) to the ceiling (1)."
    found = simulate(WORLD, FILMS, seed=SEED, look="published")
    a = load_pretrained(WORLD).model.encode(torch.as_tensor(found.images)[:, :, None].float() / 255)
    height = torch.as_tensor(found.state[..., 1]).flatten()
    return a.reshape(-1, 2), (height - height.min()) / (height.max() - height.min())


def grid(a: Tensor) -> Grid:
    "A grid over these codes and a little beyond, with bounds of one decimal."
    low, high = a.amin(0), a.amax(0)
    edge = 0.1 * (high - low)
    return Grid(*(tuple(round(v, 1) for v in bound.tolist()) for bound in (low - edge, high + edge)), CELLS)


def points(g: Grid) -> Tensor:
    "The codes of the sheet's tiles: [row, column, 2]."
    first, second = (torch.linspace(lo, hi, g.cells) for lo, hi in zip(g.low, g.high))
    return torch.stack(torch.meshgrid(second.flip(0), first, indexing="ij")[::-1], -1)


def sheet(g: Grid) -> np.ndarray:
    "The decoded frames side by side, as grey levels."
    frames = load_pretrained(WORLD).model.decode(points(g).reshape(-1, 2))
    size = frames.shape[-1]
    tiles = frames.reshape(g.cells, g.cells, size, size).transpose(1, 2).reshape(g.cells * size, -1)
    return (tiles.clamp(0, 1) * 255).round().byte().numpy()


def tracking(q: float, r: float) -> LGSSM:
    "Position and velocity of a point that is pushed at random, seen with noise: the panel's model, in float64."
    given = dict(dtype=torch.float64)
    A, C = torch.tensor([[1.0, 1.0], [0.0, 1.0]], **given), torch.tensor([[1.0, 0.0]], **given)
    Q, R = q * torch.tensor([[1 / 3, 1 / 2], [1 / 2, 1.0]], **given), r * torch.eye(1, **given)
    return LGSSM(A[None], None, C[None], Q[None], R[None], torch.zeros(2, **given), START * torch.eye(2, **given))


def series() -> dict:
    "A path of that model, and its observations; nothing is seen in the gap."
    drawn = sample_prior(tracking(TRUE_Q, TRUE_R), STEPS, generator=torch.Generator().manual_seed(SEED))
    short = lambda v: [round(x, 3) for x in v.tolist()]
    seen = [not HIDDEN[0] <= t < HIDDEN[1] for t in range(STEPS)]
    y = [v if s else None for v, s in zip(short(drawn.a[:, 0]), seen)]
    return {"y": y, "truth": short(drawn.z[:, 0]), "q": TRUE_Q, "r": TRUE_R, "start": START}


@torch.no_grad()
def main():
    a, height = codes()
    g = grid(a)
    rows = [[round(v, 2) for v in row] for row in torch.cat([a, height[:, None]], 1).tolist()]
    data = {"sheet": g._asdict() | {"size": 32}, "codes": rows, "series": series()}
    with atomic_write(IMAGES / "latent_sheet.png") as tmp:
        Image.fromarray(sheet(g)).save(tmp, "png", optimize=True)
    with atomic_write(IMAGES / "panels.json") as tmp:
        tmp.write_text(json.dumps(data, separators=(",", ":")) + "\n", encoding="utf-8")
    print({p.name: f"{p.stat().st_size / 1000:.0f} kB" for p in (IMAGES / "latent_sheet.png", IMAGES / "panels.json")})


if __name__ == "__main__":
    main()
