"""Films of coloured pendulums: what the pose knows of the true angle, colours swapped, and new films of the same
dynamics beside the laws of motion.

    python experiments/swings.py --seeds 3

Both stages of VDSM with the recipes of sprites.py and sprites_motion.py; nothing was chosen on these films. Pairs of
clips of the same two colours are joined, so labels of the colours are used. A quarter of the pairs of colours, drawn
from the seed, is in no training film; everything is reported on these. A row is stored when it is done. Writes
experiments/results/swings.json:

* r2: share of the variance of sin φ, cos φ that a linear map of the pose explains, or one of the pose and its products;
* swap: squared error of a film in other colours, divided by that of the model's reconstruction of the true film;
* energy: the energy in J of the last second divided by that of the first, median over films, by class of friction: of
  the true path, of the angle read from the poses of the true film, and of that read from a new film of its dynamics.
"""

import argparse
import math
import time

import numpy as np
import torch
from shared import begin, missing
from sklearn.linear_model import LinearRegression
from sprites import RECIPES, step_loss
from sprites_motion import BATCH, RATE, poses_of
from sprites_motion import STEPS as MOTION_STEPS
from torch import nn

from kvae_nb.evaluation.probes import quadratic
from kvae_nb.evaluation.scores import least_squares_r2
from kvae_nb.models.factors import diagonal_kl, standard_like
from kvae_nb.models.identity import IdentityConfig, IdentityVAE
from kvae_nb.models.protocol import Posterior
from kvae_nb.models.vdsm import VDSM, on_frames
from kvae_nb.worlds.swings import BOBS, FRICTIONS, LENGTHS, RODS, draw_swings, simulate_swings, swing_pendulum

FILMS, STEPS, SECOND = 1200, 5000, 10
RECIPE = RECIPES["identity"]


