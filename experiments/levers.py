"""Levers tried on the motion alone: the dynamics of a trained model are trained on, on its encoder's fixed a.

    python experiments/levers.py --data ../shared/data/box.npz --run RUN --levers longer mode_noise engine decoder

In whole-pixel films all frames of a cell are the same picture, so the encoder is a table of one a (mean and deviation)
per cell, and an epoch over 4250 films costs a second or two, without any image. Encoder and decoder stay as they are;
what changes in log p(a) therefore changes in the bound. Chosen on the validation films of split 1; reported on its test
films that are neither test nor validation films of split 0 (experiments/fresh.py). Hidden frames are filled in with the
weights of the predicted mean (`particles=0`), which needs no sampling. Stores after every lever. Writes
experiments/results/levers.json.
"""

import argparse
import json
import math
import platform
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from budget import Films, Table, encode_table, gather, open_films, shares
from limits import HIGH, LOW, PUSH, RADIUS, SLOP
from torch import Tensor, nn

from kvae_nb.core.files import atomic_write
from kvae_nb.core.gaussians import Gaussian
from kvae_nb.inference.batched import Filtered, predict_step, rts_smoother, update_step
from kvae_nb.inference.lgssm import LGSSM
from kvae_nb.inference.routes import log_evidence
from kvae_nb.models.dynamics import DynamicsParameters, LSTMWeights, mix
from kvae_nb.training.runs import load_run

RESULT = Path(__file__).parent / "results" / "levers.json"
SHOWN = ("gap 1", "gap 7", "gap 15", "drop .5")


@dataclass(frozen=True)
class Lever:
    "What is changed about the dynamics, and how long they are trained."

    about: str
    start: str = "run"  # the trained dynamics of the run; "fresh": random; "engine": the engine's rule in their place
    modes: int = 7
    units: int = 128
    mode_noise: bool = False  # whether every mode has its own Q and R
    epochs: int = 30
    lr: float = 1e-3
    films: int = 0  # how many training films; 0: all
    only_noise: bool = False  # whether Q and R alone are trained
    decoder_steps: int = 0  # steps of the decoder alone, after the dynamics


LEVERS = {
    "none": Lever("the run as it is", epochs=0),
    "longer": Lever("the same dynamics, trained on"),
    "mode_noise": Lever("trained on with Q and R of every mode", mode_noise=True),
    "noise": Lever("Q and R alone trained on", epochs=8, only_noise=True, lr=1e-2),
    "noise_of_modes": Lever("Q and R alone, of every mode", mode_noise=True, epochs=8, only_noise=True, lr=1e-2),
    "decoder": Lever("the decoder alone trained on, with weight 1", epochs=0, decoder_steps=1000),
    "fresh": Lever("the same sizes from a random start, three times as long", start="fresh", epochs=90, lr=5e-3),
    "wide": Lever("15 modes, 256 units, noise per mode", "fresh", 15, 256, True, 60, 3e-3),
    "engine": Lever(
        "the engine's rule as modes; α, Q and R trained", "engine", 25, mode_noise=True, epochs=30, lr=5e-3
    ),
}


