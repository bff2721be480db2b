"""Counts the chorales of music21, scores trivial predictions on them, and compares them with the standard file.

    python experiments/chorales.py [--standard jsb-chorales-quarter.json]

Without the standard file, what is stored about it stays as it is.
"""

import argparse
import time
from difflib import SequenceMatcher

import numpy as np
from shared import begin, store, stored

from kvae_nb.data.chorales import SETS, chorales, read_chords
from kvae_nb.evaluation.baselines import markov


def pieces(data):
    "The rolls of a data set, each of its own length."
    return [x[:n].bool().numpy() for x, n in zip(data.x, data.lengths.tolist())]


def counted(data) -> dict:
    "Lengths and sounding keys of each set."
    found = {}
    for part, name in enumerate(SETS):
        mine = [roll for roll, p in zip(pieces(data), data.part.tolist()) if p == part]
        roll = np.concatenate(mine)
        keys = [int(k) for k in roll.sum(0)]
        found[name] = {"frames": len(roll), "keys": keys, "lengths": [len(r) for r in mine]}
    return found


def trivial(data) -> dict:
    "Nats a step in the test set of a constant probability of each key, and of a Markov chain for each."
    train, test = (data.batch((data.part == part).nonzero()[:, 0]) for part in (0, 2))
    score = lambda memory: markov(train, test, memory)
    mean = lambda e: round(float(-e.total.sum() / data.lengths[data.part == 2].sum()), 3)
    return {"constant": mean(score(False)), "markov": mean(score(True))}


def repeated(data) -> float:
    "The share of steps in the training set that equal the step before."
    mine = [roll for roll, p in zip(pieces(data), data.part.tolist()) if p == 0]
    return round(float(np.concatenate([(r[1:] == r[:-1]).all(1) for r in mine]).mean()), 3)


def agreement(mine: list, theirs: list) -> float:
    "The share of the steps of both pieces that match in order (2 × matches / steps of both)."
    blocks = SequenceMatcher(None, mine, theirs, autojunk=False).get_matching_blocks()
    return 2 * sum(b.size for b in blocks) / (len(mine) + len(theirs))


def compared(data, standard) -> dict:
    "For each chorale, its agreement with the piece of the standard set that is most alike, in the same set."
    code = lambda roll: [row.tobytes() for row in np.packbits(roll, axis=1)]
    ours, others = [code(r) for r in pieces(data)], [code(r) for r in pieces(standard)]
    best, longer = [], []
    for mine, part in zip(ours, data.part.tolist()):
        there = [k for k, p in enumerate(standard.part.tolist()) if p == part and set(others[k]) & set(mine)]
        found = max((agreement(mine, others[k]), k) for k in there)
        best.append(round(found[0], 3))
        longer.append(len(others[found[1]]) - len(mine))
    return {"agreement": best, "longer": longer}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--standard", help="the standard JSB file (JSON); it is never stored")
    standard = parser.parse_args().standard
    begin()
    began = time.time()
    data, fine = chorales(cache=False), chorales("eighth")
    seconds = round(time.time() - began)
    content = {"command": "python experiments/chorales.py --standard jsb-chorales-quarter.json", "seed": None}
    content |= {
        "seconds_to_read": seconds,
        "sets": counted(data),
        "eighth": {n: s["frames"] for n, s in counted(fine).items()},
    }
    content |= {"repeated": {"quarter": repeated(data), "eighth": repeated(fine)}, "trivial": trivial(data)}
    if standard:
        theirs = read_chords(standard)
        content |= {"standard": compared(data, theirs) | {"trivial": trivial(theirs), "repeated": repeated(theirs)}}
    elif "standard" in stored("chorales"):
        content |= {"standard": stored("chorales")["standard"]}
    store("chorales", content, indent=None)
    print({k: v for k, v in content.items() if k not in ("sets", "standard")})


if __name__ == "__main__":
    main()
