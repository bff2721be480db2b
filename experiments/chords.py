"""An SRNN whose 88 keys depend on each other within a chord (NADE), on the chorales: its bounds, and what it composes.

    python experiments/chords.py
    python experiments/chords.py --path ../shared/data/jsb-chorales-quarter.json    # the standard set; bounds only

The network is that of `sequences.py`, with the emission nade(88, 64) in place of 88 independent keys and fewer epochs,
since it learns faster. The epoch is chosen by validation. The numbers about its pieces are those of `compose.py`. A
training can be stopped at any time and goes on from its last epoch. Writes experiments/results/chords.json, or
chords_rolls.json for the standard set.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from compose import described, drawn
from sequences import DATA, RECIPES, SLOW, Parts, rounded, train
from shared import begin, store

from kvae_nb.data.music import chords_of
from kvae_nb.evaluation.bounds import all_bounds

EMISSION, PATHS = "nade(88, 64)", 64


def trained(task: str, path: str | None, runs: Path) -> tuple:
    "The parts, the model, and what is stored of its training."
    parts = Parts(*(replace(data, emission=EMISSION) for data in DATA[task](path)))
    recipe = RECIPES["music", "srnn"]
    recipe = recipe._replace(train=replace(recipe.train, epochs=80, beta=replace(SLOW, length=50)))
    model, progress = train(recipe, parts, runs / f"{task}_nade_0")
    found = all_bounds(model, parts.test, PATHS)
    about = {
        "seed": recipe.train.seed,
        "seconds": round(sum(e["seconds"] for e in progress.history)),
        "emission": EMISSION,
        "epoch": progress.epoch,
        "valid": round(progress.best, 4),
        "kl": round((found.elbo.kl.sum() / found.elbo.steps.sum()).item(), 4),
        "test": {name: rounded(e) for name, e in found._asdict().items()},
    }
    return parts, model, about


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("--path", help="file of the standard set; without it, the chorales of music21")
    p.add_argument("--runs", type=Path, default=Path("runs"), help="where the training is kept")
    args = p.parse_args()
    begin()
    if args.path:
        command = f"python experiments/chords.py --path ../shared/data/{Path(args.path).name}"
        content = {"command": command} | trained("rolls", args.path, args.runs)[2]
        store("chords_rolls", content)
        return print(content)
    parts, model, about = trained("chorales", None, args.runs)
    pieces = drawn(model)
    training = [x[:n].bool().numpy() for x, n in zip(parts.train.x, parts.train.lengths)]
    composed = {"composed": described(pieces, training), "pieces": [chords_of(piece) for piece in pieces[:2]]}
    content = {"command": "python experiments/chords.py"} | about | composed
    store("chords", content, indent=None)
    print(about, composed["composed"])


if __name__ == "__main__":
    main()
