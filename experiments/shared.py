"""What several scripts do alike: begin, count wrong pixels, go on with a list of trainings, store what was found."""

import json
import platform
from collections.abc import Callable
from pathlib import Path

import torch

from kvae_nb.core.files import atomic_write
from kvae_nb.core.runtime import tune_cpu

RESULTS = Path(__file__).parent / "results"


def begin():
    "One thread, so that a result does not depend on the number of cores."
    tune_cpu()
    torch.set_num_threads(1)


def stored(name: str) -> dict:
    "What results/NAME.json holds; nothing if there is none."
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def store(name: str, content: dict, indent: int | None = 1):
    "Writes results/NAME.json, atomically, with the machine and the version of PyTorch."
    made_by = {"machine": f"{platform.machine()} CPU, 1 thread", "torch": torch.__version__}
    with atomic_write(RESULTS / f"{name}.json") as tmp:
        tmp.write_text(json.dumps(made_by | content, ensure_ascii=False, indent=indent) + "\n", encoding="utf-8")


def missing(name: str, wanted: list[dict], measured: Callable[[dict], dict], head: dict):
    "Measures those wanted rows that `runs` of the stored file lacks; stores after each, `head` beside them."
    runs = stored(name).get("runs", [])
    for row in wanted:
        if not any(row.items() <= done.items() for done in runs):
            runs.append(row | measured(row))
            store(name, head | {"runs": runs})
            print(runs[-1], flush=True)


@torch.no_grad()
def wrong_pixels(model, x: torch.Tensor, mask: torch.Tensor, **given) -> torch.Tensor:
    "Share of wrong pixels, added up over the hidden frames of each film: smoothed, filtered."
    found = []
    for part, seen in zip(x.split(50), mask.split(50)):
        out = model.impute(part, seen, **given)
        wrong = [((b.frames > 0.5) != (part > 0.5)).double().mean((2, 3, 4)) for b in (out.smoothed, out.filtered)]
        found.append(torch.stack([(w * ~seen).sum(1) for w in wrong], 1))
    return torch.cat(found)
