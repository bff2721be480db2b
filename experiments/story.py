"""The six pictures with which the index begins: one for each step of the story.

    python experiments/story.py

A film of the world `gravity` that training has not used, the pretrained models `simulated_gravity` and `box_switching`,
and for the third picture a small linear-Gaussian model. Writes nbs/images/story_1.png to story_6.png. Takes seconds.
"""

from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Ellipse

from kvae_nb import LGSSM, kalman_filter, load_pretrained, smoother
from kvae_nb.core.files import atomic_write
from kvae_nb.data.films import VideoData
from kvae_nb.data.opening import open_data
from kvae_nb.evaluation.plots import CYCLE, PALETTE
from kvae_nb.inference.lgssm import sample_prior

IMAGES = Path(__file__).parents[1] / "nbs" / "images"
WORLD, STEPS, FILMS, HIDDEN = "simulated_gravity", 24, 80, (8, 15)


def films() -> VideoData:
    "Films of the world that the model was not trained on."
    c = load_pretrained(WORLD).data
    return open_data(replace(c, sequences=FILMS, steps=STEPS, simulate_seed=c.simulate_seed + 1, test=0, valid=0))


def ball(ax: Axes, data: VideoData):
    "The film as one picture: the brightest value of each pixel, and the true path."
    seen = data.frames[0, :12, 0].float() / 255
    fade = torch.linspace(0.25, 1, 12)[:, None, None]
    ax.imshow((seen * fade).amax(0), cmap="gray_r", vmin=0, vmax=1.4)


def codes(ax: Axes, data: VideoData, model):
    "Where the encoder puts each frame, coloured by the true height of the ball."
    a = model.encode(data.frames.float() / 255).reshape(-1, 2)
    ax.scatter(*a.T, c=data.state[..., 1].flatten(), s=1.5, cmap="viridis", lw=0)


def tracking(ax: Axes):
    "A point with constant velocity, seen with noise: observations, filter, smoother and truth."
    eye = torch.eye(2, dtype=torch.float64)
    A = torch.cat([torch.cat([eye, eye], 1), torch.cat([0 * eye, eye], 1)])
    C = torch.cat([eye, 0 * eye], 1)
    Q = torch.block_diag(1e-3 * eye, 0.02 * eye)
    mean1 = torch.tensor([0.0, 0.0, 0.8, 0.5], dtype=torch.float64)
    m = LGSSM(A[None], None, C[None], Q[None], 0.5 * eye[None], mean1, torch.eye(4, dtype=torch.float64))
    drawn = sample_prior(m, 14, generator=torch.Generator().manual_seed(2))
    a, z = drawn.a, drawn.z
    found = smoother(m, a)
    ax.plot(*a.T, "x", color=PALETTE["copy_last"], ms=5)
    ax.plot(*z[:, :2].T, color=PALETTE["truth"], lw=1)
    for mean, cov in zip(found.mean[:, :2], found.cov[:, :2, :2]):
        values, vectors = np.linalg.eigh(cov.numpy())
        angle = np.degrees(np.arctan2(*vectors[::-1, 1]))
        ax.add_patch(Ellipse(mean, *4 * np.sqrt(values[::-1]), angle=angle, color=PALETTE["smoothing"], alpha=0.25))
    ax.plot(*found.mean[:, :2].T, "o-", color=PALETTE["smoothing"], ms=2.5, lw=1)
    ax.plot(*kalman_filter(m, a).mean[:, :2].T, ":", color=PALETTE["filtering"], lw=1.5)


def bending(ax: Axes, data: VideoData, model):
    "How the model continues films of which it has seen four frames: the expected codes, from pale to dark."
    path = model.generate(18, x=data.frames[:7, :4].float() / 255, noise=False).a
    for film in path:
        ax.plot(*film.T, color=PALETTE["quiet"], lw=0.8, zorder=1)
        ax.scatter(*film.T, c=np.arange(len(film)), cmap="Blues", vmin=-8, s=9, lw=0, zorder=2)


def hidden(fig, data: VideoData, model):
    "Six frames of a film of which eight are hidden: the truth, what is seen, what is filled in."
    x = data.frames[:1].float() / 255
    mask = torch.ones(1, STEPS, dtype=torch.bool)
    mask[:, slice(*HIDDEN)] = False
    found = model.impute(x, mask, particles=0).smoothed.frames
    shown = x.where(mask[..., None, None, None], torch.tensor(0.35))
    rows = [torch.cat([f[0, t, 0] for t in range(6, 18, 2)], -1) for f in (x, shown, found)]
    for ax, row in zip(fig.subplots(3, 1), rows):
        ax.imshow(row.clamp(0, 1), cmap="gray_r", vmin=0, vmax=1)
        ax.axis("off")


def regimes(ax: Axes):
    "The codes of a switching model's films, joined by lines in the colour of the regime."
    found = load_pretrained("box_switching")
    x = found.films.frames[:8].float() / 255
    a = found.model.encode(x)
    s = found.model.impute(x, torch.ones(x.shape[:2], dtype=torch.bool), particles=0).weights.argmax(-1)
    for film, r in zip(a, s):
        for t in range(len(film) - 1):
            ax.plot(*film[t : t + 2].T, color=CYCLE[r[t + 1] % len(CYCLE)], lw=1.6)


def save(fig, number: int):
    with atomic_write(IMAGES / f"story_{number}.png") as tmp:
        fig.savefig(tmp, dpi=80, metadata={"Software": None})
    plt.close(fig)


def one(number: int, draw, *given):
    "A square picture without axes."
    fig, ax = plt.subplots(figsize=(2.6, 2.6), layout="constrained")
    draw(ax, *given)
    ax.set(xticks=[], yticks=[])
    save(fig, number)


@torch.no_grad()
def main():
    torch.manual_seed(0)
    data, model = films(), load_pretrained(WORLD).model
    one(1, ball, data)
    one(2, codes, data, model)
    one(3, tracking)
    one(4, bending, data, model)
    fig = plt.figure(figsize=(2.6, 2.6), layout="constrained")
    hidden(fig, data, model)
    save(fig, 5)
    one(6, regimes)


if __name__ == "__main__":
    main()
