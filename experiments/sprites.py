"""Models of someone on the real Sprites, measured on the 296 characters of the original test set.

    python experiments/sprites.py --sheets ../shared/data/sprites_parts.npz --runs FOLDER [--only NAME …] [--minutes N]

Trains each row of ROWS that is not finished (resumes where it was stopped), has it judged, and stores the table in
results/sprites.json. The judge is trained on the 1000 training characters, or read from FOLDER/judge_64.safetensors.
The sheets are art of the Liberated Pixel Cup, CC-BY-SA 3.0.
"""

import argparse
import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from shared import begin, store, stored
from torch import nn

from kvae_nb.core.files import atomic_write
from kvae_nb.data.factors import Factor
from kvae_nb.data.films import VideoData
from kvae_nb.data.sheets import read_sheets
from kvae_nb.evaluation.judge import load_judge, save_judge, train_judge
from kvae_nb.evaluation.swaps import measure_swaps, plot_swap
from kvae_nb.models.dsvae import DSVAE, DSVAEConfig
from kvae_nb.models.identity import IdentityConfig, IdentityVAE
from kvae_nb.worlds.sprites import compose, looks_of, original_characters

COMMAND = "python experiments/sprites.py --sheets ../shared/data/sprites_parts.npz --runs FOLDER"
FACTORS = (*(Factor(n, 6, True) for n in ("body", "bottom", "top", "hair")), Factor("motion", 9, False))
NOTE = "The first 1500 steps of both identity models of seed 0 had the prices of a training of 13000 steps."
VALID = 100  # the last of the 1000 training characters: recipes were chosen on them


@dataclass(frozen=True)
class Recipe:
    "How a model is trained: every number of it."

    steps: int = 7000
    characters: int = 12  # in a step
    frames: int = 2  # random frames of each of two clips; unpaired: twice as many of one clip; DSVAE: all eight
    rate: float = 6e-3  # of Adam, after 200 steps; then a cosine down to a fiftieth
    pose: tuple[float, float, float] = (100.0, 8.0, 0.5)  # its price from, to, until this share of the steps
    sharpness: tuple[float, float] = (10.0, 0.04)  # it rises from this, until this share of the steps
    identity: float = 40.0  # price of the identities of 16 frames; with exchange there are two
    model: dict = field(default_factory=lambda: dict(dim_a=8, pixel_var=0.05, K=20, sharpness=50.0))


EXCHANGE = dict(Recipe().model, dim_a=4, exchange=True)  # each clip is drawn with the identity that its partner tells
RECIPES = {  # of DSVAE as many steps as take the same time, at the prices of its bound
    "exchange": Recipe(identity=20.0, model=EXCHANGE),
    "long": Recipe(16000, identity=20.0, model=EXCHANGE),
    "identity": Recipe(),
    "dsvae": Recipe(2400, rate=2e-3, pose=(1.0, 1.0, 1.0), identity=2.0, model=dict(dim_f=32, pixel_var=0.05, size=64)),
}
PAIRED = [(kind, "paired") for kind in ("exchange", "long", "identity")]
WAYS = [*PAIRED, ("identity", "unpaired"), ("dsvae", "unpaired")]
ROWS = {f"{kind} {pair} {seed}": (kind, pair, seed) for seed in range(3) for kind, pair in WAYS}


def films(sheets: str, folder: Path) -> np.ndarray:
    "All 1296 characters in nine motions, uint8 [1296, 9, 8, 3, 64, 64]; composed once, then read from the folder."
    path = folder / "sprites_64.npy"
    if not path.exists():
        made, parts = [], read_sheets(sheets)
        for looks in np.array_split(looks_of(np.arange(1296)), 27):
            clips = compose(parts, looks.repeat(9, 0), np.tile(np.arange(9), len(looks)))
            made.append(np.moveaxis(clips.reshape(len(looks), 9, *clips.shape[1:]), -1, 3))
        with atomic_write(path) as tmp, open(tmp, "wb") as file:
            np.save(file, np.concatenate(made))
    return np.load(path, mmap_mode="r")


