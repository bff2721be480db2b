"""NCDSSM (Ansari et al. 2023) from a checkout of its repository: built from its own configuration, trained for so many
CPU seconds by its own objective, asked for what is hidden and what comes next. Nothing of it is in this repository.
"""

import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from kvae_nb.core.errors import InputError
from kvae_nb.core.runtime import derived_seed

NAMES = {"ball": "bouncing_ball", "pendulum": "damped_pendulum"}  # of the systems in its configurations
SETTINGS = {"ball": "ball", "pendulum": "pendulum", "box": "box", "pong": "pong"}  # beginnings of its files
STEP = 0.1  # time between two steps, as its data sets have it


def opened(checkout: str | Path) -> Path:
    "The checkout, importable. Raises `InputError` if it is none."
    path = Path(checkout)
    if not (path / "src" / "ncdssm").is_dir() or not (path / "configs").is_dir():
        raise InputError(
            f"{checkout} is no checkout of NCDSSM (src/ncdssm and configs are not in it); benchmarks/rivals/README.md "
            "says where to get one."
        )
    for folder in (path, path / "src"):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    return path


def built(checkout: Path, name: str, dynamics: str) -> tuple[nn.Module, dict]:
    "A new model for this data with ll, lti or nl dynamics, and its configuration."
    config = yaml.safe_load((checkout / "configs" / f"{SETTINGS[name]}_ncdssm{dynamics}.yaml").read_text())
    config["dataset"] = NAMES.get(name, name)
    from experiments.setups import get_model

    return get_model(config), config


def seconds_used(started: float) -> float:
    "CPU seconds of this process since `started`."
    return time.process_time() - started


def train(
    model: nn.Module, config: dict, x: Tensor, seen: Tensor, budget: float, seed: int, warm: float = 0.1
) -> tuple[int, float]:
    """Adam on minus its bound, the learning rate along half a cosine of the budget, until the CPU seconds are used up;
    the state-space model joins after the share `warm` of them where the configuration has a warm-up. Steps taken,
    seconds used."""
    torch.manual_seed(seed)
    ssm = [p for n, p in model.named_parameters() if "base_ssm" in n]
    rest = [p for n, p in model.named_parameters() if "base_ssm" not in n]
    optimiser = torch.optim.Adam([{"params": ssm}, {"params": rest}], lr=float(config["learning_rate"]))
    times = STEP * torch.arange(x.shape[1], dtype=torch.float64)
    warm, started, steps = warm if config.get("ssm_params_warmup_steps") else 0.0, time.process_time(), 0
    while True:
        order = np.random.default_rng(derived_seed(seed, steps)).permutation(len(x))
        for rows in torch.from_numpy(order).split(int(config["train_batch_size"])):
            share = seconds_used(started) / budget
            if share >= 1:
                return steps, seconds_used(started)
            lr = float(config["learning_rate"]) * (0.05 + 0.95 * (1 + math.cos(math.pi * share)) / 2)
            for group, here in zip(optimiser.param_groups, (0.0 if share < warm else lr, lr)):
                group["lr"] = here
            step(model, optimiser, x[rows].float(), seen[rows].float(), times, float(config["max_grad_norm"]))
            steps += 1


def step(model: nn.Module, optimiser, x: Tensor, mask: Tensor, times: Tensor, clip: float):
    "One step; left out where the gradient is not finite, as its own script does."
    hidden = mask[..., None] == 0
    out = model(torch.where(hidden, 0, x), mask, times)
    loss = -(out["likelihood"] + out["regularizer"]).mean()
    optimiser.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), clip)
    if torch.isfinite(norm):
        optimiser.step()


@torch.no_grad()
def predicted(model: nn.Module, x: Tensor, seen: Tensor, ahead: int, samples: int = 16) -> Tensor:
    """Expected observations [batch, context + ahead, p]: of the context, the mean over samples of the smoothed state;
    after it, along the mean of the predicted state, as its evaluation of films goes."""
    model.eval()
    found = []
    for part, mask in zip(x.split(50), seen.split(50)):
        mask = mask.float()
        part, n = torch.where(mask[..., None] == 0, 0, part.float()), x.shape[1]
        past = STEP * torch.arange(n, dtype=torch.float64)
        later = STEP * torch.arange(n, n + ahead, dtype=torch.float64)
        more = dict(deterministic=True, no_state_sampling=True)
        a = model.forecast(part, mask, past, later[:1], num_samples=samples, use_smooth=True, **more)
        b = model.forecast(part, mask, past, later, num_samples=1, **more)
        mean = lambda aux: model.y_emission_net(aux.flatten(0, 1)).mean.unflatten(0, aux.shape[:2]).mean(0)
        found.append(torch.cat([mean(a["aux_reconstruction"]), mean(b["aux_forecast"])], 1))
    return torch.cat(found)
