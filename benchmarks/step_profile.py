"""Where the time of one training step goes: shares of the processor time of its parts, and its floor beside them.

    python benchmarks/step_profile.py              # preset paper; writes benchmarks/results/step_profile.json
    python benchmarks/step_profile.py --steps 3    # fewer steps, prints only

The profiler of PyTorch counts the processor time of every operation in one thread, without that of the operations it
calls. The floor is the one of training_step.py: the multiply-adds of the convolutions and the linear layers beside them
at the speed of a large matrix product, measured between the steps of the same process.
"""

import argparse
import os
import statistics
import sys
import time

from common import HERE, limit_threads, machine, table, versions, write_json

PARTS = {  # what is shown: beginnings of the names of operations, in this order
    "convolutions": ("aten::mkldnn_conv", "aten::convolution", "aten::_convolution", "aten::thnn", "aten::slow_conv"),
    "products of matrices": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::matmul", "aten::linear"),
    "recurrent network": ("aten::mkldnn_rnn", "aten::lstm", "aten::_thnn", "aten::gru"),
    "the filter": ("Evidence",),
    "layout and copies": ("aten::copy_", "aten::clone", "aten::cat", "aten::to", "aten::_to_copy", "aten::contiguous"),
    "activations and losses": ("aten::relu", "aten::threshold", "aten::clamp", "aten::binary", "aten::sigmoid"),
    "optimiser and clipping": ("aten::_foreach", "aten::_fused", "Optimizer"),
    "memory": ("aten::empty", "aten::zero", "aten::fill", "aten::new_", "aten::resize"),
}


def part_of(name: str) -> str:
    "The part an operation belongs to."
    bare = name.removesuffix("Backward0").removesuffix("Backward")
    return next((part for part, starts in PARTS.items() if bare.startswith(starts)), "all other operations")


def timed_steps(step, data, batch: int, steps: int, speed) -> tuple[list, list]:
    "Processor seconds of each step, and of a large product of matrices between them, in turn."
    taken, products = [], []
    for k in range(steps):
        frames = data[(torch.arange(batch) + k * batch) % len(data)]
        began = time.process_time()
        step(frames)
        taken.append(time.process_time() - began)
        products.append(speed())
    return taken, products


def product_speed(size: int = 1024) -> float:
    "FLOP per processor second of a product of matrices."
    A, B = torch.randn(size, size), torch.randn(size, size)
    began = time.process_time()
    A @ B
    return 2 * size**3 / (time.process_time() - began)


def profiled(step, data, batch: int, steps: int) -> dict[str, float]:
    "Shares of the processor time of the parts, the largest first."
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        for k in range(steps):
            step(data[(torch.arange(batch) + k * batch) % len(data)])
    times = {}
    for event in found.key_averages():
        part = part_of(event.key)
        times[part] = times.get(part, 0.0) + event.self_cpu_time_total
    whole = sum(times.values())
    return {part: t / whole for part, t in sorted(times.items(), key=lambda x: -x[1])}


def main(args):
    import training_step as steps

    steps.torch = torch
    result = {
        "command": "python benchmarks/step_profile.py " + " ".join(sys.argv[1:]),
        "machine": machine(1),
        "versions": versions("kvae_nb", "torch", "numpy"),
        "steps": args.steps or 12,
        "times": {},
    }
    data = steps.frames(128, 6)
    for name, all_frames in (("ours", False), ("ours, all frames", True)):
        torch.manual_seed(0)
        step = steps.our_step("paper", all_frames)
        for _ in range(2):
            step(data[: steps.BATCH])
        taken, products = timed_steps(step, data, steps.BATCH, result["steps"], product_speed)
        flop, speed = steps.step_flop(32, step.decoded), statistics.median(products)
        result["times"][name] = {
            "cpu_median": statistics.median(taken),
            "cpu_min": min(taken),
            "gflop": flop / 1e9,
            "product_gflops": speed / 1e9,
            "floor_s": flop / speed,
            "floor_share": flop / speed / statistics.median(taken),
            "shares": profiled(step, data, steps.BATCH, max(2, result["steps"] // 3)),
        }
    result["machine"]["load_at_end"] = os.getloadavg()[0]
    for name, t in result["times"].items():
        title = f"{name}: {1e3 * t['cpu_median']:.0f} ms of processor time, the floor is {t['floor_share']:.0%} of it"
        print(table(title, ["part", "share"], [[k, f"{v:.1%}"] for k, v in t["shares"].items()]))
    if args.steps is None:
        write_json(HERE / "results" / "step_profile.json", result)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, help="how many are timed (default: 12, and the results are stored)")
    args = parser.parse_args()
    limit_threads(1)
    import torch

    torch.set_num_threads(1)
    main(args)
