"""Does every seed come alive? Ten seeds of a preset, each trained with the preset's own schedule until it has, or for
--epochs epochs.

    python experiments/start_of_training.py --preset demo --seeds 10 --epochs 8

Writes experiments/results/start_<preset>.json: for each seed the validation bound and the liveness of the decoder
(variance of the decoded frames over that of the true ones; 0 if the decoder is dead) after each epoch. A seed has
trained if its liveness is above 0.5 and its bound above the score of the best constant image.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from kvae_nb.core.files import atomic_write
from kvae_nb.core.runtime import tune_cpu
from kvae_nb.data.batches import batches
from kvae_nb.data.films import split
from kvae_nb.data.opening import open_data
from kvae_nb.training.loop import train_epoch
from kvae_nb.training.records import Reporter, summary, validate
from kvae_nb.training.runs import PRESETS, build_model, fit_config_to_data
from kvae_nb.training.session import prepare
from kvae_nb.training.watch import DeadStart, liveness

HERE = Path(__file__).parent


def one_seed(config, data, seed: int, epochs: int, constant: float) -> dict:
    "The first epochs of a run with this seed."
    config, folder = replace(config, train=replace(config.train, seed=seed)), Path(tempfile.mkdtemp())
    trainer, progress = prepare(config)
    reporter, rows = Reporter(folder, main=False, quiet=True), []
    probe = next(batches(data.valid, 100, torch.arange(100))).x

    def trained():
        return bool(rows) and rows[-1]["liveness"] > 0.5 and rows[-1]["valid_elbo_per_frame"] > constant

    while progress.epoch < epochs and not trained():
        try:
            progress, means = train_epoch(trainer, data.train, progress, reporter)
        except DeadStart:
            (trainer, progress), rows = prepare(config, attempt=progress.attempt + 1), []
            continue
        rows.append(
            {
                "valid_elbo_per_frame": summary(validate(trainer.bare, data.valid, config.train))["elbo"],
                "liveness": liveness(trainer.bare, probe),
            }
        )
    return {
        "seed": seed,
        "trained": trained(),
        "restarts": progress.attempt,
        "skipped_steps": progress.skipped,
        "epochs": rows,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, default="demo")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=8)
    args = parser.parse_args()
    tune_cpu()
    whole = open_data(PRESETS[args.preset].data)
    config, started = fit_config_to_data(PRESETS[args.preset], whole), time.perf_counter()
    data = split(whole, config.data.test, config.data.valid, config.data.split_seed)
    frames = next(batches(data.valid, 100, torch.arange(100))).x
    result = {
        "command": "python experiments/start_of_training.py " + " ".join(sys.argv[1:]),
        "constant_image_score": build_model(config).pixels.constant_image_score(frames),
        "seeds": [],
    }
    for seed in range(args.seeds):
        row = one_seed(config, data, seed, args.epochs, result["constant_image_score"])
        result["seeds"].append(row)
        print(
            f"seed {seed}: {len(row['epochs'])} epochs, {row['restarts']} restarts, liveness "
            f"{row['epochs'][-1]['liveness']:.3f}, {row['epochs'][-1]['valid_elbo_per_frame']:.1f} nats per frame",
            flush=True,
        )
    result["trained"] = sum(row["trained"] for row in result["seeds"])
    result["needed_a_restart"] = sum(row["restarts"] > 0 for row in result["seeds"])
    result |= {
        "duration_s": round(time.perf_counter() - started),
        "machine": f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)",
        "torch": torch.__version__,
    }
    with atomic_write(HERE / "results" / f"start_{args.preset}.json") as tmp:
        tmp.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{result['trained']} of {args.seeds} seeds trained, {result['needed_a_restart']} of them after a restart")


if __name__ == "__main__":
    main()
