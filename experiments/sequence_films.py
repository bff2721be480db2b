"""Models of sequences on the paper's films of a ball in a box, by the same measures and on the same budget as the
recurrent baselines.

    python experiments/sequence_films.py --data ../shared/data/box.npz
    python experiments/sequence_films.py --data ../shared/data/box.npz --kinds dmm vrnn --seeds 3

The films are divided as in films.py and switching_box.py; 20 epochs, 16 filters and 5 of 20 decoded frames are those of
their preset `demo`. Network and training are otherwise the preset `box` of models of sequences, with a weight of the
divergence that rises for half of the epochs; no setting was tuned. Hidden frames are filled in by 8 particles, and
wrong pixels are counted by the function that measures all other models. A training can be stopped at any time and goes
on from its last epoch. Writes experiments/results/sequences_films.json.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from sequences import Parts, Recipe, settings, train
from shared import begin, missing

from kvae_nb.data.opening import DataConfig, open_data
from kvae_nb.data.sequences import from_films
from kvae_nb.evaluation.imputation import imputation_curves
from kvae_nb.models.sequence_parts import SequenceConfig
from kvae_nb.training.annealing import Schedule
from kvae_nb.training.kinds import kind_of

EMISSION, PARTICLES = "frames(32, 1, 64, filters=16)", 8
LATENT = {"srnn": "srnn", "dmm": "markov", "vrnn": "vrnn", "iseq": "independent", "arnn": "none"}
NETWORK = SequenceConfig(dim_z=8, rnn_units=(128,), encoder=(64,), decoder=(64,), latent_layers=(64,))
RISING = Schedule("linear", 0.02, 1.0, length=10)


def recipe_of(kind: str, seed: int) -> Recipe:
    "What is trained, how."
    model = replace(NETWORK, latent=LATENT[kind])
    beta = Schedule() if kind == "arnn" else RISING
    return Recipe(model, settings(epochs=20, batch_size=32, lr=0.003, beta=beta, decode_frames=5, seed=seed), every=1)


@torch.no_grad()
def plain(model, data) -> dict:
    "Bound and divergence of whole films, nats a frame."
    torch.manual_seed(0)
    terms = [model.elbo(x) for x in data.x.split(100)]
    frames = sum(t.frames.sum() for t in terms)
    kl = sum((t.log_posterior - t.log_prior).sum() for t in terms)
    found = {"elbo_per_frame": sum(t.elbo.sum() for t in terms) / frames, "kl_per_frame": kl / frames}
    return {k: round(v.item(), 3) for k, v in found.items()}


def main():
    begin()
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("--data", required=True, type=Path, help="the .npz file of the paper's box generator")
    p.add_argument("--kinds", nargs="+", default=["srnn"], choices=list(LATENT))
    p.add_argument("--seeds", type=int, default=1)
    p.add_argument("--runs", type=Path, default=Path("runs"), help="where trainings are kept")
    args = p.parse_args()
    config = DataConfig(str(args.data))
    films = kind_of("rnn").divide(config, open_data(config))
    parts = Parts(*(from_films(part[:], EMISSION) for part in (films.train, films.valid, films.test)))

    def one(row: dict) -> dict:
        recipe = recipe_of(**row)
        model, progress = train(recipe, parts, args.runs / f"films_{row['kind']}_{row['seed']}")
        curves = imputation_curves(model, films.test[:], (7,), (0.5,), particles=PARTICLES)
        return {
            "command": f"python experiments/sequence_films.py --data ../shared/data/{args.data.name} "
            f"--kinds {row['kind']} --seeds {row['seed'] + 1}",
            "data": args.data.name,
            "epochs": recipe.train.epochs,
            "epoch": progress.epoch,
            "seconds": round(sum(e["seconds"] for e in progress.history)),
            "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "films": len(parts.test),
            "particles": PARTICLES,
            "valid": round(progress.best, 3),
            **plain(model, parts.test),
            "imputation": {
                kind: {
                    n: {how: round(getattr(e, how), 5) for how in ("smoothing", "filtering")} for n, e in rows.items()
                }
                for kind, rows in curves.items()
            },
        }

    rows = [{"kind": kind, "seed": seed} for kind in args.kinds for seed in range(args.seeds)]
    missing("sequences_films", rows, one, {})


if __name__ == "__main__":
    main()
