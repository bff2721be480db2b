"""How many trainings of the identity model on the real Sprites start dead: twenty seeds, the first steps of each.

    python experiments/sprites_starts.py --sheets ../shared/data/sprites_parts.npz --runs FOLDER

A start is alive if its frames are closer to the films than the mean image, and both latent variables tell something.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from shared import begin, store
from sprites import RECIPES, VALID, built, drawn, films, step_loss
from torch import nn

from kvae_nb.worlds.sprites import original_characters

COMMAND = "python experiments/sprites_starts.py --sheets ../shared/data/sprites_parts.npz --runs FOLDER"
STEPS, SEEDS = 150, 20


def started(seed: int, everyone: np.ndarray, who: np.ndarray) -> dict:
    "The first steps of one training: error of a frame beside that of the mean image, and the divergences."
    torch.manual_seed(seed)
    rng, recipe, began = np.random.default_rng(seed), RECIPES["exchange"], time.process_time()
    model = built("identity", recipe)
    optimiser = torch.optim.Adam(model.parameters(), recipe.rate, betas=(0.9, 0.99), fused=True)
    for step in range(STEPS):
        optimiser.param_groups[0]["lr"] = recipe.rate * (step + 1) / 200
        loss = step_loss(model, drawn(everyone, who, recipe, ("exchange", "paired"), rng), recipe, step / recipe.steps)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 500.0)
        optimiser.step()
    x = torch.cat([drawn(everyone, who, recipe, ("exchange", "paired"), rng) for _ in range(8)])
    with torch.no_grad():
        q, terms = model.eval().factors(x), model.elbo(x)
        weights = torch.softmax(recipe.sharpness[0] * q.identity.mean, -1)
        frames = model.pixels.mean(model.decoder(q.pose.mean, weights))
    error = lambda y: round((x - y).square().sum((2, 3, 4)).mean().item(), 1)
    nats = [round(v, 2) for v in terms.parts.mean(0).tolist()]
    alive = error(frames) < error(x.mean((0, 1))) and min(nats) > 0.1
    took = round(time.process_time() - began, 1)
    return dict(
        seed=seed, error=error(frames), mean_image=error(x.mean((0, 1))), KL=nats, alive=alive, cpu_seconds=took
    )


def main():
    "Starts twenty trainings, and stores how they went."
    ask = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ask.add_argument("--sheets", default="../shared/data/sprites_parts.npz")
    ask.add_argument("--runs", type=Path, default=Path("runs/sprites"))
    given = ask.parse_args()
    begin()
    everyone, who, rows = films(given.sheets, given.runs), original_characters().train[:-VALID], []
    for seed in range(SEEDS):
        rows.append(started(seed, everyone, who))
        print(rows[-1], flush=True)
        dead = sum(not r["alive"] for r in rows)
        store("sprites_starts", {"command": COMMAND, "steps": STEPS, "dead": dead, "runs": rows})


if __name__ == "__main__":
    main()