class Films:
    "Films, their labels and true angles; those of some pairs of colours are kept for the test."

    def __init__(self, seed: int):
        made = simulate_swings(FILMS, seed=seed)
        self.images, self.labels, self.state = (
            np.ascontiguousarray(made.images.transpose(0, 1, 4, 2, 3)),
            made.labels,
            made.state,
        )
        self.colours = self.labels[:, 0] * len(RODS) + self.labels[:, 1]
        pairs = np.random.default_rng(seed).permutation(len(BOBS) * len(RODS))
        self.test = np.isin(self.colours, pairs[: len(pairs) // 4])

    def clips(self, rows: np.ndarray) -> torch.Tensor:
        "These films, 0 … 255."
        return torch.from_numpy(self.images[rows])

    def drawn(self, rng: np.random.Generator) -> torch.Tensor:
        "Frames of one step: of two films of the same colours."
        n, k = RECIPE.characters, RECIPE.frames
        known = np.flatnonzero(~self.test)
        which = rng.choice(np.unique(self.colours[known]), n)
        two = np.stack([rng.choice(known[self.colours[known] == c], 2) for c in which]).repeat(k, 1)
        times = rng.integers(self.images.shape[1], size=(n, 2 * k))
        return torch.from_numpy(self.images[two, times]).float() / 255


def frames_trained(films: Films, seed: int) -> IdentityVAE:
    "Stage 1."
    torch.manual_seed(seed)
    rng, model = np.random.default_rng(seed), IdentityVAE(IdentityConfig(**RECIPE.model))
    optimiser = torch.optim.Adam(model.parameters(), RECIPE.rate, betas=(0.9, 0.99), fused=True)
    for step in range(STEPS):
        share = step / STEPS
        cosine = 0.02 + 0.98 * (1 + math.cos(math.pi * share)) / 2
        optimiser.param_groups[0]["lr"] = RECIPE.rate * min(1.0, (step + 1) / 200) * cosine
        optimiser.zero_grad()
        loss = step_loss(model, films.drawn(rng), RECIPE, share)
        loss.backward()
        if torch.isfinite(nn.utils.clip_grad_norm_(model.parameters(), 500.0)):
            optimiser.step()
        if (step + 1) % 500 == 0:
            print(f"swings {seed}: step {step + 1}, {loss.item():.1f} nats a frame", flush=True)
    return model.eval()


def motion_trained(frames: IdentityVAE, poses: Posterior, seed: int) -> VDSM:
    "Stage 2, on poses alone."
    torch.manual_seed(seed)
    model = on_frames(frames, dim_d=16, rnn_units=96, transition_units=96)
    rng, steps = np.random.default_rng(seed), poses.mean.shape[1]
    optimiser = torch.optim.Adam([p for part in model.parts().values() for p in part], RATE)
    seen, count = torch.ones(BATCH, steps, dtype=torch.bool), MOTION_STEPS // 3
    for step in range(count):
        optimiser.param_groups[0]["lr"] = RATE * (1 + math.cos(math.pi * step / count)) / 2
        rows = torch.from_numpy(rng.integers(len(poses.mean), size=BATCH))
        path = model.draw_path(Posterior(*(v[rows] for v in poses)), seen, model.noise(BATCH, steps), False)
        cost = diagonal_kl(path.dynamics, standard_like(path.dynamics, model.dynamics_std))
        optimiser.zero_grad()
        (cost + path.log_posterior - path.log_prior).mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 50.0)
        optimiser.step()
    return model.eval()


def circle(phi: np.ndarray) -> np.ndarray:
    "An angle as a point on the circle."
    return np.stack([np.sin(phi), np.cos(phi)], -1)


@torch.no_grad()
def colours_swapped(model: IdentityVAE, films: Films, rows: np.ndarray) -> dict:
    "Films in the colours of other films, beside the true ones and what the model makes of these."
    new, old = [], []
    for look, motion in zip(rows, np.roll(rows, 1)):
        bob, rod = films.labels[look, :2]
        colour = lambda which, k: np.array(which, np.uint8)[k : k + 1]
        length = np.array(LENGTHS)[films.labels[motion, 2]].reshape(1, 1)
        true = draw_swings(films.state[motion, None, :, 0], length, colour(RODS, rod), colour(BOBS, bob), 64)
        true = torch.from_numpy(true).movedim(-1, 2).float() / 255
        made = model.swap(films.clips([look]).float() / 255, films.clips([motion]).float() / 255).frames[0]
        again = model.swap(true, true).frames[0]
        new.append((made - true).square().sum((2, 3, 4)).mean().item())
        old.append((again - true).square().sum((2, 3, 4)).mean().item())
    return {"swapped": np.mean(new), "reconstructed": np.mean(old), "ratio": np.mean(new) / np.mean(old)}


def energies(phi: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    "Energy of paths of angles, in J, the speed from neighbouring frames; [films, frames - 2]."
    phi = np.unwrap(phi)
    speed = (phi[:, 2:] - phi[:, :-2]) / (2 * swing_pendulum(0, 0).dt)
    rows = [swing_pendulum(int(k), 0).energy(p, w) for k, p, w in zip(lengths, phi[:, 1:-1], speed)]
    return np.stack(rows)


def kept_energy(phi: np.ndarray, labels: np.ndarray) -> list[float]:
    "What is left of the energy after the film, by class of friction."
    e = energies(phi, labels[:, 2])
    share = e[:, -SECOND:].mean(1) / e[:, :SECOND].mean(1)
    return [round(float(np.median(share[labels[:, 3] == k])), 4) for k in range(len(FRICTIONS))]


def row(wanted: dict) -> dict:
    "Both stages of one seed, measured."
    seed, films, began = wanted["seed"], Films(wanted["seed"]), time.process_time()
    model = frames_trained(films, seed)
    seconds = time.process_time() - began
    known, new = np.flatnonzero(~films.test), np.flatnonzero(films.test)
    poses, fresh = poses_of(model, films.clips(known)), poses_of(model, films.clips(new)).mean
    began = time.process_time()
    moving = motion_trained(model, poses, seed)
    later = time.process_time() - began
    flat = lambda v: torch.as_tensor(v).double().flatten(0, 1)
    true, wanted_true = (flat(circle(films.state[r, :, 0])) for r in (known, new))
    r2 = lambda f: least_squares_r2(f(flat(poses.mean)), true, f(flat(fresh)), wanted_true).mean().item()
    reading = LinearRegression().fit(quadratic(flat(poses.mean)).numpy(), true.numpy())

    def angle(pose: torch.Tensor) -> np.ndarray:
        s, c = reading.predict(quadratic(pose.double().flatten(0, 1)).numpy()).T
        return np.arctan2(s, c).reshape(pose.shape[:2])

    with torch.no_grad():
        factors = [moving.factors(x.float() / 255) for x in films.clips(new).split(32)]
        generator = torch.Generator().manual_seed(seed)
        dreamt = torch.cat([moving.new_poses(f, fresh.shape[1], generator) for f in factors])
        cost = torch.cat([diagonal_kl(f.dynamics, standard_like(f.dynamics, moving.dynamics_std)) for f in factors])
    paths = {"true": films.state[new, :, 0], "read": angle(fresh), "new films": angle(dreamt)}
    return {
        "cpu_seconds": round(seconds),
        "cpu_seconds_motion": round(later),
        "films": len(new),
        "r2": {"linear": round(r2(lambda v: v), 4), "products": round(r2(quadratic), 4)},
        "swap": {k: round(float(v), 4) for k, v in colours_swapped(model, films, new[:64]).items()},
        "KL_dynamics": round(cost.mean().item(), 2),
        "energy": {name: kept_energy(phi, films.labels[new]) for name, phi in paths.items()},
    }


def main():
    "Every seed."
    ask = argparse.ArgumentParser(description=__doc__.split("\n\n")[0].replace("\n", " "))
    ask.add_argument("--seeds", type=int, default=3)
    given = ask.parse_args()
    begin()
    head = {
        "command": "python experiments/swings.py --seeds 3",
        "labels_used": "bob, rod",
        "frictions": FRICTIONS,
        "steps": [STEPS, MOTION_STEPS // 3],
    }
    missing("swings", [{"seed": seed} for seed in range(given.seeds)], row, head)


if __name__ == "__main__":
    main()
