"""Speed on a GPU: training steps (eager, torch.compile, our graph), kernels of the state-space model, particles.

    python benchmarks/gpu.py                          # everything; writes benchmarks/results/gpu_<card>.json
    python benchmarks/gpu.py --only steps kernels     # some of: steps, memory, profile, kernels, particles
    python benchmarks/gpu.py --device cpu --dry-run   # small sizes on the CPU: whether the script itself runs

In the root of the repository `PYTHONPATH=. python benchmarks/gpu.py` needs torch (2.11 or newer) and triton (3.6 or
newer), accelerate and the other packages of kvae_nb, but no nbdev. Contenders of one row run in one process, in turn.
"""

import argparse
import re
import statistics
import sys
import time
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from common import HERE, machine, significant, table, versions, write_json
from problems import turning_point

from kvae_nb.data.films import VideoData, take
from kvae_nb.inference.batched import loop_evidence
from kvae_nb.inference.gpu_kernel import gpu_kernel_fits, triton_evidence
from kvae_nb.inference.lgssm import LGSSM
from kvae_nb.models.kvae import KVAE
from kvae_nb.training.runs import PRESETS
from kvae_nb.training.session import prepare
from kvae_nb.training.step import Replayed, replayable, train_step

PARTS = ("steps", "memory", "profile", "kernels", "particles")
STEPS, SIZE = 20, 32
BATCHES, ROWS = (32, 128, 512), ((32, 20), (256, 100), (1, 10_000))
SMALL_BATCHES, SMALL_ROWS = (2, 4), ((2, 3), (3, 4))


def waited(device: torch.device):
    "Until the device has done what it was given."
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(function, device: torch.device, rounds: int, calls: int) -> float:
    "Median over rounds of the seconds that a call takes, after one that is not counted."
    function()
    waited(device)
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(calls):
            function()
        waited(device)
        taken.append((time.perf_counter() - start) / calls)
    return statistics.median(taken)


def attempt(make, device: torch.device, given) -> dict:
    "Seconds of a call and of the first one, with preparation; or, in one line, why there are none."
    start = time.perf_counter()
    try:
        function = make()
        function()
        waited(device)
        first = time.perf_counter() - start
        return {"seconds": seconds(function, device, given.rounds, given.calls), "first": first}
    except Exception as error:  # a contender that cannot is a result, too
        return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}


def films(count: int) -> VideoData:
    "Random films: a step takes as long on any."
    g = torch.Generator().manual_seed(0)
    return VideoData((torch.rand(count, STEPS, 1, SIZE, SIZE, generator=g) > 0.9).to(torch.uint8) * 255)


def trainer_of(preset: str, device: torch.device, **train):
    "Model and optimiser of a preset, all parts trained from the start."
    config = PRESETS[preset]
    return prepare(replace(config, train=replace(config.train, join={}, device=str(device), **train)))[0]


def steps_of(preset: str, how: str, batch: int, device: torch.device):
    "A function that takes a step."
    trainer, at = trainer_of(preset, device), iter(range(10**9))
    data, rows = films(batch).to(device), torch.arange(batch, device=device)
    if how == "graph":
        if not replayable(trainer, data):
            raise RuntimeError("steps on this device are not recorded")
        replayed = Replayed(trainer, data)
        step = lambda: replayed(rows, 0.0, next(at))
        for _ in range(Replayed.REHEARSALS + 1):
            step()
        return step
    if how == "compile":
        mode = "reduce-overhead" if device.type == "cuda" else None
        trainer = trainer._replace(model=torch.compile(trainer.model, mode=mode))
    return lambda: train_step(trainer, take(data, rows), 0.0, next(at))


def measure_steps(device: torch.device, given) -> list[dict]:
    "Milliseconds per step and frames per second, by preset, batch and contender."
    found = []
    for preset in given.presets:
        for batch in SMALL_BATCHES if given.dry_run else BATCHES:
            for how in ("eager", "compile", "graph"):
                if how == "compile" and given.dry_run:
                    continue  # compiling takes minutes
                row = attempt(lambda: steps_of(preset, how, batch, device), device, given)
                if "seconds" in row:
                    row |= {"ms": 1e3 * row["seconds"], "frames_per_second": batch * STEPS / row["seconds"]}
                found.append({"preset": preset, "batch": batch, "how": how, **row})
    return found


def measure_memory(device: torch.device, given) -> list[dict]:
    "Batches doubled until memory is full: milliseconds and the largest memory of an ordinary step."
    found, batch = [], SMALL_BATCHES[0] if given.dry_run else BATCHES[0]
    while batch <= (4 if given.dry_run else 2**16):
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        row = attempt(lambda: steps_of("paper", "eager", batch, device), device, given)
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
        found.append({"batch": batch, "peak_bytes": peak, **row})
        if "failed" in row:
            break
        batch *= 2
    return found


