"""A small SRNN of chorales trained on the ELBO, on IWAE and on FIVO, each for about 100 CPU seconds.

    python experiments/bounds.py --path ../shared/data/jsb-chorales-quarter.json
    python experiments/bounds.py --path ../shared/data/jsb-chorales-quarter.json --seeds 3

The recipe of experiments/sequences.py for music, made shorter: all arms have the same sizes, pieces, batches of 24,
learning rate and share of the training in which the divergence is weighted less; four paths take longer, so those arms
have fewer epochs. Nothing is chosen: the last weights are measured, on whole test sequences, by all three bounds with
64 paths, in nats a frame. Writes experiments/results/bounds.json.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from sequences import PATHS, RECIPES, Parts, divided, rounded, settings, train
from shared import begin, missing

from kvae_nb.data.chorales import read_chords
from kvae_nb.evaluation.bounds import all_bounds
from kvae_nb.training.annealing import Schedule

ARMS = {"elbo": (1, 60), "iwae": (4, 24), "fivo": (4, 24)}  # paths, epochs: about 100 CPU seconds each


def recipe(bound: str, seed: int):
    "One training."
    samples, epochs = ARMS[bound]
    base, rise = RECIPES["music", "srnn"], Schedule("linear", 0.02, 1.0, length=0.4 * epochs)
    given = settings(epochs=epochs, batch_size=24, lr=0.003, beta=rise, samples=samples, bound=bound, seed=seed)
    return base._replace(model=replace(base.model, dim_z=16), train=given, every=epochs)


def measured(row: dict, parts: Parts, runs: Path) -> dict:
    "What is stored of one training."
    chosen = recipe(row["bound"], row["seed"])
    model, progress = train(chosen, parts, runs / f"bounds_{row['bound']}_{row['seed']}")
    found = all_bounds(model, parts.test, PATHS)
    return {
        "paths": chosen.train.samples,
        "epochs": chosen.train.epochs,
        "seconds": round(sum(e["seconds"] for e in progress.history)),
        "kl": round((found.elbo.kl.sum() / found.elbo.steps.sum()).item(), 4),
        "test": {name: rounded(e) for name, e in found._asdict().items()},
    }


def main():
    begin()
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("--path", required=True, help="JSON file of the chorales")
    p.add_argument("--seeds", type=int, default=1)
    p.add_argument("--runs", type=Path, default=Path("runs"), help="where trainings are kept")
    args = p.parse_args()
    parts = divided(read_chords(args.path))
    rows = [{"bound": bound, "seed": seed} for seed in range(args.seeds) for bound in ARMS]
    command = f"python experiments/bounds.py --path ../shared/data/{Path(args.path).name}"
    missing("bounds", rows, lambda row: measured(row, parts, args.runs), {"command": command})


if __name__ == "__main__":
    main()
