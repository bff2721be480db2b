"""Particles for hidden frames: a loop over particles, all at once, with and without shared rows, and the plug-in.

    python benchmarks/particles.py

Films are the first of the simulator's test films in the codes of the pretrained `box`; steps 5 to 11 of 20 are hidden.
Times are processor seconds of this process with one thread, the least of some rounds; the loop over particles is timed
on a few films and particles and given per film and particle like the others.
"""

import argparse
import time

from common import HERE, limit_threads, machine, versions, write_json

GAP = slice(4, 11)


def seconds(function, rounds: int) -> float:
    "The least processor time of some rounds."
    taken = []
    for _ in range(rounds):
        start = time.process_time()
        function()
        taken.append(time.process_time() - start)
    return min(taken)


class Source:
    "The systems of a model's dynamics along a path."

    def __init__(self, dynamics):
        self.dynamics, self.Q, self.R = dynamics, dynamics.Q(), dynamics.R()
        self.mean1, self.cov1 = dynamics.mean1, dynamics.cov1

    def start(self, films, like):
        return self.dynamics.network.start(films, like)

    def step(self, previous, memory, t, film):
        previous = previous if t else self.dynamics.a0.expand(len(previous), -1)
        out, memory = self.dynamics.network.step(previous, memory)
        alpha, _ = self.dynamics.split(out)
        return StepSystem(mix(alpha, self.dynamics.A), mix(alpha, self.dynamics.C)), memory

    def select(self, memory, rows):
        return tuple(m[:, rows] for m in memory)


def one_by_one(source, a, mask, noise):
    "A loop over films and particles."
    for film in range(len(a)):
        for k in range(noise.a.shape[2]):
            single = ParticleNoise(noise.a[:, :, k : k + 1], noise.resample, noise.backward[:, :, k : k + 1])
            particle_filter(source, a[film : film + 1], mask[film : film + 1], single)


def unshared(source, a, mask, noise):
    "All particles from the first step on, although they are equal until the first hidden one."
    cloud = spread(source, start_cloud(source, len(a), a), noise.a.shape[2])
    film = torch.arange(len(a))
    for t in range(a.shape[1]):
        cloud, _ = resample(source, cloud, noise.resample[:, t])
        cloud = step_cloud(source, cloud, t, film, a[:, t], mask[:, t], noise.a[:, t]).cloud


def contenders(model, a, mask, particles: int):
    "Name, function, films and particles of each row."
    source, few = Source(model.dynamics), (2, 8)
    noise, small = (draw_particle_noise(1, a.shape[1], n, a.shape[2]) for n in (particles, few[1]))
    films, per = len(a), max(4096 // particles, 1)

    def no_sharing():
        for x, m in zip(a.split(per), mask.split(per)):
            unshared(source, x, m, noise)

    return {
        "loop over particles": (lambda: one_by_one(source, a[: few[0]], mask[: few[0]], small), few),
        "all at once, no shared rows": (no_sharing, (films, particles)),
        "evidence": (lambda: particle_evidence(source, a, mask, noise), (films, particles)),
        "filter": (lambda: particle_filter(source, a, mask, noise), (films, particles)),
        "smoother by ancestors": (lambda: particle_smoother(source, a, mask, noise), (films, particles)),
        "smoother with a look ahead": (
            lambda: particle_smoother(source, a, mask, noise, lookahead=True),
            (films, particles),
        ),
        "plug-in": (lambda: filter_masked(model.dynamics, a, mask), (films, 1)),
    }


def main(args):
    with torch.no_grad():
        model = load_pretrained("box").model
        data = open_data(DataConfig(sequences=args.films, steps=20, test=0, valid=0, binarize=True))
        a = model.encode(data.frames.float() / 255)
        mask = torch.ones(a.shape[:2], dtype=torch.bool)
        mask[:, GAP] = False
        rows = {}
        for name, (function, (films, particles)) in contenders(model, a, mask, args.particles).items():
            taken = seconds(function, args.rounds)
            rows[name] = {"seconds": round(taken, 3), "films": films, "particles": particles}
            rows[name]["microseconds per film and particle"] = round(1e6 * taken / films / particles, 1)
    least = rows["filter"]["microseconds per film and particle"]
    for row in rows.values():
        row["times the filter"] = round(row["microseconds per film and particle"] / least, 2)
    results = {
        "command": f"python benchmarks/particles.py --films {args.films} --particles {args.particles}",
        "machine": machine(1),
        "versions": versions("kvae_nb", "torch", "numpy"),
        "rows": rows,
    }
    print(*(f"{name}: {row}" for name, row in rows.items()), sep="\n")
    write_json(HERE / "results" / "particles.json", results)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--films", type=int, default=200)
    parser.add_argument("--particles", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    limit_threads(1)
    import torch

    from kvae_nb.core.runtime import tune_cpu
    from kvae_nb.data.opening import DataConfig, open_data
    from kvae_nb.inference.particle_parts import ParticleNoise, draw_particle_noise
    from kvae_nb.inference.particle_smoother import particle_smoother
    from kvae_nb.inference.particles import (
        StepSystem,
        particle_evidence,
        particle_filter,
        resample,
        spread,
        start_cloud,
        step_cloud,
    )
    from kvae_nb.models.dynamics import filter_masked, mix
    from kvae_nb.training.pretrained import load_pretrained

    tune_cpu()
    main(args)
