"""What filling in hidden frames costs: films with eleven hidden frames, by plugged-in weights and by 256 particles.

    python benchmarks/imputation.py               # 500 films; writes benchmarks/results/imputation.json
    python benchmarks/imputation.py --films 64    # fewer films; --json FILE stores the result

The pretrained model of the box. Processor time of one process, one thread; shares of the operations from the profiler
of PyTorch, without the operations that each of them calls.
"""

import argparse
import os
import sys
import time

from common import HERE, limit_threads, machine, table, versions, write_json
from step_profile import part_of

PARTICLES, GAP = 256, (4, 15)


def measured(model, x, mask, particles: int) -> dict:
    "Processor seconds of the imputation of these films, the largest operations and the shares of the parts."
    began, wall = time.process_time(), time.perf_counter()
    with torch.no_grad():
        model.impute(x, mask, particles=particles)
    found = {"cpu": time.process_time() - began, "wall": time.perf_counter() - wall}
    some = slice(0, min(len(x), 16))  # a profile of all films would be too long to keep
    with torch.no_grad(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        model.impute(x[some], mask[some], particles=particles)
    each = {e.key: e.self_cpu_time_total for e in seen.key_averages()}
    whole, parts = sum(each.values()), {}
    for key, t in each.items():
        parts[part_of(key)] = parts.get(part_of(key), 0.0) + t / whole
    largest = sorted(each.items(), key=lambda item: -item[1])[:10]
    by_size = lambda pairs: dict(sorted(pairs.items(), key=lambda item: -item[1]))
    return found | {"shares": by_size(parts), "largest": {k: t / whole for k, t in largest}}


def main(args):
    from kvae_nb import load_pretrained
    from kvae_nb.core.runtime import tune_cpu
    from kvae_nb.data.films import from_simulation, mask_gap
    from kvae_nb.worlds.balls import simulate

    tune_cpu()
    result = {
        "command": "python benchmarks/imputation.py " + " ".join(sys.argv[1:]),
        "machine": machine(1),
        "versions": versions("kvae_nb", "torch", "numpy"),
        "films": args.films,
        "particles": PARTICLES,
        "hidden": list(GAP),
        "ways": {},
    }
    model = load_pretrained("box").model.eval()
    x = from_simulation(simulate(sequences=args.films, steps=20, seed=9, workers=1)).frames.float() / 255
    mask = mask_gap(len(x), 20, *GAP)
    with torch.no_grad():
        model.impute(x[:2], mask[:2], particles=4)  # compiles what has to be compiled
    for name, particles in (("plugged in", 0), ("by particles", PARTICLES)):
        result["ways"][name] = found = measured(model, x, mask, particles)
        title = f"{args.films} films, {name}: {found['cpu']:.2f} s of processor time"
        print(table(title, ["", "share"], [[k, f"{v:.1%}"] for k, v in found["shares"].items()]), flush=True)
        print(table("the largest operations", ["", "share"], [[k, f"{v:.1%}"] for k, v in found["largest"].items()]))
    result["machine"]["load_at_end"] = os.getloadavg()[0]
    if args.json:
        write_json(args.json, result)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--films", type=int, default=500, help="how many")
    parser.add_argument("--json", help="where the results go (default, for 500 films: benchmarks/results)")
    args = parser.parse_args()
    args.json = args.json or (str(HERE / "results" / "imputation.json") if args.films == 500 else None)
    limit_threads(1)
    import torch

    torch.set_num_threads(1)
    main(args)