def labelled(everyone: np.ndarray, who: np.ndarray) -> VideoData:
    "All nine clips of these characters, with labels."
    looks = looks_of(who).repeat(9, 0)
    labels = np.concatenate([looks, np.tile(np.arange(9), len(who))[:, None]], 1)
    clips = np.ascontiguousarray(everyone[who]).reshape(-1, *everyone.shape[2:])
    return VideoData(torch.from_numpy(clips), labels=torch.from_numpy(labels), factors=FACTORS)


def built(kind: str, recipe: Recipe) -> nn.Module:
    "A new model."
    if kind == "dsvae":
        return DSVAE(DSVAEConfig(**recipe.model))
    return IdentityVAE(IdentityConfig(**recipe.model))


def drawn(everyone: np.ndarray, who: np.ndarray, recipe: Recipe, row: tuple, rng) -> torch.Tensor:
    "Frames of one step, [characters, frames, 3, 64, 64]: of two clips of each character, or of one."
    n, k = recipe.characters, recipe.frames
    order = lambda count, first: np.argsort(rng.random((n, count)), 1)[:, :first]
    if row[0] == "dsvae":
        motion, at = rng.integers(9, size=(n, 1)), np.arange(8)[None]
    elif row[1] == "paired":
        motion, at = order(9, 2).repeat(k, 1), np.concatenate([order(8, k), order(8, k)], 1)
    else:
        motion, at = order(9, 1).repeat(2 * k, 1), order(8, 2 * k)
    chosen = everyone[rng.choice(who, n)[:, None], motion, at]
    return torch.from_numpy(chosen).float() / 255


def prices(recipe: Recipe, share: float) -> tuple[float, float]:
    "Prices of identity and pose at this share of the training; that of the pose falls along an exponential."
    start, end, until = recipe.pose
    return recipe.identity, start * (end / start) ** min(share / until, 1.0)


