"""The probes of notebook 62 on trained models: 200 generated frames from 4, calibration while frames are missing,
position and velocity in z.

    python experiments/probes.py box=runs/2026-01-31_12-00-00 gravity=runs/2026-01-31_13-00-00        # two minutes
    each, one CPU core

Films of our own simulator are continued beside 200 true frames; the paper's generator left only 16 after the first
four. Writes experiments/results/probes.json, and nbs/images/generated_NAME.gif with four films drawn from the model.
"""

import argparse
import json
import platform
import time
from dataclasses import replace
from pathlib import Path

import torch

from kvae_nb.core.files import atomic_write
from kvae_nb.core.runtime import tune_cpu
from kvae_nb.data.films import VideoData
from kvae_nb.data.opening import open_data
from kvae_nb.evaluation.checks import FIRST
from kvae_nb.evaluation.probes import ProbeConfig, continue_films, probe
from kvae_nb.evaluation.videos import video_rows, write_video
from kvae_nb.training.runs import load_run, run_data

HERE = Path(__file__).parent
RESULT, IMAGES = HERE / "results" / "probes.json", HERE.parent / "nbs" / "images"
STEPS, COUNT, FILMS, SHOWN = 200, 32, 4, 100


def rounded(value):
    "Tensors and tuples as nested lists of few digits."
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    if hasattr(value, "_asdict"):
        return {k: rounded(v) for k, v in value._asdict().items()}
    if isinstance(value, (list, tuple)):
        return [rounded(v) for v in value]
    return round(value, 5) if isinstance(value, float) else value


def long_films(config) -> VideoData | None:
    """Films of the same simulated world that are long enough to be the truth, from a seed that training has not
    used; None for a file.
    """
    if config.path:
        return None
    return open_data(replace(config, sequences=COUNT, steps=STEPS + FIRST, simulate_seed=config.simulate_seed + 1))


def measure(name: str, folder: str) -> dict:
    "Everything that is stored about a run; also writes its video."
    run = load_run(folder)
    model, data, test, long = run.model, run.config.data, run_data(run).test, long_films(run.config.data)
    begin = time.perf_counter()
    found = probe(model, test, ProbeConfig(steps=STEPS, count=COUNT, state_lag=1 if data.path else 0), long)
    films = continue_films(model, test if long is None else long, SHOWN, FILMS)
    write_video(IMAGES / f"generated_{name}.gif", video_rows(list(films.numpy()), scale=3))
    return {
        "name": name,
        "data": Path(data.path).name or data.world,
        "films": len(test),
        "seconds": round(time.perf_counter() - begin),
        **rounded(found),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN")
    args = parser.parse_args()
    tune_cpu()
    torch.set_num_threads(1)
    known = json.loads(RESULT.read_text())["models"] if RESULT.exists() else []
    for name, folder in (item.split("=", 1) for item in args.runs):
        row = measure(name, folder)
        known = sorted([r for r in known if r["name"] != name] + [row], key=lambda r: r["name"])
        content = {
            "command": "python experiments/probes.py " + " ".join(r["name"] + "=RUN" for r in known),
            "machine": f"{platform.machine()} CPU, 1 thread",
            "torch": torch.__version__,
            "steps": STEPS,
            "count": COUNT,
            "seed": 0,
            "models": known,
        }
        with atomic_write(RESULT) as tmp:
            tmp.write_text(json.dumps(content) + "\n")
        print(name, row["seconds"], "s", flush=True)


if __name__ == "__main__":
    main()
