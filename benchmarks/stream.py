"""A KVAE on a stream: frames per second on one core, one frame at a time, beside the batch filter on the same film.

    python benchmarks/stream.py

The batch filter encodes the whole film in one call and runs the filter over it; nothing is decoded unless the row says
so, in either. Before anything is timed, both must agree on the state of every frame. Frames per second are given twice:
by the clock, and by the processor time of this process, of which there is only one thread; the second is what the core
would do if it were not shared with others.
"""

import argparse
import statistics
import sys
import time

from common import HERE, last_cpu, limit_threads, machine, significant, table, versions, write_json

FRAMES = 200


def film(data, frames: int):
    "One long film: the simulated ball goes on where the data's films end."
    return (
        data.open_data(data.DataConfig(sequences=1, steps=frames, test=0, valid=0, binarize=True)).frames.float() / 255
    )


def contenders(model, x):
    "Name and function of each row, and the row it is compared with."
    from kvae_nb.inference.batched import observe
    from kvae_nb.models.dynamics import filter_dynamics

    half = torch.arange(x.shape[1]) % 2 == 0
    frames, hidden = list(x[0]), [f if m else None for f, m in zip(x[0], half)]

    def stream(frames, look=False):
        for out in model.filter_stream(frames):
            if look:
                out.next_frame  # is decoded when it is looked at

    def batch(mask=None, decode=False):
        with torch.no_grad():
            run = filter_dynamics(model.dynamics, model.encode(x), None if mask is None else mask[None])
            a = observe(run.system, run.filtered.mean, run.filtered.cov, noise=False)
            return run, a, model.decode(a.mean) if decode else None

    return {
        "stream": (lambda: stream(frames), "batch filter"),
        "stream, every other frame": (lambda: stream(hidden), "batch filter, every other frame"),
        "stream, next frame decoded": (lambda: stream(frames, True), "batch filter, decoded"),
        "batch filter": (batch, "batch filter"),
        "batch filter, every other frame": (lambda: batch(half), "batch filter, every other frame"),
        "batch filter, decoded": (lambda: batch(decode=True), "batch filter, decoded"),
    }


def agreement(model, x) -> float:
    "The largest difference between the two filters' states, relative to the largest value."
    with torch.no_grad():
        mean = model.impute(x).filtered.z.mean[0]
    found = torch.stack([out.z.mean for out in model.filter_stream(x[0])])
    return ((found - mean).abs().max() / mean.abs().max()).item()


def race(rows, args) -> dict:
    "Frames per second of each contender, in turn, by the clock and by the processor's time."
    times = {}
    for do, _ in rows.values():
        do()
    seen = {name: [] for name in rows}
    for _ in range(args.rounds):
        for name, (do, _) in rows.items():
            wall, own = time.perf_counter(), time.process_time()
            do()
            seen[name].append((time.perf_counter() - wall, time.process_time() - own))
    wall, own = ({name: statistics.median(v[k] for v in found) for name, found in seen.items()} for k in (0, 1))
    for name, (_, other) in rows.items():
        times[name] = {
            "frames_per_second": args.frames / wall[name],
            "frames_per_processor_second": args.frames / own[name],
            "best_frames_per_second": args.frames / min(w for w, _ in seen[name]),
            "times_batch": own[name] / own[other],
        }
    return times


def show(times, args):
    "Prints the table."
    speeds = ("frames_per_second", "best_frames_per_second", "frames_per_processor_second")
    shown = [[n, *(f"{r[k]:,.0f}" for k in speeds), f"×{significant(r['times_batch'], 3)}"] for n, r in times.items()]
    head = ["", "frames/s", "best round", "frames per processor second", "of the batch filter's time"]
    print(table(f"weights {args.weights}, a film of {args.frames} frames", head, shown))


def main(args):
    model, x = load_pretrained(args.weights).model, film(data, args.frames)
    results = {
        "command": "python benchmarks/stream.py " + " ".join(sys.argv[1:]),
        "machine": machine(1),
        "versions": versions("kvae_nb", "torch", "numpy"),
        "settings": {
            "weights": args.weights,
            "frames": args.frames,
            "size": x.shape[-1],
            "rounds": args.rounds,
            "parameters": sum(p.numel() for p in model.parameters()),
        },
        "agreement": agreement(model, x),
        "times": {},
    }
    if results["agreement"] > 1e-3:
        raise SystemExit("the two filters differ; a comparison would mean nothing.")
    rows = contenders(model, x)
    results["times"] = race(rows, args)
    print(
        f"{results['machine']['processor']}, one core, load {results['machine']['load_at_start']:.2f}; states "
        f"agree to {results['agreement']:.0e}"
    )
    show(results["times"], args)
    if args.json:
        write_json(args.json, results)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="box", help="pretrained weights (default: box)")
    parser.add_argument("--frames", type=int, default=FRAMES, help="length of the film")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of A B C A B C …")
    parser.add_argument(
        "--json",
        metavar="FILE",
        default=str(HERE / "results" / "stream.json"),
        help="where the results go; empty: nowhere",
    )
    return parser.parse_args()


if __name__ == "__main__":
    limit_threads(1, last_cpu())
    args = arguments()
    import torch

    torch.set_num_threads(1)
    from kvae_nb import data
    from kvae_nb.core.runtime import tune_cpu
    from kvae_nb.training.pretrained import load_pretrained

    tune_cpu()
    main(args)
