"""What kvae_nb offers for the same data: the mixed linear systems of a KVAE directly on numbers, and the KVAE on films,
each trained for so many CPU seconds.
"""

import math
import time
from dataclasses import replace

import torch
from torch import Tensor, nn

from kvae_nb.data.films import Batch, epoch_order
from kvae_nb.inference.batched import observe, rts_smoother
from kvae_nb.models.dynamics import DynamicsParameters, LSTMWeights, evidence_dynamics, filter_dynamics
from kvae_nb.models.kvae import KVAE
from kvae_nb.training.runs import preset
from kvae_nb.training.step import make_trainer, reseed, train_step

LR, BATCH = 0.01, 50  # of the models of numbers


def mixed(p: int, K: int = 5, dim_z: int = 6) -> DynamicsParameters:
    "K linear systems for p observed numbers, mixed by a network that reads the past: a KVAE whose a is the data."
    network = LSTMWeights(p, K, 50)
    return DynamicsParameters(network, p, dim_z, K, Q=0.01, R=0.01, learn_noise=True, cov1=4.0, scale=0.3)


def train_numbers(model: nn.Module, x: Tensor, seen: Tensor, budget: float, seed: int) -> tuple[int, float]:
    "Adam on minus the evidence, the learning rate along half a cosine of the budget. Steps taken, seconds used."
    torch.manual_seed(seed)
    optimiser, started, steps, epoch = torch.optim.Adam(model.parameters(), lr=LR), time.process_time(), 0, 0
    while True:
        for rows in epoch_order(len(x), seed, epoch).split(BATCH):
            share = (time.process_time() - started) / budget
            if share >= 1:
                return steps, share * budget
            optimiser.param_groups[0]["lr"] = LR * (0.05 + 0.95 * (1 + math.cos(math.pi * share)) / 2)
            step_numbers(model, optimiser, x[rows], seen[rows])
            steps += 1
        epoch += 1


def step_numbers(model: nn.Module, optimiser, x: Tensor, mask: Tensor):
    "One step on minus the evidence of an observed step; left out where the gradient is not finite."
    loss = -evidence_dynamics(model, torch.where(mask[..., None], x.float(), 0), mask).sum() / mask.sum()
    optimiser.zero_grad()
    loss.backward()
    if torch.isfinite(nn.utils.clip_grad_norm_(model.parameters(), 10.0)):
        optimiser.step()


@torch.no_grad()
def predicted_numbers(model: nn.Module, x: Tensor, seen: Tensor, ahead: int) -> Tensor:
    "Expected observations [batch, context + ahead, p]: smoothed in the context, predicted after it."
    x = torch.where(seen[..., None], x.float(), 0)
    x = torch.cat([x, x.new_zeros(len(x), ahead, x.shape[-1])], 1)
    seen = torch.cat([seen, seen.new_zeros(len(x), ahead)], 1)
    run = filter_dynamics(model, x, seen)
    smoothed = rts_smoother(run.system, run.filtered)
    return observe(run.system, smoothed.mean, smoothed.cov, noise=False).mean


def film_model(size: int, seed: int) -> tuple[nn.Module, object]:
    "A new KVAE of the preset `demo` for binary or grey frames of this size, with its trainer."
    run = preset("demo")
    train = replace(run.train, seed=seed, device="cpu", threads=1, reconstruction_weight=0.3)
    reseed(train, "init")
    model = KVAE(replace(run.model, size=size, dim_z=8 if size == 24 else run.model.dim_z))
    return model, make_trainer(model, train)


def train_films(trainer, frames: Tensor, seen: Tensor, budget: float) -> tuple[int, float]:
    "Steps of the trainer, its cosine stretched over the budget, until that is used up. Steps taken, seconds used."
    config, started, steps, epoch = trainer.config, time.process_time(), 0, 0
    scale = 1.0 if frames.dtype == torch.bool else 255.0
    while True:
        for rows in epoch_order(len(frames), config.seed, epoch).split(config.batch_size):
            share = (time.process_time() - started) / budget
            if share >= 1:
                return steps, share * budget
            batch = Batch(frames[rows][:, :, None].float() / scale, seen[rows], None)
            train_step(trainer, batch, share * config.epochs, steps)
            steps += 1
        epoch += 1


@torch.no_grad()
def predicted_films(model: nn.Module, frames: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    "Expected pixels [batch, time, side, side], smoothed and filtered; frames after those `seen` speaks of are hidden."
    model.eval()
    more, found = frames.shape[1] - seen.shape[1], []
    scale = 1.0 if frames.dtype == torch.bool else 255.0
    for part, mask in zip(frames.split(50), seen.split(50)):
        mask = torch.cat([mask, mask.new_zeros(len(mask), more)], 1)
        out = model.impute(part[:, :, None].float() / scale, mask)
        found.append((out.smoothed.frames[:, :, 0], out.filtered.frames[:, :, 0]))
    return tuple(torch.cat(v) for v in zip(*found))
