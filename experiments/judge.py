"""Judges of the real Sprites: trained on the 1000 training characters, tested on the 296 of the original test set.

    python experiments/judge.py --sheets ../shared/data/sprites_parts.npz [--runs FOLDER]

Trains the judges that results/judge.json lacks; with --runs, stores that of seed 0 as FOLDER/judge_SIZE.safetensors.
The sheets are art of the Liberated Pixel Cup, CC-BY-SA 3.0.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from shared import begin, missing

from kvae_nb.data.factors import Factor
from kvae_nb.data.films import VideoData
from kvae_nb.data.sheets import read_sheets
from kvae_nb.evaluation.judge import accuracies, save_judge, train_judge
from kvae_nb.worlds.sprites import compose, half_size, looks_of, original_characters

COMMAND = "python experiments/judge.py --sheets ../shared/data/sprites_parts.npz"
FACTORS = (*(Factor(n, 6, True) for n in ("body", "bottom", "top", "hair")), Factor("motion", 9, False))
WANTED = [{"size": size, "seed": seed} for size, seed in ((32, 0), (64, 0), (32, 1), (32, 2))]
STEPS, CLIPS, TESTED = 600, 3000, 1000


def clips(sheets, characters, size: int, count: int, seed: int) -> VideoData:
    "So many clips of these characters in random motions."
    rng = np.random.default_rng(seed)
    looks, motion = looks_of(rng.choice(characters, count)), rng.integers(9, size=count)
    parts = []
    for start in range(0, count, 250):
        films = compose(sheets, looks[start : start + 250], motion[start : start + 250])
        parts.append(films if size == 64 else half_size(films))
    frames = torch.from_numpy(np.concatenate(parts)).movedim(-1, 2).contiguous()
    return VideoData(frames, labels=torch.from_numpy(np.column_stack([looks, motion])), factors=FACTORS)


def measured(row: dict, sheets, runs: Path | None) -> dict:
    "Accuracies on characters that were not in training, and CPU seconds of the training."
    people, (size, seed) = original_characters(), row.values()
    train, test = (clips(sheets, c, size, n, k) for c, n, k in ((people.train, CLIPS, 1), (people.test, TESTED, 2)))
    began = time.process_time()
    judge = train_judge(train, seed, STEPS)
    seconds = time.process_time() - began
    if runs is not None and seed == 0:
        save_judge(judge, runs / f"judge_{size}.safetensors")
    return {"right": accuracies(judge, test), "cpu_seconds": round(seconds, 1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sheets", default="../shared/data/sprites_parts.npz", help="the part sheets")
    parser.add_argument("--runs", type=Path, help="where the judges of seed 0 are stored")
    given = parser.parse_args()
    begin()
    sheets = read_sheets(given.sheets)
    head = {"command": COMMAND, "steps": STEPS, "clips": CLIPS, "tested": TESTED}
    missing("judge", WANTED, lambda row: measured(row, sheets, given.runs), head)


if __name__ == "__main__":
    main()
