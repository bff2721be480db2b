"""Pretrained models of sequences for the package, from the trainings of experiments/sequences.py.

    python experiments/pack_sequences.py game --runs runs
    python experiments/pack_sequences.py chorales --runs runs

`game` goes on with the training `runs/game_srnn_0` if it is not done, and writes
kvae_nb/weights/sequences/game.safetensors with four test games and what experiments/results/sequences_game.json says of
this training. `chorales` trains a small recurrent network without latents, whose 88 keys read each other within a chord
(NADE), so that the probability of every chord is exact; with it go the first 32 steps of four test pieces. Its numbers
are kept in the file itself, and in experiments/results/packed_chorales.json.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from sequences import DATA, RECIPES, Parts, Recipe, bound, settings, train
from shared import begin, store, stored

import kvae_nb
from kvae_nb.data.sequences import SequenceData
from kvae_nb.models.sequence_parts import SequenceConfig
from kvae_nb.training.pretrained_sequences import save_sequence_model

KEPT = ("kind", "seed", "epochs", "seconds", "kl", "gap", "optimum")


STEPS, EMISSION = 32, "nade(88, 48)"
SMALL = Recipe(
    SequenceConfig("none", rnn_units=(96,), encoder=(96,), decoder=(96,), dropout=0.3),
    settings(epochs=60, batch_size=24, lr=0.003),
    STEPS,
)


def written(name: str, model, data: SequenceData, metrics: dict):
    "Writes the file of this name into the package."
    path = Path(kvae_nb.__file__).parent / "weights" / "sequences" / f"{name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    print(save_sequence_model(path, model, data, metrics), path.stat().st_size)


def pack_game(runs: Path):
    "The SRNN of the toy game."
    recipe, parts = RECIPES["game", "srnn"], DATA["game"](None)
    recipe = recipe._replace(train=replace(recipe.train, seed=0))
    model, _ = train(recipe, parts, runs / "game_srnn_0")
    row = next(r for r in stored("sequences_game")["runs"] if (r["kind"], r["seed"]) == ("srnn", 0))
    metrics = {k: row[k] for k in KEPT} | {"command": "python experiments/sequences.py game"}
    written("game", model, parts.test.subset(torch.arange(4)), metrics)


def pack_chorales(runs: Path):
    "A small recurrent network of chords."
    parts = Parts(*(replace(data, emission=EMISSION) for data in DATA["chorales"](None)))
    model, progress = train(SMALL, parts, runs / "packed_chorales")
    test = parts.test
    four = (test.lengths >= STEPS).nonzero()[:4, 0]
    data = SequenceData(x=test.x[four, :STEPS], lengths=torch.full((4,), STEPS), emission=EMISSION)
    metrics = {
        "kind": "arnn",
        "seed": SMALL.train.seed,
        "epochs": progress.epoch,
        "seconds": round(sum(e["seconds"] for e in progress.history)),
        "test": round(bound(model, test, SMALL.train), 4),
        "command": "python experiments/pack_sequences.py chorales",
    }
    store("packed_chorales", metrics)
    written("chorales", model, data, metrics)


def main():
    begin()
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("name", choices=["game", "chorales"])
    p.add_argument("--runs", type=Path, default=Path("runs"), help="where trainings are kept")
    args = p.parse_args()
    {"game": pack_game, "chorales": pack_chorales}[args.name](args.runs)


if __name__ == "__main__":
    main()
