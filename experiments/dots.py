"""Which posterior of the poses tells the dynamics of a clip? Coloured dots that circle, three seeds: the second stage
of VDSM with each pose from its own frame, and as published, with all poses drawn from the dynamics.

    python experiments/dots.py --seeds 3

Writes experiments/results/dots.json: the bound and its parts on 64 clips that no training saw, in nats a frame; the
share of new films (a motion in another look, drawn from its dynamics) that go around in the same direction; how far
their speed is off, in radians a frame; processor seconds of the second stage.
"""

import argparse
import time

import torch
from shared import begin, missing
from torch import nn

from kvae_nb.models.identity import IdentityConfig, IdentityVAE
from kvae_nb.models.vdsm import on_frames

SIZE, STEPS = 16, 10
CELLS = torch.stack(torch.meshgrid(*[torch.arange(SIZE) - 7.5] * 2, indexing="ij"), -1)
WAYS = {
    "frames": dict(),
    "frames, normal first pose": dict(first="normal"),
    "published": dict(posterior="published", first="normal", dynamics_std=0.0),
}


def clips(n: int, generator: torch.Generator):
    "Films of dots that circle, and the speeds of these."
    uniform = lambda m: torch.rand(n, m, generator=generator)
    colour, start = uniform(3), 6.283 * uniform(1)
    speed = (0.25 + 0.35 * uniform(1)) * torch.randn(n, 1, generator=generator).sign()
    angle = start + speed * torch.arange(STEPS)
    centre = 4.5 * torch.stack([angle.sin(), angle.cos()], -1)
    light = torch.exp(-(CELLS - centre[:, :, None, None]).square().sum(-1) / 8)
    return light[:, :, None] * colour[:, None, :, None, None], speed


def turns(film: torch.Tensor) -> torch.Tensor:
    "The angle that the centre of light goes from frame to frame."
    light = film.clamp(min=0).sum(-3)
    centre = (light[..., None] * CELLS).sum((-3, -2)) / light.sum((-2, -1))[..., None]
    angle = torch.atan2(centre[..., 0], centre[..., 1])
    return (angle.diff(dim=-1) + torch.pi).remainder(2 * torch.pi) - torch.pi


def train(model: nn.Module, films: torch.Tensor, steps: int, decode: int):
    "Adam with one cycle of its rate, batches of 32."
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(parameters, 4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    for _ in range(steps):
        x = films[torch.randint(len(films), (32,))]
        optimiser.zero_grad()
        (-model(x, noise=model.noise(*x.shape[:2], decode)).per_frame).backward()
        nn.utils.clip_grad_norm_(parameters, 10.0)
        optimiser.step()
        schedule.step()


@torch.no_grad()
def measured(model: nn.Module, films: torch.Tensor, speed: torch.Tensor, generator: torch.Generator) -> dict:
    "Bound, parts, and what new films of the same dynamics do."
    terms = [model.elbo(films) for _ in range(10)]
    parts = torch.stack([t.parts for t in terms]).mean((0, 1)) / STEPS
    fresh = turns(model.swap(films[:16], films[16:], "dynamics", generator).frames).mean(-1)
    return {
        "bound": torch.stack([t.per_frame for t in terms]).mean().item(),
        "parts": dict(zip(model.latents, parts.tolist())),
        "direction": (fresh.sign() == speed[16:].sign()).double().mean().item(),
        "speed_off": (fresh - speed[16:]).abs().mean().item(),
    }


FRAMES = {}  # the first stage of a seed, which all ways share


def row(wanted: dict) -> dict:
    "Both stages of one seed, the second in one way."
    seed, generator = wanted["seed"], torch.Generator().manual_seed(wanted["seed"])
    films, _ = clips(512, generator)
    unseen, speed = clips(64, generator)
    torch.manual_seed(seed)
    if seed not in FRAMES:
        sizes = dict(size=SIZE, dim_a=2, K=8, widths=(64, 32), filters=16, units=96, pixel_var=0.004)
        FRAMES[seed] = IdentityVAE(IdentityConfig(**sizes))
        train(FRAMES[seed], films, 2000, 4)
    torch.manual_seed(seed)
    model = on_frames(FRAMES[seed], dim_d=4, rnn_units=48, transition_units=48, **WAYS[wanted["way"]])
    began = time.process_time()
    train(model, films, 800, 4 if model.proposal is not None else 1)
    seconds = time.process_time() - began
    return measured(model, unseen, speed, generator) | {"seconds": round(seconds, 1)}


def main():
    "Every way, every seed."
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    n = parser.parse_args().seeds
    begin()
    wanted = [{"seed": seed, "way": way} for seed in range(n) for way in WAYS]
    head = {"command": f"python experiments/dots.py --seeds {n}", "labels_used": "none"}
    missing("dots", wanted, row, head)


if __name__ == "__main__":
    main()