def step_loss(model: nn.Module, x: torch.Tensor, recipe: Recipe, share: float) -> torch.Tensor:
    "Nats of a frame at the prices of this moment."
    (start, until), end = recipe.sharpness, getattr(model.config, "sharpness", 1.0)
    sharpness = start * (end / start) ** min(share / until, 1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = model(x, noise=model.noise(*x.shape[:2], 4, temperature=1 / sharpness))
    identity, pose = prices(recipe, share)
    each = (pose * terms.parts[:, 1] - terms.log_likelihood) / x.shape[1] + identity * terms.parts[:, 0] / 16
    return each.mean()


def train(name: str, everyone: np.ndarray, who: np.ndarray, recipe: Recipe, folder: Path, until: float) -> dict | None:
    "The trained model and what it took; None if time was up before its end. Goes on where it was stopped."
    kind, _, seed = ROWS[name]
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = built(kind, recipe)
    optimiser = torch.optim.Adam(model.parameters(), recipe.rate, betas=(0.9, 0.99), fused=True)
    path, done, seconds = folder / f"{name.replace(' ', '_')}.pt", 0, 0.0
    if path.exists():
        kept = torch.load(path, weights_only=False)
        model.load_state_dict(kept["model"]), optimiser.load_state_dict(kept["optimiser"])
        torch.set_rng_state(kept["torch"])
        rng.bit_generator.state, done, seconds = kept["numpy"], kept["step"], kept["seconds"]
    began, average = time.process_time(), 0.0
    for step in range(done, recipe.steps):
        share = step / recipe.steps
        cosine = 0.02 + 0.98 * (1 + math.cos(math.pi * share)) / 2
        optimiser.param_groups[0]["lr"] = recipe.rate * min(1.0, (step + 1) / 200) * cosine
        loss = step_loss(model, drawn(everyone, who, recipe, ROWS[name], rng), recipe, share)
        optimiser.zero_grad()
        loss.backward()
        if torch.isfinite(nn.utils.clip_grad_norm_(model.parameters(), 500.0)):
            optimiser.step()
        average += (loss.item() - average) / (step % 500 + 1)
        if (step + 1) % 500 == 0 or step + 1 == recipe.steps:
            took = seconds + time.process_time() - began
            state = dict(model=model.state_dict(), optimiser=optimiser.state_dict(), torch=torch.get_rng_state())
            with atomic_write(path) as tmp:
                torch.save(state | dict(numpy=rng.bit_generator.state, step=step + 1, seconds=took), tmp)
            print(f"{name}: step {step + 1}, {took:.0f} s of CPU time, {average:.1f} nats a frame", flush=True)
            if time.time() > until and step + 1 < recipe.steps:
                return None
    return dict(model=model.eval(), seconds=seconds + time.process_time() - began)


def as_lists(found: object) -> object:
    "Named tuples and vectors as dicts and lists of rounded numbers; matrices are left out."
    if hasattr(found, "_asdict"):
        return {k: as_lists(v) for k, v in found._asdict().items() if isinstance(v, tuple) or np.ndim(v) < 2}
    if torch.is_tensor(found) or isinstance(found, np.ndarray | np.generic):
        found = found.tolist()
    if isinstance(found, list | tuple):
        return [as_lists(v) for v in found]
    if isinstance(found, float):
        return None if found != found else round(found, 4)
    return found


def measured(name: str, model: nn.Module, everyone: np.ndarray, judge: nn.Module, seconds: float) -> dict:
    "One row of the table: characters of the test set, on which nothing was chosen."
    kind, pair, seed = ROWS[name]
    known, new = (labelled(everyone, who) for who in original_characters())
    with torch.no_grad():
        table = measure_swaps(model, known, new, judge, "character" if pair == "paired" else "none")
        parts = [model.elbo(x) for x in (new.frames[::9].float() / 255).split(32)]
    nats = torch.cat([p.parts for p in parts]).mean(0)
    head = dict(name=name, kind=kind, pair=pair, seed=seed, cpu_seconds=round(seconds), KL=as_lists(nats))
    return head | as_lists(table)


@torch.no_grad()
def picture(name: str, everyone: np.ndarray, folder: Path, path: Path):
    "The swap grid of characters of the test set."
    model = built(ROWS[name][0], RECIPES[ROWS[name][0]]).eval()
    model.load_state_dict(torch.load(folder / f"{name.replace(' ', '_')}.pt", weights_only=False)["model"])
    who, motions = original_characters().test[[0, 41, 120, 190]], (1, 3, 8)
    clip = lambda person, motion: torch.from_numpy(everyone[person, motion].copy()).float() / 255
    looks = torch.stack([clip(person, 4) for person in who])
    drivers = torch.stack([clip(person, m) for person, m in zip(original_characters().test[200:], motions)])
    fig, ax = plt.subplots(figsize=(10, 3), dpi=110, layout="constrained")
    plot_swap(ax, looks, drivers, model.swap(looks, drivers).frames.clamp(0, 1), times=(0, 3, 5))
    fig.savefig(path, bbox_inches="tight", metadata={"Software": None})


def own_judge(everyone: np.ndarray, folder: Path) -> nn.Module:
    "The judge: read, or trained on all clips of the 1000 training characters."
    path = folder / "judge_64.safetensors"
    if not path.exists():
        save_judge(train_judge(labelled(everyone, original_characters().train)), path)
    return load_judge(path)


def main():
    "Trains what is missing, has it judged, and stores the table."
    ask = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ask.add_argument("--sheets", default="../shared/data/sprites_parts.npz")
    ask.add_argument("--runs", type=Path, default=Path("runs/sprites"))
    ask.add_argument("--only", nargs="*", default=list(ROWS), choices=list(ROWS), metavar="NAME")
    ask.add_argument("--minutes", type=float, default=1e9, help="stop, to go on later, after this time")
    ask.add_argument("--picture", type=Path, help="draw the swap grid of the first of these models, and stop")
    given = ask.parse_args()
    begin()
    given.runs.mkdir(parents=True, exist_ok=True)
    everyone, until = films(given.sheets, given.runs), time.time() + 60 * given.minutes
    if given.picture:
        return picture(given.only[0], everyone, given.runs, given.picture)
    who = original_characters().train[:-VALID]
    for name in given.only:
        rows = stored("sprites").get("runs", [])
        if any(row["name"] == name for row in rows):
            continue
        found = train(name, everyone, who, RECIPES[ROWS[name][0]], given.runs, until)
        if found is not None:
            row = measured(name, found["model"], everyone, own_judge(everyone, given.runs), found["seconds"])
            rows = [r for r in stored("sprites").get("runs", []) if r["name"] != name] + [row]
            store(
                "sprites",
                {"command": COMMAND, "recipes": {k: vars(r) for k, r in RECIPES.items()}, "note": NOTE, "runs": rows},
            )
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
