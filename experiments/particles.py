"""Hidden frames filled in by particles, beside plugged-in weights, on films that no setting was chosen on.

    python experiments/particles.py --data ../shared/data/box.npz --runs RUN RUN RUN --films 60
    python experiments/particles.py --data ../shared/data/box.npz --runs RUN --films 60 --numbers

RUN are runs of the preset `best` on split 1, as experiments/fresh.py makes them, and the films are the first of those
that it measures on. Every gap and drop rate of the paper's protocol is filled in twice with the same weights: with the
weights of the predicted mean plugged in, and by particles. To decode hundreds of particles for every hidden frame in
minutes, the decoder is tabulated over the plane of a, and how far the table is off is stored. With --numbers: several
numbers of particles, on gaps of 7 and 15 frames, with the CPU time of `impute` and its own decoder. Stores after every
mask; a row of an interrupted run is completed by the same command. Writes experiments/results/particles.json.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from fresh import fresh_films, ratio

from kvae_nb.core.files import atomic_write
from kvae_nb.core.runtime import tune_cpu
from kvae_nb.data.films import mask_gap
from kvae_nb.data.opening import open_data
from kvae_nb.evaluation.checks import FIRST
from kvae_nb.evaluation.imputation import DROPS, GAPS, drop_mask
from kvae_nb.inference.particles import particle_evidence
from kvae_nb.models import particles as library
from kvae_nb.models.dynamics import evidence_dynamics
from kvae_nb.models.protocol import hide
from kvae_nb.training.runs import load_run

RESULT = Path(__file__).parent / "results" / "particles.json"
SIDE, MARGIN = 160, 0.15  # of the table: points on a side, and how far it goes beyond the codes of the films
NUMBERS = (0, 64, 256, 512, 1024)


class Table:
    "A decoder of two numbers, read from a table of frames by bilinear interpolation."

    def __init__(self, model, codes: torch.Tensor):
        self.model, flat = model, codes.flatten(0, -2)
        low, high = flat.min(0).values, flat.max(0).values
        self.low, self.step = low - MARGIN * (high - low), (1 + 2 * MARGIN) * (high - low) / (SIDE - 1)
        axes = [self.low[k] + self.step[k] * torch.arange(SIDE) for k in range(2)]
        grid = torch.cartesian_prod(*axes)
        frames = torch.cat([model.decode(part[None])[0] for part in grid.split(256)])
        self.frame, self.rows = frames.shape[1:], frames.flatten(1)

    def decode(self, a: torch.Tensor) -> torch.Tensor:
        "Expected pixels of every a; beyond the table those of its edge."
        place = ((a.flatten(0, -2) - self.low) / self.step).clamp(0, SIDE - 1 - 1e-4)
        whole, part = place.floor().long(), place.frac()
        corner, (u, v) = whole[:, 0] * SIDE + whole[:, 1], part.T[..., None]
        near = self.rows[corner] * (1 - v) + self.rows[corner + 1] * v
        far = self.rows[corner + SIDE] * (1 - v) + self.rows[corner + SIDE + 1] * v
        return (near * (1 - u) + far * u).unflatten(0, a.shape[:-1]).unflatten(-1, self.frame)

    def error(self, codes: torch.Tensor) -> float:
        "The share of pixels that fall on the other side of one half."
        a = codes.flatten(0, -2)[None, :1000] + 0.01
        return ((self.decode(a) > 0.5) != (self.model.decode(a) > 0.5)).float().mean().item()


def masks_of(films: int, steps: int) -> dict[str, dict[str, torch.Tensor]]:
    "Every mask of the paper's protocol."
    gaps = {str(n): mask_gap(films, steps, FIRST, n) for n in GAPS}
    return {"gap": gaps, "drop": {str(p): drop_mask(films, steps, p) for p in DROPS}}


@torch.no_grad()
def wrong_pixels(model, x: torch.Tensor, mask: torch.Tensor, number: int, per_film: bool = True) -> dict:
    "The share of wrong pixels in hidden frames, by smoothing and filtering, each with its standard error over films."
    start, shares = time.process_time(), {"smoothing": [], "filtering": []}
    for films, seen in zip(x.split(20), mask.split(20)):
        found = model.impute(films, seen, particles=number)
        for how, beliefs in (("smoothing", found.smoothed), ("filtering", found.filtered)):
            shares[how].append(((beliefs.frames > 0.5) != (films > 0.5)).double().mean((2, 3, 4)))
    seconds, hidden = time.process_time() - start, (~mask).double().numpy()
    errors = {how: ratio((torch.cat(v).numpy() * hidden).sum(1), hidden.sum(1)) for how, v in shares.items()}
    return errors | {"cpu_seconds": round(seconds, 2)}


@torch.no_grad()
def evidence(model, x: torch.Tensor, mask: torch.Tensor, number: int) -> dict:
    "The mean over films of log p(seen a) for the codes of the seen frames, in nats per seen frame."
    a, seen = model.encode(hide(x, mask)), mask.sum(1)
    source = library.dynamics_source(model.dynamics)
    plugged = evidence_dynamics(model.dynamics, a, mask) / seen
    drawn = particle_evidence(source, a, mask, particles=number) / seen
    gain = drawn - plugged
    return {
        "plugged_in": round(plugged.mean().item(), 4),
        "particles": round(drawn.mean().item(), 4),
        "difference": {"mean": round(gain.mean().item(), 4), "standard_error": error_of(gain)},
    }


def error_of(values: torch.Tensor) -> float:
    "The standard error of a mean over films."
    return round((values.std() / len(values) ** 0.5).item(), 4)


def stored() -> dict:
    "What was stored so far."
    about = {"command": "python experiments/particles.py --data box.npz --runs RUN RUN RUN", "data": "box.npz"}
    start = about | {"machine": "x86_64 CPU, 1 thread, shared", "runs": {}, "numbers": {}}
    return json.loads(RESULT.read_text()) if RESULT.exists() else start


def store(content: dict):
    "Writes the result file, atomically."
    with atomic_write(RESULT) as tmp:
        tmp.write_text(json.dumps(content, indent=1) + "\n")


@torch.no_grad()
def protocol(model, x: torch.Tensor, key: str, args):
    "Fills in every mask twice, and stores."
    start, codes = time.process_time(), model.encode(x)
    table = Table(model, codes)
    model.decode, off = table.decode, table.error(codes)
    content = stored()
    row = content["runs"].setdefault(
        key, {"films": len(x), "particles": args.particles, "table_error": off, "imputation": {}}
    )
    for kind, masks in masks_of(*x.shape[:2]).items():
        for size, mask in masks.items():
            if size not in (rows := row["imputation"].setdefault(kind, {})):
                ways = {"plugged_in": 0, "particles": args.particles}
                rows[size] = {way: wrong_pixels(model, x, mask, n) for way, n in ways.items()}
                rows[size]["evidence"] = evidence(model, x, mask, args.particles)
                row["cpu_seconds"] = round(time.process_time() - start, 1)
                store(content)
                print(
                    key, kind, size, *(v["smoothing"]["mean"] for w, v in rows[size].items() if w in ways), flush=True
                )
    del model.decode


def numbers(model, x: torch.Tensor, key: str):
    "Several numbers of particles, with the model's own decoder and the time it takes."
    content = stored()
    for gap in (7, 15):
        rows = (
            content["numbers"].setdefault(key, {"films": len(x), "decoded": library.DECODED}).setdefault(str(gap), {})
        )
        for n in NUMBERS:
            rows[str(n)] = wrong_pixels(model, x, mask_gap(len(x), x.shape[1], FIRST, gap), n)
            store(content)
            print(key, gap, n, rows[str(n)], flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path, help="the .npz file of the paper's box generator")
    parser.add_argument("--runs", nargs="+", required=True, help="run folders of experiments/fresh.py")
    parser.add_argument("--films", type=int, default=60, help="how many films")
    parser.add_argument("--particles", type=int, default=library.PARTICLES)
    parser.add_argument("--numbers", action="store_true", help="several numbers of particles instead")
    args = parser.parse_args()
    tune_cpu()
    torch.set_num_threads(1)
    for folder in args.runs:
        run = load_run(folder)
        whole = open_data(run.config.data)
        x = whole.subset(fresh_films(run.config.data, len(whole)))[: args.films].frames.float() / 255
        model, key = run.model.eval(), str(run.config.train.seed)
        numbers(model, x, key) if args.numbers else protocol(model, x, key, args)


if __name__ == "__main__":
    main()