class ModeDynamics(nn.Module):
    "Mixed linear systems whose noise may be a mode's own, and whose observations may have an offset."

    def __init__(self, network: nn.Module, A: Tensor, C: Tensor, Q: Tensor, R: Tensor, cov1: Tensor, a0: Tensor):
        super().__init__()
        self.network, self.K = network, len(A)
        self.A, self.C, self.a0 = (nn.Parameter(v.clone()) for v in (A, C, a0))
        self.log_Q, self.log_R = (nn.Parameter(v.log().clone()) for v in (Q, R))  # [K or 1, n] and [K or 1, p]
        self.offset = nn.Parameter(torch.zeros(C.shape[-2]))
        self.log_cov1 = nn.Parameter(cov1.log().clone())
        self.register_buffer("mean1", torch.zeros(A.shape[-1]))

    def noise(self, alpha: Tensor, log_var: Tensor) -> Tensor:
        "Q or R under these weights."
        var = log_var.exp()
        return torch.diag_embed(alpha @ var if len(var) > 1 else var.expand(*alpha.shape[:-1], -1))

    def system(self, alpha: Tensor) -> LGSSM:
        "The linear system that these weights make."
        noise = (self.noise(alpha, v) for v in (self.log_Q, self.log_R))
        return LGSSM(mix(alpha, self.A), None, mix(alpha, self.C), *noise, self.mean1, self.log_cov1.exp().diag())

    def observed(self, a: Tensor) -> tuple[LGSSM, Tensor]:
        "The systems of fully observed sequences, and their weights."
        past = torch.cat([self.a0.expand(len(a), 1, -1), a[:, :-1]], 1)
        alpha = self.network(past)[..., : self.K].softmax(-1)
        return self.system(alpha), alpha

    def evidence(self, a: Tensor) -> Tensor:
        "log p(a) of each sequence, exact."
        return log_evidence(self.observed(a)[0], a - self.offset)

    def fill(self, a: Tensor, mask: Tensor) -> tuple[Gaussian, Gaussian]:
        "The noise-free a, smoothed and filtered, with plugged-in weights where frames are hidden."
        run, systems, memory = [], [], self.network.start(len(a), a)
        previous = self.a0.expand(len(a), -1)
        state = Gaussian(self.mean1.expand(len(a), -1), self.log_cov1.exp().diag().expand(len(a), -1, -1))
        for t in range(a.shape[1]):
            out, memory = self.network.step(previous, memory)
            s = self.system(out[:, None, : self.K].softmax(-1))
            A, C, Q, R = (M[:, 0] for M in (s.A, s.C, s.Q, s.R))
            state = predict_step(state, A, Q, None) if t else state
            update = update_step(state, C, R, a[:, t] - self.offset, mask[:, t])
            guess = (C @ state.mean[..., None])[..., 0] + self.offset
            previous = torch.where(mask[:, t, None], a[:, t], guess)
            run.append((*state, *update.state, update.log_prob))
            systems.append((A, C, Q, R))
            state = update.state
        A, C, Q, R = (torch.stack(v, 1) for v in zip(*systems))
        filtered = Filtered(*(torch.stack(v, 1) for v in zip(*run)))
        whole = LGSSM(A, None, C, Q, R, self.mean1, self.log_cov1.exp().diag())
        smoothed = rts_smoother(whole, filtered)
        seen = lambda mean, cov: Gaussian((C @ mean[..., None])[..., 0] + self.offset, C @ cov @ C.mT)
        return seen(smoothed.mean, smoothed.cov), seen(filtered.mean, filtered.cov)


def from_run(d: DynamicsParameters, lever: Lever) -> ModeDynamics:
    "A trained model's dynamics, every mode with the common noise to begin with."
    rows = d.K if lever.mode_noise else 1
    Q, R = (v().diag().expand(rows, -1) for v in (d.Q, d.R))
    made = ModeDynamics(d.network, d.A.data, d.C.data, Q, R, d.cov1.diag(), d.a0.data)
    made.log_cov1.requires_grad_(False)
    return made


def from_nothing(d: DynamicsParameters, lever: Lever) -> ModeDynamics:
    "Random dynamics of a lever's sizes."
    n, p, rows = d.A.shape[-1], d.C.shape[-2], lever.modes if lever.mode_noise else 1
    A, C = torch.eye(n).repeat(lever.modes, 1, 1), 0.05 * torch.randn(lever.modes, p, n)
    Q, R = torch.full((rows, n), 0.08), torch.full((rows, p), 0.03)
    return ModeDynamics(LSTMWeights(p, lever.modes, lever.units), A, C, Q, R, d.cov1.diag(), d.a0.data)


def engine_axis() -> list[tuple[Tensor, float]]:
    """A of the engine's rule along one axis, state (position, velocity, 1) in pixels from the middle, with the variance
    of the velocity: it flies on, turns, cannot be told, or is pushed out of the far or near wall.
    """
    wall = (HIGH - LOW) / 2 - RADIUS + SLOP
    fly = lambda v: torch.tensor([[1.0, 1.0, 0.0], [0.0, v, 0.0]])
    push = lambda at: torch.tensor([[1 - PUSH, 1.0, PUSH * at], [0.0, 1.0, 0.0]])
    return [(fly(1.0), 1e-3), (fly(-1.0), 1e-3), (fly(0.0), 4.0), (push(wall), 1e-3), (push(-wall), 1e-3)]


