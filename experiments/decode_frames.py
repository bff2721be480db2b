"""What decoding only some frames of each sequence does to accuracy per minute: equal time for 2, 5 and 20 decoded
frames of 20.

    python experiments/decode_frames.py --data ../shared/data/box.npz --size 16 --minutes 1.3

Each arm trains the demo network for as many epochs of the cosine schedule as fit into the time; how long its step takes
is measured first. Writes experiments/results/decode_frames.json: epochs, seconds, imputation error at gap 7, validation
bound.
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
from kvae_nb.data.films import mask_gap, split, take
from kvae_nb.data.opening import open_data
from kvae_nb.evaluation.imputation import imputation_errors
from kvae_nb.training.loop import fit
from kvae_nb.training.runs import PRESETS, fit_config_to_data, load_run
from kvae_nb.training.session import prepare
from kvae_nb.training.step import train_step

HERE = Path(__file__).parent


def step_seconds(config, data, steps: int = 30) -> float:
    "The median time of a training step."
    trainer, _ = prepare(config)
    batch, found = take(data, torch.arange(config.train.batch_size)), []
    for k in range(steps):
        start = time.perf_counter()
        train_step(trainer, batch, 0.0, k)
        found.append(time.perf_counter() - start)
    return torch.tensor(found).median().item()


def one_arm(demo, decode, args, data, length):
    "A training with so many decoded frames, as long as the others by the clock, and its errors in a gap."
    chosen = dict(decode_frames=decode % length, seed=args.seed, valid_sequences=20, picture_every=0)
    config = replace(demo, train=replace(demo.train, **chosen))
    seconds = step_seconds(config, data.train)
    epochs = max(1, round(60 * args.minutes / (len(data.train) // demo.train.batch_size * seconds)))
    folder = fit(replace(config, train=replace(config.train, epochs=epochs)), tempfile.mkdtemp(), quiet=True)
    metrics, model = json.loads((folder / "metrics.json").read_text()), load_run(folder, "last").model
    errors = imputation_errors(model, data.test, mask_gap(len(data.test), length, 4, 7), particles=0)
    return {
        "decode_frames": decode,
        "step_seconds": round(seconds, 4),
        "epochs": epochs,
        "train_seconds": metrics["seconds"],
        "valid_elbo": round(metrics["history"][-1]["valid"]["elbo"], 3),
        "smoothing": round(errors.smoothing, 5),
        "filtering": round(errors.filtering, 5),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="the .npz file")
    parser.add_argument("--minutes", type=float, default=2.0, help="training time of each arm")
    parser.add_argument("--size", type=int, default=16, help="pixels on a side; the films are made smaller")
    parser.add_argument("--decode", type=int, nargs="+", default=[2, 5, 20])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    tune_cpu()
    demo = replace(PRESETS["demo"], data=replace(PRESETS["demo"].data, path=args.data, size=args.size))
    whole = open_data(demo.data)
    demo = fit_config_to_data(demo, whole)
    data = split(whole, demo.data.test, demo.data.valid, demo.data.split_seed)
    arms = []
    for decode in args.decode:
        arms.append(one_arm(demo, decode, args, data, whole.steps))
        print(arms[-1], flush=True)
    result = {
        "command": "python experiments/decode_frames.py " + " ".join(sys.argv[1:]),
        "seed": args.seed,
        "size": args.size,
        "sequences": len(data.test),
        "gap": 7,
        "machine": f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)",
        "torch": torch.__version__,
        "arms": arms,
    }
    with atomic_write(HERE / "results" / "decode_frames.json") as tmp:
        tmp.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
