"""Stage 2 of VDSM on the poses of an identity model of the real Sprites that experiments/sprites.py trained.

    python experiments/sprites_motion.py --sheets ../shared/data/sprites_parts.npz --runs FOLDER [--only NAME …]

The poses of all training clips are read once; the sequence model is trained on them without any decoder, which
the posterior of frames allows. The row of each is stored in results/sprites_motion.json.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from shared import begin, store, stored
from sprites import RECIPES, ROWS, VALID, as_lists, built, films, labelled, own_judge
from torch import nn

from kvae_nb.evaluation.judge import probabilities
from kvae_nb.evaluation.swaps import entropies, swap_scores
from kvae_nb.models.factors import diagonal_kl, standard_like
from kvae_nb.models.protocol import Posterior
from kvae_nb.models.vdsm import VDSM, on_frames
from kvae_nb.worlds.sprites import original_characters

COMMAND = "python experiments/sprites_motion.py --sheets ../shared/data/sprites_parts.npz --runs FOLDER"
STEPS, BATCH, RATE = 6000, 32, 3e-3
SIZES = dict(dim_d=16, rnn_units=96, transition_units=96)


@torch.no_grad()
def poses_of(model: nn.Module, clips: torch.Tensor) -> Posterior:
    "The posteriors of the poses of all clips."
    found = [model.factors(x.float() / 255).pose for x in clips.split(64)]
    return Posterior(*(torch.cat(column) for column in zip(*found)))


def trained(model: VDSM, poses: Posterior, seed: int) -> float:
    "Trains the sequence model in place; the CPU seconds it took."
    torch.manual_seed(seed)
    rng, began = np.random.default_rng(seed), time.process_time()
    optimiser = torch.optim.Adam([p for part in model.parts().values() for p in part], RATE)
    seen = torch.ones(BATCH, 8, dtype=torch.bool)
    for step in range(STEPS):
        optimiser.param_groups[0]["lr"] = RATE * (1 + math.cos(math.pi * step / STEPS)) / 2
        rows = torch.from_numpy(rng.integers(len(poses.mean), size=BATCH))
        path = model.draw_path(Posterior(*(v[rows] for v in poses)), seen, model.noise(BATCH, 8), False)
        cost = diagonal_kl(path.dynamics, standard_like(path.dynamics, model.dynamics_std))
        loss = (cost + path.log_posterior - path.log_prior).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 50.0)
        optimiser.step()
    return time.process_time() - began


@torch.no_grad()
def measured(model: VDSM, new, judge: nn.Module) -> dict:
    "How new films of a driver's motion are judged, what its dynamics cost, and films from the prior."
    motion = [f.name for f in new.factors].index("motion")
    scores = swap_scores(model, new, judge, pairs=500, mode="dynamics")
    q = torch.cat([diagonal_kl(d, standard_like(d, model.dynamics_std)) for d in dynamics_of(model, new)])
    generator = torch.Generator().manual_seed(0)
    free = torch.cat([model.generate(8, 50, generator=generator).frames.clamp(0, 1) for _ in range(10)])
    return {
        "swap": as_lists(scores),
        "KL": round(q.mean().item(), 2),
        "prior": as_lists(entropies(probabilities(judge, free)[motion])),
    }


def dynamics_of(model: VDSM, data) -> list[Posterior]:
    "What is believed about the dynamics of each clip, in batches."
    return [model.factors(x.float() / 255).dynamics for x in data.frames.split(64)]


def main():
    "Trains and measures a sequence model on each of these identity models."
    ask = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ask.add_argument("--sheets", default="../shared/data/sprites_parts.npz")
    ask.add_argument("--runs", type=Path, default=Path("runs/sprites"))
    ask.add_argument(
        "--only",
        nargs="*",
        default=[f"long paired {seed}" for seed in range(3)],
        choices=list(ROWS),
        metavar="NAME",
    )
    given = ask.parse_args()
    begin()
    everyone, characters = films(given.sheets, given.runs), original_characters()
    judge, new = own_judge(everyone, given.runs), labelled(everyone, characters.test)
    for name in given.only:
        frames = built(ROWS[name][0], RECIPES[ROWS[name][0]]).eval()
        kept = torch.load(given.runs / f"{name.replace(' ', '_')}.pt", weights_only=False)
        frames.load_state_dict(kept["model"])
        poses = poses_of(frames, labelled(everyone, characters.train[:-VALID]).frames)
        rows = stored("sprites_motion").get("runs", [])
        if any(r["name"] == name for r in rows):
            continue
        model = on_frames(frames, **SIZES)
        row = dict(name=name, posterior="frames", cpu_seconds=round(trained(model, poses, ROWS[name][2])))
        row |= measured(model.eval(), new, judge)
        store("sprites_motion", {"command": COMMAND, "steps": STEPS, "sizes": SIZES, "runs": [*rows, row]})
        print(row, flush=True)


if __name__ == "__main__":
    main()
