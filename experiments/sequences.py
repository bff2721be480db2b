"""Sequence models beside what is known of the same data: the exact optimum of a game, published values, n-grams, linear
prediction.

    python experiments/sequences.py game
    python experiments/sequences.py rolls --path ../shared/data/jsb-chorales-quarter.json
    python experiments/sequences.py chorales
    python experiments/sequences.py collapse --path ../shared/data/jsb-chorales-quarter.json
    python experiments/sequences.py tunes
    python experiments/sequences.py prose
    python experiments/sequences.py strings
    python experiments/sequences.py grids

A training can be stopped at any time and goes on from its last epoch; a row is stored when it is done. The epoch is
chosen by the bound of whole validation sequences; what is reported was measured on the test sequences, which no choice
was made on, whole as well, IWAE and FIVO with 64 paths, in nats. Seconds are CPU seconds of the training, validation
included. Writes experiments/results/sequences_<task>.json.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from shared import begin, missing, store

from kvae_nb.data.audio import pitches
from kvae_nb.data.chorales import chorales, read_chords
from kvae_nb.data.films import Batch, epoch_order
from kvae_nb.data.rollouts import rollout
from kvae_nb.data.sequences import SequenceData, by_length, from_list, trimmed
from kvae_nb.data.sources import SequenceDataConfig, from_strings
from kvae_nb.evaluation.baselines import autoregression, baselines
from kvae_nb.evaluation.bounds import Estimate, all_bounds
from kvae_nb.evaluation.probes import r2_by_halves
from kvae_nb.models.sequence import SequenceVAE
from kvae_nb.models.sequence_parts import SequenceConfig
from kvae_nb.training.annealing import Schedule
from kvae_nb.training.checkpoints import Progress, load_optimiser, load_weights, read_checkpoint, save_checkpoint
from kvae_nb.training.config import TrainConfig
from kvae_nb.training.step import make_trainer, reseed, train_step
from kvae_nb.worlds.agents import RandomAgent
from kvae_nb.worlds.game import ToyGame

PATHS = 64  # of IWAE and FIVO
FEW = {"strings": 8}  # where there are too many steps for so many
WINDOW = 100  # samples of a string in a step
FAMILY = {"rolls": "music", "chorales": "music"}


class Recipe(NamedTuple):
    "What is trained, how."

    model: SequenceConfig
    train: TrainConfig
    chunk: int = 0  # steps of the pieces that are trained on, with a new beginning in every epoch; 0: whole sequences
    every: int = 5  # epochs between two looks at the validation data


class Parts(NamedTuple):
    "Data of a task."

    train: SequenceData
    valid: SequenceData
    test: SequenceData


def divided(data: SequenceData) -> Parts:
    "The parts that the data themselves name."
    return Parts(*(data.subset((data.part == k).nonzero()[:, 0]) for k in range(3)))


def settings(**given) -> TrainConfig:
    "A training on the plain bound, the learning rate along a cosine."
    return TrainConfig(
        **dict(reconstruction_weight=1.0, clip=1.0, schedule="cosine", join={}, device="cpu", threads=1) | given
    )


SLOW = Schedule("linear", 0.02, 1.0, length=70)
MIDDLE, FAST = Schedule("linear", 0.02, 1.0, length=32), Schedule("linear", 0.2, 1.0, length=8)
LETTERS = SequenceConfig("none", rnn_units=(256,), encoder=(64,), decoder=(), dropout=0.2)
MUSIC = SequenceConfig("srnn", dim_z=32, context_drop=0.3, dropout=0.3)
STRINGS = SequenceConfig(
    "srnn", dim_z=32, rnn_units=(256,), encoder=(256,), decoder=(256,), latent_layers=(256,), context_drop=0.8
)
PLUCKED = Schedule("linear", 0.1, 1.0, length=10)
RECIPES = {
    ("game", "arnn"): Recipe(
        SequenceConfig("none", rnn_units=(64,), encoder=(32,), decoder=(64,)),
        settings(epochs=14, batch_size=256, lr=0.004, beta=Schedule()),
    ),
    ("game", "srnn"): Recipe(
        SequenceConfig("srnn", dim_z=4, rnn_units=(64,), encoder=(32,), decoder=(64,), latent_layers=(64,)),
        settings(epochs=14, batch_size=256, lr=0.004, beta=Schedule("linear", 0.1, 1.0, length=3)),
    ),
    ("music", "srnn"): Recipe(MUSIC, settings(epochs=120, batch_size=24, lr=0.002, beta=SLOW), 32),
    ("music", "arnn"): Recipe(SequenceConfig("none", dropout=0.3), settings(epochs=70, batch_size=24, lr=0.003), 32),
    ("tunes", "arnn"): Recipe(LETTERS, settings(epochs=10, batch_size=64, lr=0.004), 128, 1),
    ("prose", "arnn"): Recipe(LETTERS, settings(epochs=10, batch_size=16, lr=0.003), 128, 1),
    ("strings", "srnn"): Recipe(STRINGS, settings(epochs=30, batch_size=16, lr=0.003, beta=PLUCKED), every=2),
}
SHORT = RECIPES["music", "srnn"]._replace(train=settings(epochs=40, batch_size=24, lr=0.002, beta=MIDDLE))
ARMS = {  # what is taken away from the recipe of music, made shorter
    "recipe": lambda r: r,
    "fast schedule": lambda r: r._replace(train=replace(r.train, beta=FAST)),
    "no context drop-out": lambda r: r._replace(model=replace(r.model, context_drop=0.0)),
    "whole sequences": lambda r: r._replace(chunk=0, train=replace(r.train, batch_size=20)),
    "all three": lambda r: r._replace(
        model=replace(r.model, context_drop=0.0), chunk=0, train=replace(r.train, batch_size=20, beta=FAST)
    ),
}


def play(count: int, seed: int) -> SequenceData:
    "Toy games of five observations with random actions."
    world = ToyGame()
    return rollout(world, RandomAgent(world.actions), count, 5, torch.Generator().manual_seed(seed))


def text(name: str) -> str:
    "The help pages of Python, or O'Neill's tunes."
    from kvae_nb.data import text as texts

    return getattr(texts, name)()


def plucked(count: int, seed: int) -> SequenceData:
    "Half a second each of plucked strings of known pitch."
    return from_strings(SequenceDataConfig("strings", sequences=count, steps=80, samples=WINDOW, simulate_seed=seed))


def written(text: str) -> Parts:
    "A text as three long sequences of symbols: eight tenths, one tenth, one tenth."
    letters = sorted(set(text))
    number = {c: k for k, c in enumerate(letters)}
    ids, n = torch.tensor([number[c] for c in text]), len(text)
    pieces = ids.split([n * 8 // 10, n * 9 // 10 - n * 8 // 10, n - n * 9 // 10])
    return Parts(*(from_list([v], emission=f"categorical({len(letters)})") for v in pieces))


DATA = {
    "game": lambda path: Parts(play(50_000, 1), play(5_000, 2), play(20_000, 3)),
    "rolls": lambda path: divided(read_chords(path)),
    "chorales": lambda path: divided(chorales()),
    "collapse": lambda path: divided(read_chords(path)),
    "prose": lambda path: written(text("prose")),
    "tunes": lambda path: written(text("tunes")),
    "strings": lambda path: Parts(plucked(600, 1), plucked(400, 2), plucked(400, 3)),
}


def chunked(data: SequenceData, steps: int, generator: torch.Generator) -> SequenceData:
    "Pieces of all sequences; where a sequence is longer than a piece, the first one ends at a random place."
    pieces, controls = [], []
    for k, n in enumerate(data.lengths.tolist()):
        first = int(torch.randint(1, steps + 1, (), generator=generator)) if n > steps else n
        cuts = [0, *range(first, n, steps), n]
        pieces += [data.x[k, a:b] for a, b in zip(cuts, cuts[1:])]
        controls += [] if data.controls is None else [data.controls[k, a:b] for a, b in zip(cuts, cuts[1:])]
    return from_list(pieces, controls=controls or None, emission=data.emission)


@torch.no_grad()
def bound(model: SequenceVAE, data: SequenceData, config: TrainConfig) -> float:
    "The plain bound of whole sequences, in nats a step."
    reseed(config, "valid")
    model.eval()
    terms = [model.elbo(*trimmed(data.batch(rows))) for rows in by_length(data, 256, 0, 0)]
    model.train()
    return (sum(t.elbo.sum() for t in terms) / sum(t.frames.sum() for t in terms)).item()


def train(recipe: Recipe, parts: Parts, folder: Path) -> tuple[SequenceVAE, Progress]:
    "Trains, or goes on from the last epoch; the model of the best validation bound."
    folder.mkdir(parents=True, exist_ok=True)
    config, last, best = recipe.train, folder / "last.safetensors", folder / "best.safetensors"
    controls = 0 if parts.train.controls is None else parts.train.controls.shape[-1]
    reseed(config, "init")
    model = SequenceVAE(replace(recipe.model, emission=parts.train.emission, dim_u=controls))
    trainer, progress = make_trainer(model, config), Progress()
    if last.exists():
        tensors, progress = read_checkpoint(last)
        load_weights(model, tensors), load_optimiser(trainer.optimiser, model, tensors)
    while progress.epoch < config.epochs:
        started, epoch = time.process_time(), progress.epoch
        generator = torch.Generator().manual_seed(config.seed * 10**6 + epoch)
        data = chunked(parts.train, recipe.chunk, generator) if recipe.chunk else parts.train
        batches = epoch_order(len(data), config.seed, epoch).split(config.batch_size)
        for k, rows in enumerate(batches):
            train_step(trainer, trimmed(data.batch(rows)), epoch + k / len(batches), progress.step + k)
        entry = {"epoch": epoch + 1}
        if (epoch + 1) % recipe.every == 0 or epoch + 1 == config.epochs:
            entry["valid"] = bound(model, parts.valid, config)
        better = entry.get("valid", -float("inf")) > progress.best
        entry["seconds"] = time.process_time() - started
        progress = progress._replace(
            epoch=epoch + 1,
            step=progress.step + len(batches),
            best=entry["valid"] if better else progress.best,
            history=(*progress.history, entry),
        )
        save_checkpoint(last, model, trainer.optimiser, progress)
        if better:
            save_checkpoint(best, model, progress=progress)
            print(folder.name, entry, flush=True)
    tensors, chosen = read_checkpoint(best)
    load_weights(model, tensors)
    return model.eval(), progress._replace(epoch=chosen.epoch)


def rounded(e: Estimate) -> dict:
    "A bound as it is stored."
    found = {"per_step": e.per_step, "per_sequence_mean": e.per_sequence_mean, "standard_error": e.standard_error}
    return {k: round(v, 4) if v == v else None for k, v in found.items()} | {"ess": round(e.ess.mean().item(), 1)}


def everything(data: SequenceData) -> Batch:
    "All sequences in one batch."
    return data.batch(torch.arange(len(data)))


def measured(task: str, recipe: Recipe, parts: Parts, folder: Path) -> dict:
    "What is stored of one training."
    model, progress = train(recipe, parts, folder)
    found = all_bounds(model, parts.test, FEW.get(task, PATHS))
    about = {
        "epochs": recipe.train.epochs,
        "epoch": progress.epoch,
        "seconds": round(sum(e["seconds"] for e in progress.history)),
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "valid": round(progress.best, 4),
        "kl": round((found.elbo.kl.sum() / found.elbo.steps.sum()).item(), 4),
        "test": {name: rounded(e) for name, e in found._asdict().items()},
    }
    if task == "game":
        x, _, u = everything(parts.test)
        exact = ToyGame().exact(x, u).log_prob.double().sum(1)
        gap = exact - found.elbo.total
        about["gap"] = {
            "mean": round(gap.mean().item(), 5),
            "standard_error": round(gap.std().item() / len(x) ** 0.5, 5),
        }
        about["optimum"] = round(exact.mean().item(), 5)
    if task == "strings":
        about |= {"paths": FEW[task], "window": WINDOW}
        about["pitch_r2"] = {k: pitch_r2(model, getattr(parts, k)) for k in ("valid", "test")}
    return about


@torch.no_grad()
def pitch_r2(model: SequenceVAE, data: SequenceData) -> float:
    "R² of the logarithm of the pitch from the mean of z over a note, linear, fitted on half of the notes."
    z = torch.cat([model.encode(x).mean(1, keepdim=True) for x in data.x.split(100)])
    return round(r2_by_halves(z, pitches(data).log2()[:, None, None]).item(), 4)


def linear(parts: Parts) -> dict:
    "Linear prediction of each sample from those before it, nats a sample."
    known, new = (Batch(d.x.flatten(1)[..., None], None, None) for d in (parts.train, parts.test))
    nats = {k: autoregression(known, new, k).total.sum().item() / new.x.numel() for k in (16, 64)}
    std = known.x.std()
    nats["constant"] = torch.distributions.Normal(known.x.mean(), std).log_prob(new.x).mean().item()
    return {k if k == "constant" else f"linear, {k} samples": {"per_sample": round(v, 4)} for k, v in nats.items()}


def compared(parts: Parts, task: str = "") -> dict:
    "Baselines of the same test data."
    if task == "strings":
        return linear(parts)
    return {name: rounded(e) for name, e in baselines(parts.train.emission, *map(everything, parts)).items()}


def kinds_of(task: str) -> list[str]:
    "The kinds that there is a recipe for."
    return [kind for name, kind in RECIPES if name == FAMILY.get(task, task)]


def wanted(args: argparse.Namespace) -> list[tuple[dict, Recipe]]:
    "The rows of a task, and how each is trained."
    rows = []
    for seed in range(args.seeds):
        for kind in args.kinds or (ARMS if args.task == "collapse" else kinds_of(args.task)):
            collapse = args.task == "collapse"
            recipe = ARMS[kind](SHORT) if collapse else RECIPES[FAMILY.get(args.task, args.task), kind]
            row = {"arm" if collapse else "kind": kind, "seed": seed}
            rows.append((row, recipe._replace(train=replace(recipe.train, seed=seed))))
    return rows


def grids():
    "What a finer grid does to the baselines of the same music."
    found = {}
    for grid in ("quarter", "eighth"):
        data = chorales(grid)
        same = [(x[1:n] == x[: n - 1]).all(-1).double().mean() for x, n in zip(data.x, data.lengths.tolist())]
        found[grid] = {"baselines": compared(divided(data)), "repeats": round(torch.stack(same).mean().item(), 4)}
    store("sequences_grids", {"command": "python experiments/sequences.py grids"} | found)


def main():
    begin()
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("task", choices=[*DATA, "grids"])
    p.add_argument("--path", help="file of the data, for rolls and collapse")
    p.add_argument("--kinds", nargs="+", help="arnn, srnn, or arms of collapse; default: all")
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--runs", type=Path, default=Path("runs"), help="where trainings are kept")
    args = p.parse_args()
    if args.task == "grids":
        return grids()
    parts, rows = DATA[args.task](args.path), wanted(args)
    path = f" --path ../shared/data/{Path(args.path).name}" if args.path else ""
    head = {
        "command": f"python experiments/sequences.py {args.task}{path}",
        "data": {k: {"sequences": len(d), "steps": int(d.observed.sum())} for k, d in parts._asdict().items()},
        "baselines": {} if args.task == "collapse" else compared(parts, args.task),
    }

    def one(row: dict) -> dict:
        recipe = next(recipe for known, recipe in rows if known == row)
        name = "_".join([args.task, *(str(v).replace(" ", "-") for v in row.values())])
        return measured(args.task, recipe, parts, args.runs / name)

    missing(f"sequences_{args.task}", [row for row, _ in rows], one, head)


if __name__ == "__main__":
    main()
