"""What both benchmarks share: threads, side-by-side timing, tables and the JSON they leave. Imports nothing that starts
threads.
"""

import importlib.metadata
import json
import math
import os
import platform
import statistics
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

HERE = Path(__file__).resolve().parent


def limit_threads(n: int = 1, cpu: int | None = None):
    """Holds BLAS, OpenMP and XLA to `n` threads and, if asked, the process to one core. To be called before numpy,
    torch or jax is imported.
    """
    early = {"numpy", "torch", "jax"} & sys.modules.keys()
    if early:
        raise RuntimeError(f"{', '.join(sorted(early))} was imported before the threads were limited.")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
        os.environ[name] = str(n)
    os.environ["JAX_PLATFORMS"] = "cpu"
    if n == 1:
        os.environ["NPROC"] = "1"  # the size of XLA's own pool of threads
        os.environ["XLA_FLAGS"] = (
            os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        )
    if cpu is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {cpu})


def last_cpu() -> int | None:
    "The highest core this process may use, or None where that cannot be asked."
    return max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def processor() -> str:
    "The name of the processor, as the system calls it."
    try:
        return next(
            line.split(":", 1)[1].strip()
            for line in open("/proc/cpuinfo", encoding="utf-8")
            if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions(*packages: str) -> dict[str, str]:
    "Installed version of each package, or 'not installed'."

    def find(name):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return "not installed"

    return {name: find(name) for name in packages}


def machine(threads) -> dict:
    "Where the numbers come from."
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_at_start": load,
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def once(f) -> float:
    "Seconds that one call takes."
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def repeats(f, at_least: float) -> int:
    "How many calls in a row make a sample long enough for the clock."
    return max(1, round(at_least / max(once(f), 1e-7)))


def side_by_side(runs: dict, rounds: int = 15, budget: float = 20.0, sample: float = 0.004) -> dict[str, dict]:
    """Times all `runs` (name -> function, already warm) in turn, A B C A B C …, and returns for each the median and the
    minimum in seconds.

    A sample is so many calls that it lasts `sample` seconds. A run leaves the circle when it has used `budget` seconds,
    but never before three rounds (one, if a single call takes more than `budget`).
    """
    calls = {name: repeats(f, sample) for name, f in runs.items()}
    seen, used = {name: [] for name in runs}, dict.fromkeys(runs, 0.0)
    for k in range(rounds):
        for name, f in runs.items():
            if used[name] > budget and (k >= 3 or used[name] / k > budget):
                continue
            start = time.perf_counter()
            for _ in range(calls[name]):
                f()
            spent = time.perf_counter() - start
            used[name] += spent
            seen[name].append(spent / calls[name])
    return {
        name: {"median": statistics.median(s), "min": min(s), "rounds": len(s), "calls": calls[name]}
        for name, s in seen.items()
    }


def significant(x: float, digits: int = 3) -> str:
    "A positive number with so many digits, without exponent."
    if x == 0 or x != x:
        return str(x)
    text = f"{float(f'{x:.{digits}g}'):.10f}".rstrip("0").rstrip(".")
    return text if x < 1e5 else f"{float(text):,.0f}"


def table(title: str, head: list[str], rows: list[list[str]]) -> str:
    "Columns of equal width, the first one to the left."
    widths = [max(len(str(r[i])) for r in [head, *rows]) for i in range(len(head))]

    def line(cells):
        return "  ".join(str(c).ljust(w) if i == 0 else str(c).rjust(w) for i, (c, w) in enumerate(zip(cells, widths)))

    return "\n".join(["", title, "", line(head), line(["-" * w for w in widths]), *map(line, rows)])


def plain(x):
    "The same with numbers that JSON does not know (NaN, infinity) as strings."
    if isinstance(x, dict):
        return {k: plain(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return [plain(v) for v in x]
    return str(x) if isinstance(x, float) and not math.isfinite(x) else x


def write_json(path, content: dict):
    "Writes the results; the file appears complete or not at all."
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_suffix(".tmp")
    tmp.write_text(json.dumps(plain(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    tmp.replace(path)
    print(f"\nwritten: {path}")
