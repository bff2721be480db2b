"""The preset `best` on films that had no part in its choice.

    python experiments/fresh.py --data ../shared/data/box.npz --seeds 3              # half an hour a seed, one CPU core
    python experiments/fresh.py --data ../shared/data/box.npz --runs RUN RUN RUN     # the same for runs that exist
    already

The preset's settings were chosen by the results on the 500 test films of the file's split 0, so an error measured there
may be a little too small. Here the same preset is trained on split 1 (`--data.split_seed 1`), which draws other 4250
films to learn from, and measured on those of its 500 test films that are neither test nor validation films of split 0.
They were training films while the settings were tried, so no setting was chosen by a result on them, and the models
measured here have not seen them. Beside each mean stands its standard error over films. Stores after every run. Writes
experiments/results/fresh.json.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from pack import command

from kvae_nb.core.errors import InputError
from kvae_nb.core.files import atomic_write
from kvae_nb.core.runtime import tune_cpu
from kvae_nb.data.films import VideoData, mask_gap, split_indices
from kvae_nb.data.opening import open_data
from kvae_nb.evaluation.checks import FIRST, hidden_frames_leak
from kvae_nb.evaluation.imputation import DROPS, GAPS, drop_mask
from kvae_nb.evaluation.scores import held_out_elbo
from kvae_nb.training.loop import fit
from kvae_nb.training.runs import Run, load_run, preset

RESULT = Path(__file__).parent / "results" / "fresh.json"
CHOSEN, FRESH = 0, 1  # seeds of the split on which the settings were chosen, and of the one measured here


def parts(config, n: int, seed: int) -> list[set[int]]:
    "Indices of the films for training, validation and test under a seed of the split."
    return [set(part.tolist()) for part in split_indices(n, config.test, config.valid, seed)]


def fresh_films(config, n: int) -> torch.Tensor:
    "Indices of the test films of the fresh split that were neither test nor validation films of the other."
    _, valid, test = parts(config, n, CHOSEN)
    return torch.tensor(sorted(parts(config, n, FRESH)[2] - valid - test))


@torch.no_grad()
def wrong_pixels(model, data: VideoData, mask: torch.Tensor) -> dict:
    "The share of wrong pixels in hidden frames, by smoothing and filtering, each with its standard error over films."
    shares = {"smoothing": [], "filtering": []}
    for films, seen in zip(data.frames.split(50), mask.split(50)):
        x = films.float() / 255
        found = model.impute(x, seen, particles=0)  # particles have a script of their own, particles.py
        for how, beliefs in (("smoothing", found.smoothed), ("filtering", found.filtered)):
            shares[how].append(((beliefs.frames > 0.5) != (x > 0.5)).double().mean((2, 3, 4)))
    hidden = (~mask).double().numpy()
    means = {how: ratio((torch.cat(v).numpy() * hidden).sum(1), hidden.sum(1)) for how, v in shares.items()}
    return means | {"frames": int(hidden.sum())}


def ratio(total: np.ndarray, count: np.ndarray) -> dict:
    "Sum of totals over sum of counts, and its standard error when the films are the independent draws (delta method)."
    mean, n = total.sum() / count.sum(), len(total)
    error = (total - mean * count).std(ddof=1) / np.sqrt(n) / count.mean()
    return {"mean": round(float(mean), 5), "standard_error": round(float(error), 5)}


def record(run: Run, whole: VideoData) -> dict:
    "What is stored about a run. Raises `InputError` if it was trained on another split, or has not finished."
    config, about = run.config.data, json.loads((run.folder / "metrics.json").read_text())
    if config.split_seed != FRESH or about["status"] != "finished":
        raise InputError(
            f"{run.folder} has split_seed {config.split_seed} and is {about['status']}; a finished run with "
            f"{FRESH} is needed."
        )
    chosen = fresh_films(config, len(whole))
    if parts(config, len(whole), FRESH)[0] & set(chosen.tolist()):
        raise InputError("A film to be measured is among the training films; this must not be.")
    data, T = whole.subset(chosen), whole.steps
    gaps, drops = (
        {str(n): mask_gap(len(data), T, FIRST, n) for n in GAPS},
        {str(p): drop_mask(len(data), T, p) for p in DROPS},
    )
    return {
        "command": command(run.config),
        "seed": run.config.train.seed,
        "epoch": run.progress.epoch,
        "train_seconds": about["seconds"],
        "device": about["device"],
        "machine": about["machine"],
        "films": len(data),
        "elbo_per_frame": round(held_out_elbo(run.model, data).per_frame, 3),
        "leak": hidden_frames_leak(run.model, data.frames[:4].float() / 255, mask_gap(4, T, FIRST, 7)),
        "imputation": {
            kind: {n: wrong_pixels(run.model, data, m) for n, m in masks.items()}
            for kind, masks in (("gap", gaps), ("drop", drops))
        },
    }


def store(row: dict, data: Path):
    "Writes the result file with this row, atomically; it takes the place of an earlier one of the same command."
    known = json.loads(RESULT.read_text())["runs"] if RESULT.exists() else []
    runs = sorted([r for r in known if r["command"] != row["command"]] + [row], key=lambda r: r["seed"])
    made_by = f"python experiments/fresh.py --data {data.name} --seeds {len(runs)}"
    content = {
        "command": made_by,
        "data": data.name,
        "torch": torch.__version__,
        "films": "test films of split 1 that are neither test nor validation films of split 0",
        "runs": runs,
    }
    with atomic_write(RESULT) as tmp:
        tmp.write_text(json.dumps(content, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path, help="the .npz file of the paper's box generator")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", default="runs", help="where run folders are kept")
    parser.add_argument("--runs", nargs="*", default=[], help="run folders that exist already")
    args = parser.parse_args()
    tune_cpu()
    torch.set_num_threads(1)
    start = preset("best", "kvae")
    start = replace(start, data=replace(start.data, path=str(args.data), split_seed=FRESH))
    whole = open_data(start.data)
    for item in args.runs or range(args.seeds):
        folder = item if args.runs else fit(replace(start, train=replace(start.train, seed=item, threads=1)), args.out)
        store(r := record(load_run(folder), whole), args.data)
        errors = {n: (e["smoothing"]["mean"], e["filtering"]["mean"]) for n, e in r["imputation"]["gap"].items()}
        print(r["seed"], r["films"], r["elbo_per_frame"], errors, flush=True)


if __name__ == "__main__":
    main()
