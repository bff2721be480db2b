"""The paper's recipe on videos of the paper's own generator: trains, evaluates on the held-out tenth, records the
numbers.

    python experiments/paper_box.py --data ../shared/data/box.npz              # about an hour on one CPU core
    python experiments/paper_box.py --data ../shared/data/box.npz --run RUN    # records a run that kvae train has made

Writes experiments/results/paper_box.json with two checkpoints: the best by validation, and the last.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from kvae_nb.core.files import atomic_write
from kvae_nb.core.runtime import tune_cpu
from kvae_nb.evaluation.report import EvaluationConfig, evaluate
from kvae_nb.training.loop import fit
from kvae_nb.training.runs import PRESETS, load_run, run_data

HERE = Path(__file__).parent
KEEP = (
    "elbo_per_frame",
    "elbo_per_sequence",
    "elbo_terms_per_frame",
    "imputation",
    "position_r2",
    "generation",
    "leaks",
)


def rounded(value, digits: int = 5):
    "The same nested numbers with fewer digits, so that the file stays small."
    if isinstance(value, dict):
        return {k: rounded(v, digits) for k, v in value.items()}
    return round(value, digits) if isinstance(value, float) else value


def measure(folder: Path, checkpoint: str) -> dict:
    "All measures of one checkpoint of a run, on its held-out sequences."
    run = load_run(folder, checkpoint)
    lagging = EvaluationConfig(state_lag=1, particles=0)  # that generator's states are one step ahead
    results = evaluate(run.model, run_data(run).test, lagging)
    return {
        "epoch": run.progress.epoch,
        "sequences": results["test"]["sequences"],
        **rounded({k: results[k] for k in KEEP}),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="the .npz file")
    parser.add_argument("--run", default="", help="a run folder that exists already")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--threads",
        type=int,
        default=torch.get_num_threads(),
        help="CPU threads the run was trained with, for the record",
    )
    args = parser.parse_args()
    tune_cpu()
    paper = PRESETS["paper"]
    config = replace(paper, data=replace(paper.data, path=args.data), train=replace(paper.train, seed=args.seed))
    folder = Path(args.run) if args.run else fit(config)
    run, metrics = load_run(folder), json.loads((folder / "metrics.json").read_text())
    stored = replace(
        run.config, train=replace(run.config.train, threads=0), data=replace(run.config.data, binarize=None)
    )
    if stored != config:
        raise SystemExit(f"{folder} was not made by the paper preset on {args.data} with seed {args.seed}.")
    result = {
        "command": f"kvae train --preset paper --data {args.data} --seed {args.seed}; kvae evaluate "
        "--measure.state_lag 1",
        "seed": args.seed,
        "train_seconds": metrics["seconds"],
        "machine": f"{metrics['machine']} CPU, {args.threads} thread(s)",
        "torch": torch.__version__,
        "valid_elbo_per_frame": [round(e["valid"]["elbo"], 3) for e in metrics["history"]],
        **{name: measure(folder, name) for name in ("best", "last")},
    }
    with atomic_write(HERE / "results" / "paper_box.json") as tmp:
        tmp.write_text(json.dumps(result, indent=1) + "\n")
    for n, row in result["best"]["imputation"]["gap"].items():
        print(f"gap {n}: smoothing {row['smoothing']:.4f}, filtering {row['filtering']:.4f}")


if __name__ == "__main__":
    main()
