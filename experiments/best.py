"""The preset `best`: imputation and bound on videos of the paper's own generator, or on one of our simulator's worlds.

    python experiments/best.py --data ../shared/data/box.npz --seeds 1        # ten minutes a seed on one CPU core; stores after every run
    python experiments/best.py --world gravity --seeds 1
    python experiments/best.py --runs A B …                                   # records runs that `kvae train --preset best` has made instead

Everything is measured on the held-out tenth, by gaps and by drop rates. Also stored is how the bound moves over the last epochs,
and how far the learned a is from an affine image of the true position: a straight path must look straight in a, or no linear dynamics can follow it.
Writes experiments/results/best.json.
"""

import argparse
import json
import platform
from dataclasses import replace
from pathlib import Path

import torch
from switching_box import measure, source

from kvae_nb.core import atomic_write, tune_cpu
from kvae_nb.training import fit, load_run, preset, run_data

RESULT = Path(__file__).parent / "results" / "best.json"
STEP = 0.2  # of the paper's generator, whose frame at t shows the state at t - 1


def positions(data) -> torch.Tensor:
    "True positions of the ball in the frames, pixels [batch, time, 2]."
    s = data.state.float()
    return s[..., :2] if data.contacts is not None else torch.cat([s[:, :1, :2] - STEP * s[:, :1, 2:4], s[:, :-1, :2]], 1)


@torch.no_grad()
def bent(model, data) -> float:
    "Root mean square distance in pixels between the true positions and the best affine reading of them from a."
    a = torch.cat([model.encode(data.frames[i : i + 100].float() / 255) for i in range(0, len(data), 100)]).flatten(0, 1).double()
    inputs, p = torch.cat([a, torch.ones_like(a[:, :1])], 1), positions(data).flatten(0, 1).double()
    return round((p - inputs @ torch.linalg.lstsq(inputs, p).solution).square().sum(1).mean().sqrt().item(), 3)


def record(folder: Path) -> dict:
    "Everything that is stored about a run."
    run, row = load_run(folder), measure(folder)
    test, history = run_data(run).test, json.loads((Path(folder) / "metrics.json").read_text())["history"]
    world = source(run.config.data.path) if run.config.data.path else run.config.data.world
    return row | {"data": world, "bent_pixels": bent(run.model, test), "last_valid_elbo_per_frame": [round(e["valid"]["elbo"], 3) for e in history[-5:]]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="", help="the .npz file; none: simulated videos")
    parser.add_argument("--world", default="box", help="which simulated world")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", nargs="*", default=[], help="run folders that exist already")
    args = parser.parse_args()
    tune_cpu()
    torch.set_num_threads(1)
    stored = json.loads(RESULT.read_text())["runs"] if RESULT.exists() else []
    done = {(r["data"], r["seed"]) for r in stored}
    start = preset("best")
    for item in [Path(r) for r in args.runs] or range(args.seeds):
        if isinstance(item, Path):
            config = load_run(item).config
            if replace(config.model, dim_u=0) != start.model or replace(config.train, seed=0, threads=0) != start.train:
                raise SystemExit(f"{item} was not made by the preset best: its config.yaml differs.")
            folder = item
        elif (Path(args.data).name or args.world, item) in done:
            continue
        else:
            folder = fit(replace(start, data=replace(start.data, path=args.data, world=args.world), train=replace(start.train, seed=item)))
        stored.append(record(folder))
        content = {"command": "kvae train --preset best --data FILE --seed SEED; python experiments/best.py --runs FOLDER", "machine": f"{platform.machine()} CPU, 1 thread", "torch": torch.__version__, "runs": stored}
        with atomic_write(RESULT) as tmp:
            tmp.write_text(json.dumps(content, indent=1) + "\n")
        r = stored[-1]
        print(r["data"], r["seed"], r["elbo_per_frame"], r["bent_pixels"], {n: (e["smoothing"], e["filtering"]) for n, e in r["imputation"]["gap"].items()}, flush=True)


if __name__ == "__main__":
    main()
