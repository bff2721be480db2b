"""Policies for CartPole that were trained inside a model, judged in real games (notebook 40b).

python experiments/play.py --seeds 0 1 2
"""

import argparse
import time

import torch
from shared import begin, missing

from kvae_nb.training.play import PlayConfig, learn_to_play, score
from kvae_nb.worlds.agents import RandomAgent

JUDGED = 20261129  # seed of the games that decide nothing


def measured(row: dict) -> dict:
    "Trains with this seed, then plays 100 new games with the best choices, with drawn ones, and at random."
    start = time.process_time()
    play = learn_to_play(PlayConfig(seed=row["seed"]), tell=lambda line: print(line, flush=True))
    seconds = time.process_time() - start
    agents = {"greedy": play.agent(), "drawn": play.agent(greedy=False), "random": RandomAgent(play.env.actions)}
    found = {}
    for name, agent in agents.items():
        s = score(play.env, agent, 100, generator=torch.Generator().manual_seed(JUDGED))
        found[name] = {"mean": round(s.mean().item(), 2), "se": round(s.std().item() / 10, 2), "least": s.min().item()}
    rounds = [[r.moves, *(round(v, 3) for v in r[1:])] for r in play.rounds]
    return {"moves": play.moves, "cpu_seconds": round(seconds, 1), "scores": found, "rounds": rounds}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = parser.parse_args().seeds
    begin()
    head = {
        "command": "python experiments/play.py --seeds 0 1 2 3 4",
        "columns": ["moves", "bound", "dreamed", "score"],
    }
    missing("play", [{"seed": s} for s in seeds], measured, head)