def engine_modes() -> tuple[Tensor, Tensor]:
    "A and Q of all pairs of modes along the two axes, state (x, vx, y, vy, 1)."
    A, Q = [], []
    for (X, qx), (Y, qy) in product(engine_axis(), repeat=2):
        both = torch.zeros(5, 5)
        both[:2, (0, 1, 4)], both[2:4, 2:], both[4, 4] = X, Y, 1.0
        A.append(both)
        Q.append(torch.tensor([1e-3, qx, 1e-3, qy, 1e-7]))
    return torch.stack(A), torch.stack(Q)


def from_engine(d: DynamicsParameters, lever: Lever, table: Table) -> ModeDynamics:
    "The engine's rule in the model's coordinates; only the network has to be learned."
    A, Q = engine_modes()
    C = torch.zeros(len(A), 2, 5)
    C[:, :, (0, 2)] = table.affine[:2].T
    R = d.R().diag().detach().expand(len(A), -1)
    cov1 = torch.tensor([30.0, 3.0, 30.0, 3.0, 1e-6])
    made = ModeDynamics(LSTMWeights(2, len(A), lever.units), A, C, Q, R, cov1, d.a0.data)
    made.offset.data = table.affine[2] + table.affine[:2].T @ torch.tensor([16.0, 16.0])
    made.mean1[4] = 1.0
    for fixed in (made.A, made.C, made.offset, made.log_cov1):
        fixed.requires_grad_(False)
    return made


def build(run, lever: Lever, table: Table) -> ModeDynamics:
    "The dynamics a lever starts from."
    d = load_run(run.folder).model.dynamics  # a copy of its own
    torch.manual_seed(0)
    made = {
        "run": lambda: from_run(d, lever),
        "fresh": lambda: from_nothing(d, lever),
        "engine": lambda: from_engine(d, lever, table),
    }[lever.start]()
    for name, p in made.named_parameters():
        p.requires_grad_(p.requires_grad and (name in ("log_Q", "log_R") or not lever.only_noise))
    return made


def sample(films: Films, table: Table, generator: torch.Generator) -> Tensor:
    "One a for every frame from q(a|x)."
    mean, sd = gather(table, films.cells)
    return mean + sd * torch.randn(mean.shape, generator=generator)


