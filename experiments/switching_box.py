"""The switching KVAE beside the KVAE, same budget: three seeds each on videos of the paper's own generator; and its
regimes beside contacts.

    python experiments/switching_box.py --data ../shared/data/box.npz                       # three hours on one shared
    CPU core; stores after every run
    python experiments/switching_box.py --data ../shared/data/box.npz --runs A B …          # records runs that kvae
    train has made instead

Both train `kvae train --model KIND --preset demo --epochs 20 --seed S`: the same auto-encoder (16 filters), 20 epochs,
cosine schedule, 5 of 20 frames decoded. Everything is measured on the 500 held-out sequences. Contacts with the walls
are those that our simulator recorded (a run without --data), or, for files of the paper's generator, which recorded
none, the signs of the recorded velocities. Writes experiments/results/switching_box.json.
"""

import argparse
import json
import platform
from dataclasses import asdict, replace
from pathlib import Path

import torch

from kvae_nb.core.files import atomic_write
from kvae_nb.core.runtime import tune_cpu
from kvae_nb.data.films import mask_gap
from kvae_nb.evaluation.checks import hidden_frames_leak
from kvae_nb.evaluation.imputation import PUBLISHED, imputation_curves
from kvae_nb.evaluation.scores import held_out_elbo
from kvae_nb.models.skvae import contact_scores, regimes_of
from kvae_nb.training.loop import fit
from kvae_nb.training.runs import load_run, preset, run_data

RESULT = Path(__file__).parent / "results" / "switching_box.json"
GAPS, DROPS, EPOCHS = (1, 3, 5, 7, 9, 11, 13, 15), (0.3, 0.5, 0.8), 20


def source(path: str) -> str:
    "Which videos: the file's name, or those of our own simulator."
    return Path(path).name or "simulated"


def wanted(kind: str, data: str, seed: int):
    "The run's configuration."
    config = preset("demo", kind)
    return replace(config, data=replace(config.data, path=data), train=replace(config.train, epochs=EPOCHS, seed=seed))


def walls(data) -> torch.Tensor:
    """Per step 0 if no wall was touched since the frame before, else which (1 left, 2 right, 3 low, 4 high; in a
    corner one of the first two): the walls are elastic, so the velocity across them changes its sign.
    """
    lag = (
        0 if data.contacts is not None else 1
    )  # in files of the paper's own generator the frame at t shows the state at t - 1
    v = torch.cat([data.state[:, :1].expand(-1, lag, -1), data.state], 1)[:, : data.steps, 2:4]
    turned = torch.cat([torch.zeros_like(v[:, :1], dtype=torch.bool), v[:, 1:].sign() != v[:, :-1].sign()], 1)
    return torch.where(
        turned[..., 0], 1 + (v[..., 0] < 0).long(), torch.where(turned[..., 1], 3 + (v[..., 1] < 0).long(), 0)
    )


@torch.no_grad()
def regimes(model, data) -> dict:
    "Hard regimes beside contacts: use of each regime, detection of contacts, a table of regimes and walls."
    x = data.frames.float() / 255
    s, sides = torch.cat([regimes_of(model, x[i : i + 50]).s for i in range(0, len(x), 50)]), walls(data)
    contacts = sides > 0 if data.contacts is None else data.contacts
    found, changed = (
        contact_scores(s, contacts),
        torch.cat([torch.zeros_like(s[:, :1]), (s.diff(dim=1) != 0).long()], 1),
    )
    later, sides = s[:, found.delay :], sides[:, : s.shape[1] - found.delay]
    return {
        "contacts from": "velocities" if data.contacts is None else "simulator",
        "use": [round((s == k).float().mean().item(), 4) for k in range(model.config.K)],
        "contacts": found._asdict(),
        "changes": contact_scores(changed, contacts)._asdict(),
        "table": [[int(((later == k) & (sides == w)).sum()) for w in range(5)] for k in range(model.config.K)],
    }


