"""NCDSSM and kvae_nb on the same data, each training stopped by the same CPU seconds.

    python benchmarks/rivals/compare.py vectors --checkout ../rivals/NCDSSM
    python benchmarks/rivals/compare.py films --checkout ../rivals/NCDSSM --data ../shared/data
    python benchmarks/rivals/compare.py images
    python benchmarks/rivals/curve.py --checkout ../rivals/NCDSSM                   # one long training of each

One process, one thread. A row is stored as soon as it is measured; rows that are there are not measured again. Writes
benchmarks/results/rival_<task>.json.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

import rival_data as data  # noqa: E402
import rival_ncdssm as ncdssm  # noqa: E402
import rival_ours as ours  # noqa: E402
from common import machine, versions  # noqa: E402

from kvae_nb.core.errors import InputError  # noqa: E402
from kvae_nb.core.files import atomic_write  # noqa: E402
from kvae_nb.core.runtime import tune_cpu  # noqa: E402

RESULTS = Path(__file__).resolve().parents[1] / "results"
BUDGET = {"vectors": 60.0, "films": 120.0, "images": 90.0}  # CPU seconds of a training
TRAIN, VALID, TEST = 5000, 50, 200  # sequences of numbers
FILMS = 100  # test films
IMAGES = (2000, 200)  # sequences to train on, to test on
DYNAMICS = "ll"  # locally linear: the variant of NCDSSM nearest to a KVAE


def tensors(made) -> tuple[torch.Tensor, torch.Tensor]:
    "Observations and mask of either kind of data."
    return torch.from_numpy(made[0]), torch.from_numpy(made.seen)


def errors(found: np.ndarray, made: data.Numbers) -> dict:
    "Mean squared errors of hidden steps of the context and of the forecast, against the noisy observations."
    n = made.seen.shape[1]
    squares = ((found - made.noisy) ** 2).mean(-1)
    return {"imputation": round(float(squares[:, :n][~made.seen].mean()), 5)} | {
        "forecast": round(float(squares[:, n:].mean()), 5)
    }


def straight(made: data.Numbers) -> np.ndarray:
    "Straight lines between seen steps; after the last one, its value."
    out = np.empty_like(made.noisy)
    for k, seen in enumerate(made.seen):
        at = np.flatnonzero(seen)
        for j in range(out.shape[-1]):
            out[k, :, j] = np.interp(np.arange(out.shape[1]), at, made.noisy[k, at, j]) if len(at) else 0.0
    return out


def last_value(made: data.Numbers) -> np.ndarray:
    "At every step the last seen value; before the first one, 0."
    n, T = made.seen.shape[1], made.noisy.shape[1]
    at = np.maximum.accumulate(np.where(made.seen, np.arange(n), -1), 1)
    at = np.concatenate([at, np.repeat(at[:, -1:], T - n, 1)], 1)
    found = np.take_along_axis(made.noisy, at.clip(0)[..., None], 1)
    return np.where(at[..., None] < 0, 0.0, found)


def simple_numbers(row: dict) -> dict:
    "What needs no training: straight lines, the last value, and the truth without its noise, which none can beat."
    made = data.numbers(row["system"], row["missing"], TEST, "test")
    found = {"straight line": straight(made), "last value": last_value(made), "noise floor": made.clean}
    return {name: errors(v, made) for name, v in found.items()}


def train_on_numbers(row: dict, x, seen, checkout: Path | None):
    "A trained model, the function that predicts with it, steps taken and CPU seconds used."
    seed, name = row["seed"], row["system"]
    torch.manual_seed(seed)
    if row["model"] == "kvae_nb":
        model = ours.mixed(x.shape[-1])
        return model, ours.predicted_numbers, *ours.train_numbers(model, x, seen, row["budget"], seed)
    model, config = ncdssm.built(ncdssm.opened(checkout), name, DYNAMICS)
    return model, ncdssm.predicted, *ncdssm.train(model, config, x, seen, row["budget"], seed)


def one_vector(row: dict, args) -> dict:
    "Errors of one training on validation and test sequences."
    system = data.SYSTEMS[row["system"]]
    make = lambda count, part: data.numbers(row["system"], row["missing"], count, part)
    x, seen = tensors(make(TRAIN, "train"))
    model, predict, steps, used = train_on_numbers(row, x[:, : system.context], seen, args.checkout)
    found = {}
    for part, count in (("valid", VALID), ("test", TEST)):
        made = make(count, part)
        x, seen = tensors(made)
        found[part] = errors(predict(model, x[:, : system.context], seen, system.ahead).double().numpy(), made)
    return found | about(model, steps, used)


def about(model, steps: int, used: float) -> dict:
    "What a row says of its training."
    return {
        "steps": steps,
        "cpu_seconds": round(used, 1),
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def wrong(found: torch.Tensor, made: data.Films) -> dict:
    "Shares of wrong pixels in the hidden frames of the context, and in the forecast: all of it, and its quarters."
    off = ((found > 0.5).numpy() != made.frames).mean((2, 3))
    n = made.seen.shape[1]
    quarters = np.array_split(off[:, n:].mean(0), 4)
    return {
        "imputation": round(float(off[:, :n][~made.seen].mean()), 5),
        "forecast": round(float(off[:, n:].mean()), 5),
        "quarters": [round(float(q.mean()), 5) for q in quarters],
    }


def copied(made: data.Films) -> torch.Tensor:
    "At every step the last seen frame."
    n, T = made.seen.shape[1], made.frames.shape[1]
    at = np.maximum.accumulate(np.where(made.seen, np.arange(n), 0), 1)
    at = np.concatenate([at, np.repeat(at[:, -1:], T - n, 1)], 1)
    return torch.from_numpy(np.take_along_axis(made.frames, at[..., None, None], 1)).float()


def one_film(row: dict, args) -> dict:
    "Errors of one training on test films of 60 frames."
    torch.manual_seed(row["seed"])
    made = data.new_films(row["world"], FILMS, seed=101)
    if row["model"] == "last frame":
        return {"test": wrong(copied(made), made)}
    x, seen = tensors(data.stored_films(Path(args.data) / f"{row['world']}.npz"))
    new, mask = tensors(made)
    if row["model"] == "kvae_nb":
        model, trainer = ours.film_model(32, row["seed"])
        steps, used = ours.train_films(trainer, x, seen, row["budget"])
        found = ours.predicted_films(model, new, mask)[0]
    else:
        model, config = ncdssm.built(ncdssm.opened(args.checkout), row["world"], DYNAMICS)
        steps, used = ncdssm.train(model, config, x.flatten(2), seen, row["budget"], row["seed"])
        n = mask.shape[1]
        found = ncdssm.predicted(model, new[:, :n].flatten(2), mask, new.shape[1] - n, samples=4).unflatten(2, (32, 32))
    return {"test": wrong(found, made)} | about(model, steps, used)


def nats(found: torch.Tensor, made: data.Films) -> dict:
    "Bernoulli log-likelihood of an image under expected pixels, in nats: of all, and of hidden ones."
    x, p = torch.from_numpy(made.frames).float() / 255, found.clamp(1e-6, 1 - 1e-6)
    each = (x * p.log() + (1 - x) * (1 - p).log()).sum((2, 3))
    hidden = torch.from_numpy(~made.seen)
    return {"all": round(float(each.mean()), 3), "hidden": round(float(each[hidden].mean()), 3)}


def one_image(row: dict, args) -> dict:
    "Log-likelihoods of one training, filtered and smoothed, on test sequences of images."
    made = data.images(IMAGES[1], seed=2)
    new, mask = tensors(made)
    if row["model"] == "simple":
        x = new.float() / 255
        last = copied(made) / 255
        mean = torch.from_numpy(data.images(200, seed=1).frames).float().mean((0, 1)) / 255
        found = {"the image itself": x, "mean image": mean.expand_as(x), "last seen image": last.clamp(0.01, 0.99)}
        return {"test": {name: nats(v, made) for name, v in found.items()}}
    x, seen = tensors(data.images(IMAGES[0], seed=1))
    model, trainer = ours.film_model(data.SIDE, row["seed"])
    steps, used = ours.train_films(trainer, x, seen, row["budget"])
    smoothed, filtered = ours.predicted_films(model, new, mask)
    return {"test": {"smoothed": nats(smoothed, made), "filtered": nats(filtered, made)}} | about(model, steps, used)


def wanted(task: str, budget: float, seeds: int) -> list[dict]:
    "The rows of a task."
    both, more = ("kvae_nb", "NCDSSM"), {"budget": budget}
    if task == "images":
        return [{"model": "simple"}] + [{"model": "kvae_nb", "seed": s} | more for s in range(seeds)]
    if task == "films":
        simple = [{"world": w, "model": "last frame", "seed": 0} for w in ("box", "pong")]
        rows = [{"world": w, "model": m, "seed": s} for s in range(seeds) for w in ("box", "pong") for m in both]
        return simple + [row | more for row in rows]
    cases = [{"system": n, "missing": m} for n in ("pendulum", "ball") for m in (0.3, 0.8)]
    return [case | {"model": m, "seed": s} | more for s in range(seeds) for case in cases for m in both]


ONE = {"vectors": one_vector, "films": one_film, "images": one_image}


def head(args, rows: list[dict]) -> dict:
    "What stands above the rows."
    words = f"python benchmarks/rivals/compare.py {args.task} --budget {args.budget:g} --seeds {args.seeds}"
    found = {"command": words, "budget": "CPU seconds of a training, both models alike, one thread", "rival": RIVAL}
    found |= {"machine": machine(1), "versions": versions("torch", "numpy", "torchdiffeq")}
    if args.task == "vectors":
        cases = [{k: r[k] for k in ("system", "missing")} for r in rows if r["model"] == "kvae_nb" and r["seed"] == 0]
        found["simple"] = [case | simple_numbers(case) for case in cases]
    return found


RIVAL = {"name": "NCDSSM", "source": "clear-nus/NCDSSM", "commit": "7212bba9616d81c948f507eef9eb1f7d5cf1954e"} | {
    "dynamics": "NCDSSM-LL"
}


def measure(args):
    "Measures the rows that the stored file lacks, and stores after each."
    path, rows = Path(args.out), wanted(args.task, args.budget, args.seeds)
    runs = json.loads(path.read_text())["runs"] if path.exists() else []
    above = head(args, rows)
    for row in rows:
        left = not set(args.only) <= set(map(str, row.values()))
        if left or any(row.items() <= done.items() for done in runs):
            continue
        runs.append(row | ONE[args.task](row, args))
        with atomic_write(path) as tmp:
            tmp.write_text(json.dumps(above | {"runs": runs}, indent=1, ensure_ascii=False) + "\n")
        print(runs[-1], flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("task", choices=list(ONE))
    p.add_argument("--checkout", help="folder of a checkout of NCDSSM; not needed for images")
    p.add_argument("--data", default="../shared/data", help="folder of box.npz and pong.npz, for films")
    p.add_argument("--budget", type=float, help="CPU seconds of a training")
    p.add_argument("--seeds", type=int, default=1)
    p.add_argument("--only", nargs="+", default=[], help="values that a row must have to be measured now")
    p.add_argument("--out", help="file to write")
    args = p.parse_args()
    args.budget = args.budget or BUDGET[args.task]
    args.out = args.out or RESULTS / f"rival_{args.task}.json"
    try:
        if args.task != "images":
            ncdssm.opened(args.checkout or "(no --checkout)")
        tune_cpu()
        torch.set_num_threads(1)
        measure(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
