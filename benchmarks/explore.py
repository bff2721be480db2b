"""How long a panel of notebooks 55 to 55i takes from a new value to the finished PNG: processor times, which are those
of this program alone, and by the clock, which has what others took as well; `--json FILE` stores them elsewhere.
"""

import argparse
import json
import statistics
import time

import common

common.limit_threads()

import torch

from kvae_nb.app import ball_panel, canvas, chorale_panel, explore, filter_panel, fork_panel
from kvae_nb.training.pretrained import load_pretrained
from kvae_nb.training.pretrained_sequences import load_sequence_model

STORED = common.HERE.parent / "experiments/results/collapse_mlp.json"


def panels():
    "name -> a function of the number of a move that draws the figure after it."
    (model, film), (switching, ball) = (
        (p.model, p.films.frames[0].float() / 255) for p in map(load_pretrained, ("box", "box_switching"))
    )
    world, track = explore.latent_map(model), explore.sample_track()
    land, turned, stored = explore.evidence_landscape(track), explore.turned(ball), json.loads(STORED.read_text())
    with torch.no_grad():
        dreams = model.generate(40, 3, generator=torch.Generator().manual_seed(1))
    at = lambda i: (world.low + (world.high - world.low) * i / 40)[:2].tolist()
    return {
        "point": lambda i: explore.draw_point(model, world, *at(i)),
        "noise": lambda i: explore.draw_tracking(track, land, -4 + i / 10, -2 + i / 15),
        "hidden frames": lambda i: explore.draw_imputed(model, film, [t > i % 20 for t in range(20)]),
        "regimes": lambda i: explore.draw_regimes(switching, ball, turned, i % 20),
        "dreams": lambda i: explore.draw_dreams(dreams, world, i % 40),
        "collapse": lambda i: explore.draw_collapse(stored, "annealed", 100 * (i % 10 + 1)),
    }


def draggable():
    "The same for the panels whose pictures are dragged."
    found = load_pretrained("box")
    model, films = found.model, found.films.frames.float() / 255
    world, track, riddles = explore.latent_map(model), explore.sample_track(), ball_panel.riddles(films)
    chorales = load_sequence_model("chorales")
    roll = chorales.sequences.x[0].bool()
    note = int(roll[12].nonzero().max()) + chorale_panel.LOWEST
    moved = lambda i: chorale_panel.with_moved(roll, 12, note, note - 20 + i)
    gap = lambda i, first: [first <= t < first + 3 + i % 6 for t in range(20)]
    return {
        "gain": lambda i: filter_panel.draw_gain(i / 40, 2.0, 1.0),
        "by hand": lambda i: filter_panel.draw_by_hand(track, -1.7, -2 + i / 15, 8 + i),
        "stroke": lambda i: ball_panel.draw_strokes(model, films[i % 4], gap(i, 6)),
        "guess": lambda i: ball_panel.draw_riddle(model, riddles[i % len(riddles)], (16.0, i / 2)),
        "throw": lambda i: ball_panel.draw_throw(model, ball_panel.Throw(8, 8, 5 + i / 4, 6), 30.0, 5),
        "fork": lambda i: fork_panel.draw_fork(model, world, films[i % 4], gap(i, 5), 64, 12),
        "chorale": lambda i: chorale_panel.draw_chorale(chorales.model, moved(i), roll),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moves", type=int, default=40)
    parser.add_argument("--json", default=str(common.HERE / "results/explore.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    where, draw = common.machine(1), panels() | draggable()
    taken = {name: [] for name in draw}
    # in turn, so that a slow moment of the machine hits all; the first two, which paint the backdrops, are not counted
    for i in range(-2, args.moves):
        for name, f in draw.items():
            begin = time.perf_counter(), time.process_time()
            canvas.png(f(i % args.moves))
            if i >= 0:
                taken[name].append((1e3 * (time.perf_counter() - begin[0]), 1e3 * (time.process_time() - begin[1])))
    spread = lambda v: {"median": statistics.median(v), "min": min(v), "max": max(v)}
    ms = {name: dict(zip(("clock", "processor"), map(spread, zip(*v)))) for name, v in taken.items()}
    found = {
        "command": f"python benchmarks/explore.py --moves {args.moves}",
        "machine": where,
        "versions": common.versions("torch", "matplotlib", "ipywidgets"),
        "moves": args.moves,
        "ms": ms,
    }
    for name, v in ms.items():
        print(
            f"{name:<14} clock: median {v['clock']['median']:5.0f} ms, fastest {v['clock']['min']:5.0f} ms; "
            f"processor: median {v['processor']['median']:4.0f} ms, fastest {v['processor']['min']:4.0f} ms"
        )
    with open(args.json, "w", encoding="utf-8") as file:
        json.dump(found, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
