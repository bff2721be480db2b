"""Pretrained weights of the package from run folders, measured on their held-out films.

    python experiments/pack.py box=runs/2026-01-31_12-00-00 simulated_gravity=runs/2026-01-31_13-00-00

Writes kvae_nb/weights/NAME.safetensors for each: the best checkpoint by validation (--checkpoint last for the last),
its configuration, the command that trains it again, and its metrics: the plain bound and the imputation errors at gaps
of 3, 7 and 15 frames on the run's own held-out part, so the training data must still be where the run's config.yaml
says. With a model of someone twelve films are packed, with others four. --half stores weights with 16 bits, in half the
space. --metrics FILE takes the measured part from a JSON file instead, {"NAME": {...}}, or {...} if only one run is
packed. A minute for each, one CPU core.
"""

import argparse
import json
import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch

from kvae_nb.core.errors import InputError
from kvae_nb.core.runtime import tune_cpu
from kvae_nb.evaluation.imputation import imputation_curves
from kvae_nb.evaluation.scores import held_out_elbo
from kvae_nb.models.factors import Disentangling
from kvae_nb.training.identity_runs import labels_used
from kvae_nb.training.pretrained import check_error, load_pretrained, pack, pretrained_names
from kvae_nb.training.runs import Run, RunConfig, kind_of, load_run, run_data
from kvae_nb.training.starts import flat

GAPS = (3, 7, 15)


def rounded(value, digits: int = 5):
    "The same nested numbers with fewer digits."
    if isinstance(value, dict):
        return {k: rounded(v, digits) for k, v in value.items()}
    return round(value, digits) if isinstance(value, float) else value


def command(config: RunConfig) -> str:
    "What has to be typed for this configuration: the preset that is nearest to it, and what differs."
    found_so = (
        None if config.data.binarize else config.data.binarize
    )  # black and white is what the reader finds by itself
    config = replace(
        config,
        data=replace(config.data, path=Path(config.data.path).name, binarize=found_so),
        train=replace(config.train, name=""),  # only a label of the folder
    )
    wanted, written = (
        flat(asdict(config)),
        lambda v: json.dumps(v) if isinstance(v, (dict, list, tuple, bool)) else str(v),
    )
    found = []
    for name, start in kind_of(config.kind).presets.items():
        there = flat(asdict(start))
        differs = [word for k, v in wanted.items() if v != there[k] for word in (f"--{k}", written(v))]
        found.append(["kvae", "train", "--model", config.kind, "--preset", name, *differs])
    return shlex.join(min(found, key=len))


def training(run: Run, checkpoint: str) -> dict:
    "How the run was trained."
    about = json.loads((run.folder / "metrics.json").read_text())
    someone = {"labels_used": labels_used(run.config)} if isinstance(run.model, Disentangling) else {}
    return someone | {
        "command": command(run.config),
        "seed": run.config.train.seed,
        "epochs": run.config.train.epochs,
        "checkpoint": checkpoint,
        "epoch": run.progress.epoch,
        "seconds": about.get("seconds"),
        "device": about.get("device"),
        "machine": about.get("machine"),
        "torch": about.get("torch"),
    }


def measured(run: Run) -> dict:
    "The plain bound and the imputation errors on the held-out films of a run. Raises `InputError` if it has none."
    test = run_data(run).test
    if not len(test):
        raise InputError(f"{run.folder} has no held-out films (data.test=0); give the numbers with --metrics.")
    bound = held_out_elbo(run.model, test)
    gaps = imputation_curves(run.model, test, GAPS, (), particles=0)["gap"]
    return rounded(
        {
            "sequences": len(test),
            "elbo_per_frame": bound.per_frame,
            "elbo_per_sequence": bound.per_sequence,
            "gap": {n: e._asdict() for n, e in gaps.items()},
        }
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "runs", nargs="+", metavar="NAME=RUN", help="a name for the weights and the run folder they come from"
    )
    parser.add_argument("--checkpoint", default="best", help="best, last, or one that was kept")
    parser.add_argument("--metrics", type=Path, help="a JSON file with what would otherwise be measured")
    parser.add_argument("--half", action="store_true", help="weights with 16 bits")
    parser.add_argument("--folder", type=Path, help="where to write; default: into the package")
    args = parser.parse_args()
    tune_cpu()
    torch.set_num_threads(1)
    try:
        pairs = [word.partition("=") for word in args.runs]
        if wrong := [name + equals + folder for name, equals, folder in pairs if not (name and folder)]:
            raise InputError(f"{wrong[0]!r} is not of the form NAME=RUN.")
        given = json.loads(args.metrics.read_text()) if args.metrics else {}
        for name, _, folder in pairs:
            run = load_run(folder, args.checkpoint)
            numbers = given.get(name, given if len(pairs) == 1 else None) if args.metrics else measured(run)
            if numbers is None:
                raise InputError(f"{args.metrics} has no entry {name!r}.")
            count = 12 if isinstance(run.model, Disentangling) else 4
            about = {**numbers, **training(run, args.checkpoint)}
            path = pack(folder, name, about, args.folder, args.checkpoint, count, args.half)
            found = load_pretrained(path)
            error = check_error(found.model, found.films, found.check)
            print(
                f"{path}: {path.stat().st_size / 1024:.0f} KB, {numbers.get('elbo_per_frame')} nats per "
                f"frame, check off by {error:.1e}",
                flush=True,
            )
    except (InputError, OSError, ValueError) as error:
        print(f"pack.py: {error}", file=sys.stderr)
        return 2
    print(f"in the package now: {', '.join(pretrained_names())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