def measure(folder: Path, drops=DROPS) -> dict:
    "Everything that is stored about a run."
    run, history = load_run(folder), json.loads((folder / "metrics.json").read_text())
    test = run_data(run).test
    curves = imputation_curves(run.model, test, GAPS, drops, particles=0)
    mask = mask_gap(4, test.steps, 4, 7)
    row = {
        "data": source(run.config.data.path),
        "kind": run.config.kind,
        "seed": run.config.train.seed,
        "train_seconds": history["seconds"],
        "epoch": run.progress.epoch,
        "sequences": len(test),
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "elbo_per_frame": round(held_out_elbo(run.model, test).per_frame, 3),
        "imputation": {
            kind: {n: {"smoothing": round(e.smoothing, 5), "filtering": round(e.filtering, 5)} for n, e in rows.items()}
            for kind, rows in curves.items()
        },
        "leak": hidden_frames_leak(run.model, test.frames[:4].float() / 255, mask),
        "valid_elbo_per_frame": [round(e["valid"]["elbo"], 3) for e in history["history"]],
    }
    return row | (
        {"regimes": regimes(run.model, test), "surrogate_minus_bound": surplus(run.model, test)}
        if run.config.kind == "skvae"
        else {}
    )


@torch.no_grad()
def surplus(model, test) -> float:
    "What is trained minus what is reported, nats per frame: how far the surrogate is from a bound, on 100 sequences."
    x = test.frames[:100].float() / 255
    noise = model.noise(*x.shape[:2])
    hard, soft = model.elbo(x, noise=noise), model.elbo(x, noise=noise._replace(temperature=torch.full((len(x),), 0.3)))
    return round((soft.per_frame - hard.per_frame).item(), 4)


def checked(folder):
    "The configuration of a run that exists already; ends the script unless it was made by this recipe."
    config = load_run(folder).config
    ours, theirs = asdict(wanted(config.kind, config.data.path, config.train.seed)), asdict(config)
    for c in (ours, theirs):
        c["train"]["threads"], c["data"]["binarize"] = 0, None
    if ours != theirs:
        raise SystemExit(f"{folder} was not made by this recipe: its config.yaml differs.")
    return config


def write(stored):
    "Writes the results of all runs, and prints the last one."
    content = {
        "command": f"kvae train --model KIND --preset demo --data FILE --epochs {EPOCHS} --seed SEED; "
        "python experiments/switching_box.py --data FILE",
        "machine": f"{platform.machine()} CPU, 1 thread",
        "torch": torch.__version__,
        "published": {
            kind: {n: {w: PUBLISHED[kind][str(n)][w] for w in ("smoothing", "filtering")} for n in PUBLISHED[kind]}
            for kind in ("gap", "drop")
        },
        "runs": stored,
    }
    with atomic_write(RESULT) as tmp:
        tmp.write_text(json.dumps(content, indent=1) + "\n")
    r = stored[-1]
    gaps = {n: (e["smoothing"], e["filtering"]) for n, e in r["imputation"]["gap"].items()}
    print(r["data"], r["kind"], r["seed"], r["elbo_per_frame"], gaps, r.get("regimes"), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="", help="the .npz file; none: simulated videos")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", nargs="*", default=[], help="run folders that exist already")
    args = parser.parse_args()
    tune_cpu()
    torch.set_num_threads(1)
    stored = json.loads(RESULT.read_text())["runs"] if RESULT.exists() else []
    done = {(r["data"], r["kind"], r["seed"]) for r in stored}
    todo = (
        [(kind, seed) for seed in range(args.seeds) for kind in ("kvae", "skvae")]
        if not args.runs
        else [Path(r) for r in args.runs]
    )
    for item in todo:
        if isinstance(item, Path):
            config = checked(item)
            kind, seed = config.kind, config.train.seed
        else:
            kind, seed = item
        if (source(config.data.path if isinstance(item, Path) else args.data), kind, seed) in done:
            continue
        folder = item if isinstance(item, Path) else fit(wanted(kind, args.data, seed))
        stored.append(measure(folder))
        write(stored)


if __name__ == "__main__":
    main()
