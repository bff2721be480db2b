"""Smoothing by particles with and without a look ahead, on the authors' films in the codes of the pretrained `box`.

    python experiments/look_ahead.py --data ../shared/data/box.npz

Films are the last of the test films of the model's own split: it was not trained on them. A gap of 7 or 15 of 20 frames
is hidden. Every arm has some runs with random numbers of their own. Stored for each: the mean over films of the
log-evidence estimate and of its standard deviation between runs; the mean squared error of the hidden a against the
codes of the true frames; the share of particles that the last weights are worth; processor seconds of all runs.
Writes experiments/results/look_ahead.json.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import torch

from kvae_nb.core.files import atomic_write
from kvae_nb.core.runtime import tune_cpu
from kvae_nb.data.films import mask_gap, split
from kvae_nb.data.opening import DataConfig, open_data
from kvae_nb.evaluation.checks import FIRST
from kvae_nb.inference.particle_parts import draw_particle_noise, effective_number
from kvae_nb.inference.particle_smoother import ancestor_paths, look_ahead, particle_smoother, plug_in
from kvae_nb.models.sources import dynamics_source
from kvae_nb.training.pretrained import load_pretrained

RESULT = Path(__file__).parent / "results" / "look_ahead.json"
GAPS = 7, 15


def along_plug_in(source, a, mask, generator):
    "One pass of 128 particles that looks ahead along the plug-in, at a power of .5."
    film, noise = torch.arange(len(a)), draw_particle_noise(len(a), a.shape[1], 128, a.shape[2], generator, a)
    twists = look_ahead(source, plug_in(source, a, mask, film), a, mask, 0.5)
    return ancestor_paths(source, a, mask, film, noise, 0.5, twists, None)


def passes(particles: int, lookahead: bool):
    "The smoother of the library."
    return lambda source, a, mask, generator: particle_smoother(
        source, a, mask, particles=particles, generator=generator, lookahead=lookahead
    )


ARMS = {
    "one pass, 128": passes(128, False),
    "one pass, 256": passes(256, False),
    "along the plug-in, power .5, 128": along_plug_in,
    "two passes of 128, power .02": passes(128, True),
}


def measure(arm, source, a, mask, runs: int) -> dict:
    "One arm at one gap."
    start, log_prob, errors, shares = time.process_time(), [], [], []
    for seed in range(runs):
        paths = arm(source, a, mask, torch.Generator().manual_seed(seed))
        mean = (paths.log_weights.exp()[..., None, None] * paths.a).sum(1)
        errors.append((mean - a)[~mask].square().mean())
        log_prob.append(paths.log_prob)
        shares.append(effective_number(paths.log_weights).mean() / paths.log_weights.shape[1])
    log_prob = torch.stack(log_prob)
    return {
        "log-evidence": round(log_prob.mean().item(), 3),
        "its deviation between runs": round(log_prob.std(0).mean().item(), 3),
        "squared error of a": round(torch.stack(errors).mean().item(), 5),
        "effective share": round(torch.stack(shares).mean().item(), 4),
        "seconds": round(time.process_time() - start, 1),
    }


@torch.no_grad()
def main(args):
    tune_cpu()
    torch.set_num_threads(1)
    model = load_pretrained("box").model
    config = DataConfig(path=args.data, binarize=True)
    test = split(open_data(config), config.test, config.valid, config.split_seed).test
    a = model.encode(test.frames[-args.films :].float() / 255)
    rows = {}
    for gap in GAPS:
        mask, source = mask_gap(len(a), 20, FIRST, gap), dynamics_source(model.dynamics, None)
        rows[str(gap)] = {name: measure(arm, source, a, mask, args.runs) for name, arm in ARMS.items()}
        print(gap, *rows[str(gap)].items(), sep="\n", flush=True)
    found = {
        "command": "python experiments/look_ahead.py --data ../shared/data/box.npz",
        "machine": f"{platform.machine()} CPU, 1 thread",
        "films": args.films,
        "runs": args.runs,
        "gaps": rows,
    }
    with atomic_write(RESULT) as path:
        path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--films", type=int, default=60)
    parser.add_argument("--runs", type=int, default=6)
    main(parser.parse_args())