def measure_profile(device: torch.device, given) -> dict:
    "PyTorch's table of what an ordinary step of each preset consists of."
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    found = {}
    for preset in given.presets:
        step = steps_of(preset, "eager", SMALL_BATCHES[0] if given.dry_run else 32, device)
        step(), waited(device)
        with torch.profiler.profile(activities=activities) as profile:
            step(), waited(device)
        by = f"self_{'device' if device.type == 'cuda' else 'cpu'}_time_total"
        found[preset] = profile.key_averages().table(sort_by=by, row_limit=20, max_name_column_width=60)
    return found


def evidence_of(how: str, batch: int, steps: int, device: torch.device):
    "A function that computes evidence and gradient by A, C and the observations."
    model = LGSSM(*(None if M is None else M.to(device, torch.float32) for M in turning_point((batch,), steps, 0.01)))
    a = torch.randn(batch, steps, 2, device=device)
    leaves = [v.requires_grad_() for v in (model.A, model.C, a)]
    if how == "kernel" and not gpu_kernel_fits(model, a):
        raise RuntimeError("the kernel needs a CUDA device")
    compiled = lambda: torch.compile(loop_evidence, mode="reduce-overhead" if device.type == "cuda" else None)
    function = {"kernel": lambda: triton_evidence, "loop": lambda: loop_evidence, "compile": compiled}[how]()

    def run():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.autograd.grad(function(model, a).sum(), leaves)

    return run


def measure_kernels(device: torch.device, given) -> list[dict]:
    "The fused kernels, the plain loop and what torch.compile makes of it."
    found = []
    for batch, steps in SMALL_ROWS if given.dry_run else ROWS:
        for how in ("kernel", "loop", "compile"):
            if how == "compile" and (given.dry_run or steps > 200):
                row = {"failed": "not tried: the loop is unrolled, and so many steps take too long to compile"}
            else:
                row = attempt(lambda: evidence_of(how, batch, steps, device), device, given)
            found.append({"sequences": batch, "steps": steps, "how": how, **row})
    return found


def measure_particles(device: torch.device, given) -> list[dict]:
    "Hidden frames filled in: films per second of `impute` with particles and with the plug-in."
    count, particles = (2, 4) if given.dry_run else (500, 1024)
    model = KVAE(PRESETS["demo"].model).to(device).eval()
    x, mask = films(count).frames.float().to(device) / 255, torch.ones(count, STEPS, dtype=torch.bool, device=device)
    mask[:, 4:11] = False
    found = []
    for n in (0, particles):
        once = argparse.Namespace(rounds=1, calls=1)
        row = attempt(lambda: lambda: model.impute(x, mask, particles=n), device, once)
        found.append({"films": count, "particles": n, **row})
    return found


def card_of(device: torch.device) -> str:
    "The name of the card, as part of a file's name."
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return re.sub(r"\W+", "_", name).strip("_").lower()


def print_rows(title: str, rows: list[dict]):
    "The rows as a table."
    keys = [k for k in dict.fromkeys(k for r in rows for k in r) if k != "failed"]
    cell = lambda v: "" if v is None else significant(v) if isinstance(v, float) else str(v)
    lines = [[cell(r.get(k)) for k in keys] + [r.get("failed", "")] for r in rows]
    print(table(title, [*keys, "why not"], lines))


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu")
    parser.add_argument("--dry-run", action="store_true", help="small sizes, no compilation, nothing written")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--presets", nargs="+", default=["paper", "best", "demo"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--json", type=Path, help="where to write; results/gpu_<card>.json if not said")
    given = parser.parse_args(argv)
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device here; --device cpu --dry-run tries the script itself.")
    if given.dry_run:
        given.rounds, given.calls = 1, 1
    told = " ".join(["python benchmarks/gpu.py", *(sys.argv[1:] if argv is None else argv)])
    found = {"card": card_of(device), "command": told, "machine": machine(torch.get_num_threads())}
    found |= {"versions": versions("torch", "triton", "accelerate"), "dry_run": given.dry_run, "tf32": tf32()}
    path = given.json or (None if given.dry_run else HERE / "results" / f"gpu_{found['card']}.json")
    for part in given.only:
        found[part] = globals()[f"measure_{part}"](device, given)
        if part == "profile":
            print(*found[part].values(), sep="\n")
        else:
            print_rows(part, found[part])
        if path:  # after each part: what was measured is kept if a later one fails
            write_json(path, found)
    return found


def tf32() -> dict:
    "Whether products are rounded to ten bits of mantissa, as torch says; empty where it does not."
    with suppress(RuntimeError):
        return {"matmul": torch.backends.cuda.matmul.allow_tf32, "cudnn": torch.backends.cudnn.allow_tf32}
    return {}


if __name__ == "__main__":
    main()