def train(dynamics: ModeDynamics, films: Films, valid: Films, table: Table, lever: Lever, batch: int = 128) -> float:
    "Trains by log p(a); keeps the weights of the best epoch on the validation films, and returns its value per frame."
    g, best, kept = torch.Generator().manual_seed(1), -math.inf, None
    count = lever.films or len(films.cells)
    films = Films(*(v[:count] for v in films))
    judged = sample(valid, table, torch.Generator().manual_seed(2))
    steps = lever.epochs * (count // batch)
    some = [p for p in dynamics.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(some, lr=lever.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lever.lr, max(steps, 2), pct_start=0.1)
    every = max(1, lever.epochs // 15)
    for epoch in range(lever.epochs):
        a = sample(films, table, g)[torch.randperm(count, generator=g)]
        for part in a.split(batch)[: count // batch]:
            loss = -dynamics.evidence(part).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(some, 150.0)
            optimizer.step()
            schedule.step()
        if epoch % every == every - 1 or epoch == lever.epochs - 1:
            with torch.no_grad():
                now = float(dynamics.evidence(judged).mean()) / judged.shape[1]
            if now > best:
                best, kept = now, {k: v.clone() for k, v in dynamics.state_dict().items()}
            print(f"  epoch {epoch + 1} valid {now:.3f}", flush=True)
    dynamics.load_state_dict(kept)
    return best


@torch.no_grad()
def measure(dynamics: ModeDynamics, model, films: Films, table: Table) -> dict:
    "log p(a) per frame, and the share of wrong pixels by mask and method."
    a = sample(films, table, torch.Generator().manual_seed(3))
    value = dynamics.evidence(a).double() / a.shape[1]
    made = reconstruction(model, films, table)
    made |= {
        "log_prior": round(float(value.mean()), 4),
        "log_prior_error": round(float(value.std() / len(a) ** 0.5), 4),
    }
    mean = gather(table, films.cells)[0]
    made["bound"] = round(made["log_likelihood"] + made["log_prior"] - made["log_posterior"], 3)
    for name, mask in films.masks(SHOWN).items():
        laws = dict(zip(("smoothing", "filtering"), dynamics.fill(mean, mask)))
        made[name] = {how: shares(model.decode(law.mean[~mask]), films, mask) for how, law in laws.items()}
    return made


def train_decoder(model, films: Films, table: Table, steps: int, batch: int = 128, lr: float = 1e-3):
    "Trains the decoder alone on, by log p(x|a) with weight 1 and a from q(a|x)."
    g, some = torch.Generator().manual_seed(4), list(model.decoder.parameters())
    optimizer = torch.optim.Adam(some, lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps, pct_start=0.1)
    cells, frames = films.cells.flatten(0, 1), films.frames.flatten(0, 1)
    started = time.perf_counter()
    for step in range(steps):
        rows = torch.randint(len(cells), (batch,), generator=g)
        mean, sd = gather(table, cells[rows])
        a = (mean + sd * torch.randn(mean.shape, generator=g))[:, None]
        seen = torch.ones(batch, 1, dtype=torch.bool)
        loss = -model.log_likelihood(frames[rows, None, None].float(), a, seen, None).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(some, 150.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"  step {step + 1} {float(loss):.3f} {time.perf_counter() - started:.0f} s", flush=True)


@torch.no_grad()
def reconstruction(model, films: Films, table: Table) -> dict:
    "log p(x|a) - log q(a|x) per frame under the encoder as it is, and its standard error over films."
    mean, sd = gather(table, films.cells)
    a = mean + sd * torch.randn(mean.shape, generator=torch.Generator().manual_seed(5))
    q = torch.distributions.Normal(mean, sd).log_prob(a).sum((1, 2))
    seen, parts = torch.ones(mean.shape[:2], dtype=torch.bool), torch.arange(len(mean)).split(50)
    x = films.frames[:, :, None]
    p = torch.cat([model.log_likelihood(x[i].float(), a[i], seen[i], None) for i in parts])
    value, steps = (p - q).double() / mean.shape[1], mean.shape[1]
    names = {
        "log_likelihood": p.mean() / steps,
        "log_posterior": q.mean() / steps,
        "error": value.std() / len(p) ** 0.5,
    }
    return {name: round(float(v), 4) for name, v in names.items()}


def store(name: str, row: dict, args):
    "Writes the result file with this row in the place of an earlier one of the same lever and seed."
    known = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
    row = {"lever": name} | row
    rows = [r for r in known if (r["lever"], r["seed"]) != (name, row["seed"])] + [row]
    content = {"data": Path(args.data).name, "machine": f"{platform.machine()} CPU, 1 thread", "rows": rows}
    with atomic_write(RESULT) as tmp:
        tmp.write_text(json.dumps(content, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="the .npz file of the paper's box generator")
    parser.add_argument("--run", required=True, help="a finished run of the preset `best` on split 1")
    parser.add_argument("--levers", nargs="+", default=list(LEVERS), choices=list(LEVERS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    run = load_run(args.run)
    parts = open_films(args.data, run.config.data)
    original = {k: v.clone() for k, v in run.model.decoder.state_dict().items()}
    table = encode_table(run.model, parts)
    for name in dict.fromkeys(["none", *args.levers]):
        started, lever = time.perf_counter(), LEVERS[name]
        dynamics = build(run, lever, table)
        run.model.decoder.load_state_dict(original)
        if lever.decoder_steps:
            train_decoder(run.model, parts["train"], table, lever.decoder_steps)
        if lever.epochs:
            train(dynamics, parts["train"], parts["valid"], table, lever)
        row = {
            "about": lever.about,
            "command": f"python experiments/levers.py --data box.npz --run RUN --levers {name}",
        }
        row |= {"seed": run.config.train.seed, "seconds": round(time.perf_counter() - started), "epochs": lever.epochs}
        row |= {where: measure(dynamics, run.model, parts[where], table) for where in ("valid", "report")}
        store(name, row, args)
        print(name, row["seconds"], row["valid"], flush=True)


if __name__ == "__main__":
    main()
