"""What a model composes that was trained on the chorales, beside chorales it never saw and chords of random keys.

    python experiments/sequences.py chorales --kinds srnn --seeds 1
    python experiments/compose.py runs/chorales_srnn_0/best.safetensors

Two hundred pieces of 64 quarter notes are drawn, freely and without a beginning, at two temperatures; then a chorale of
our own is continued two hundred times. Stored are five numbers about the new steps, and the first pieces of each,
whichever they are.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from shared import begin, store

from kvae_nb.data.chorales import chorales
from kvae_nb.data.music import CHORALE, chords_of, notes_per_step, pitch_class_distance, roll_of
from kvae_nb.models.sequence import SequenceVAE
from kvae_nb.models.sequence_parts import SequenceConfig
from kvae_nb.training.checkpoints import load_weights, read_checkpoint

MODEL = SequenceConfig("srnn", emission="bernoulli(88)", dim_z=32, context_drop=0.3, dropout=0.3)
COUNT, STEPS, KEPT, SEED = 200, 64, 2, 0
OWN = ("notes_per_step", "pitch_class_distance", "repeated")  # what is no comparison with the training set


def codes(roll: np.ndarray) -> list[bytes]:
    "Each chord as something that can be compared."
    return [row.tobytes() for row in np.packbits(roll, axis=1)]


def longest_shared(pieces: list, others: list) -> int:
    "How many steps the longest passage has that one of the pieces and one of the others have in common."
    places, most = {}, 0
    for k, other in enumerate(others):
        for t, chord in enumerate(other):
            places.setdefault(chord, []).append((k, t))
    for piece in pieces:
        runs = {}  # where a passage that ends at this step ends in the others, and how long it is
        for chord in piece:
            runs = {(k, t): runs.get((k, t - 1), 0) + 1 for k, t in places.get(chord, ())}
            most = max(most, *runs.values(), 0)
    return most


def described(pieces: list[np.ndarray], train: list[np.ndarray]) -> dict:
    "Five numbers about pieces; the last two, like the second, compare them with the training set."
    roll, known = np.concatenate(pieces), {c for piece in train for c in codes(piece)}
    return {
        "notes_per_step": round(notes_per_step(roll), 3),
        "pitch_class_distance": round(pitch_class_distance(roll, np.concatenate(train)), 4),
        "repeated": round(float(np.concatenate([(p[1:] == p[:-1]).all(1) for p in pieces]).mean()), 3),
        "known_chords": round(float(np.mean([c in known for c in codes(roll)])), 3),
        "longest_shared": longest_shared(list(map(codes, pieces)), list(map(codes, train))),
    }


def by_chance(train: list[np.ndarray]) -> list[np.ndarray]:
    "As many pieces in which every key sounds as often as in the training set, independently of everything."
    share = np.concatenate(train).mean(0)
    return list(np.random.default_rng(SEED).random((COUNT, STEPS, len(share))) < share)


@torch.no_grad()
def drawn(model: SequenceVAE, beginning: np.ndarray | None = None, temperature: float = 1.0) -> list[np.ndarray]:
    "New steps of many pieces, with a beginning or without."
    start = None if beginning is None else torch.from_numpy(beginning).float().expand(COUNT, -1, -1)
    steps = STEPS - (0 if beginning is None else len(beginning))
    chance = torch.Generator().manual_seed(SEED)
    found = model.generate(steps, COUNT, x=start, generator=chance, temperature=temperature)
    return list(found.frames[:, -steps:].bool().numpy())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path, help="best.safetensors of a training")
    weights = parser.parse_args().weights
    begin()
    began = time.process_time()
    data = chorales()
    sets = [[x[:n].bool().numpy() for x, n in zip(d.x, d.lengths)] for d in (data[data.part == p] for p in (0, 2))]
    model = SequenceVAE(MODEL)
    tensors, progress = read_checkpoint(weights)
    load_weights(model, tensors)
    model.eval()
    pieces = {
        "composed": drawn(model),
        "composed, temperature 0.5": drawn(model, temperature=0.5),
        "continued": drawn(model, roll_of(np.array(CHORALE.split(), int).reshape(-1, 4).tolist())),
    }
    content = {
        "command": "python experiments/compose.py runs/chorales_srnn_0/best.safetensors",
        "seed": SEED,
        "seconds": round(time.process_time() - began),
        "epoch": progress.epoch,
        "valid": round(progress.best, 3),
        "numbers": {
            "training": {k: v for k, v in described(sets[0], sets[0]).items() if k in OWN},
            "test": described(sets[1], sets[0]),
            **{name: described(several, sets[0]) for name, several in pieces.items()},
            "chance": described(by_chance(sets[0]), sets[0]),
        },
        "pieces": {name: [chords_of(piece) for piece in several[:KEPT]] for name, several in pieces.items()},
    }
    store("composed", content, indent=None)
    print(content["numbers"])


if __name__ == "__main__":
    main()
