"""Pretrained models of sequences for the package, from the trainings of experiments/sequences.py.

    python experiments/pack_sequences.py game --runs runs

Goes on with the training `runs/game_srnn_0` if it is not done, and writes kvae_nb/weights/sequences/game.safetensors
with four test games and what experiments/results/sequences_game.json says of this training.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from sequences import DATA, RECIPES, train
from shared import begin, stored

import kvae_nb
from kvae_nb.training.pretrained_sequences import save_sequence_model

KEPT = ("kind", "seed", "epochs", "seconds", "kl", "gap", "optimum")


def main():
    begin()
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("name", choices=["game"])
    p.add_argument("--runs", type=Path, default=Path("runs"), help="where trainings are kept")
    args = p.parse_args()
    recipe, parts = RECIPES[args.name, "srnn"], DATA[args.name](None)
    recipe = recipe._replace(train=replace(recipe.train, seed=0))
    model, _ = train(recipe, parts, args.runs / f"{args.name}_srnn_0")
    runs = stored(f"sequences_{args.name}")["runs"]
    row = next(r for r in runs if (r["kind"], r["seed"]) == ("srnn", 0))
    metrics = {k: row[k] for k in KEPT} | {"command": f"python experiments/sequences.py {args.name}"}
    path = Path(kvae_nb.__file__).parent / "weights" / "sequences" / f"{args.name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    print(save_sequence_model(path, model, parts.test.subset(torch.arange(4)), metrics), path.stat().st_size)


if __name__ == "__main__":
    main()
