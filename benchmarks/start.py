"""How long a start takes: each of these commands in a new process, in turn.

    python benchmarks/start.py                # writes benchmarks/results/start.json
    python benchmarks/start.py --rounds 3     # prints only

Wall time is what a person waits; on a machine with other work it says little, so the processor time of the process
(user and system) is stored beside it. The first round, which reads the files from the disk, is stored apart.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time

from common import HERE, machine, table, versions, write_json

SHELL = "import sys; from kvae_nb.app.command import main; sys.exit(main(sys.argv[1:]))"
STARTS = {  # what is shown: the words after `python`
    "python alone": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "import kvae_nb": ["-c", "import kvae_nb"],
    "from kvae_nb import kalman_filter": ["-c", "from kvae_nb import kalman_filter"],
    "from kvae_nb import KVAE": ["-c", "from kvae_nb import KVAE"],
    "from kvae_nb import fit": ["-c", "from kvae_nb import fit"],
    "kvae --version": ["-c", SHELL, "--version"],
    "kvae --help": ["-c", SHELL, "--help"],
    "kvae simulate --help": ["-c", SHELL, "simulate", "--help"],
    "kvae train --help": ["-c", SHELL, "train", "--help"],
}


def start(words: list[str]) -> dict:
    "Wall and processor seconds of one process."
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"wall": wall, "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def measured(rounds: int) -> dict:
    "Median and minimum of each start, all of them in turn; the first round is kept apart."
    seen = {name: [] for name in STARTS}
    for _ in range(rounds + 1):
        for name, words in STARTS.items():
            seen[name].append(start(words))
    found = {}
    for name, (first, *rest) in seen.items():
        found[name] = {"first_wall": first["wall"]}
        for kind in ("wall", "cpu"):
            values = [r[kind] for r in rest]
            found[name] |= {f"{kind}_median": statistics.median(values), f"{kind}_min": min(values)}
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, help="of all starts in turn (default: 5, and the results are stored)")
    rounds = parser.parse_args().rounds
    result = {
        "command": "python benchmarks/start.py " + " ".join(sys.argv[1:]),
        "machine": machine(1),
        "versions": versions("kvae_nb", "torch", "numpy", "matplotlib", "jsonargparse"),
        "rounds": rounds or 5,
        "seconds": measured(rounds or 5),
    }
    result["machine"]["load_at_end"] = os.getloadavg()[0]
    head = ["", "CPU median", "CPU least", "wall median", "wall least"]
    keys = ("cpu_median", "cpu_min", "wall_median", "wall_min")
    rows = [[name, *(f"{s[k]:.2f}" for k in keys)] for name, s in result["seconds"].items()]
    print(table(f"Seconds of a start, load {result['machine']['load_at_start']:.1f}", head, rows))
    if rounds is None:
        write_json(HERE / "results" / "start.json", result)


if __name__ == "__main__":
    main()
