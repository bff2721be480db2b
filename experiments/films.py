"""Any kind of model and any preset on films: imputation and bound on the held-out tenth of the paper's videos, or of
one of our simulator's worlds.

    python experiments/films.py --data ../shared/data/box.npz                        # preset best, three seeds: an hour
    and a half on one CPU core
    python experiments/films.py --world gravity --seeds 1                            # half an hour
    python experiments/films.py --model rnn --preset demo --changes autoencoder=true --data …
    python experiments/films.py --runs A B …                                         # records runs that kvae train has
    made instead

Stores after every run. Each row says by which command the run was made. Measured are the plain bound, every gap and
drop rate of the paper's Fig. 3, how the validation bound moved over the last epochs, and how far the learned a is from
an affine image of the true position: a straight path must look straight in a, or no linear dynamics can follow it.
Writes experiments/results/films.json.
"""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

import torch
from pack import command
from switching_box import measure

from kvae_nb.core.files import atomic_write
from kvae_nb.core.runtime import tune_cpu
from kvae_nb.training.loop import fit
from kvae_nb.training.runs import load_run, preset, run_data
from kvae_nb.training.starts import flat

RESULT = Path(__file__).parent / "results" / "films.json"
DROPS = tuple(k / 10 for k in range(1, 11))
LEVERS = ("model.network", "model.dim_z", "model.K", "model.alpha_units", "train.epochs", "train.reconstruction_weight")
STEP = 0.2  # of the paper's generator, whose frame at t shows the state at t - 1


def positions(data) -> torch.Tensor:
    "True positions of the ball in the frames, pixels [batch, time, 2]."
    s = data.state.float()
    return (
        s[..., :2] if data.contacts is not None else torch.cat([s[:, :1, :2] - STEP * s[:, :1, 2:4], s[:, :-1, :2]], 1)
    )


@torch.no_grad()
def bent(model, data) -> float:
    "Root mean square distance in pixels between the true positions and the best affine reading of them from a."
    a = (
        torch.cat([model.encode(data.frames[i : i + 100].float() / 255) for i in range(0, len(data), 100)])
        .flatten(0, 1)
        .double()
    )
    inputs, p = torch.cat([a, torch.ones_like(a[:, :1])], 1), positions(data).flatten(0, 1).double()
    return round((p - inputs @ torch.linalg.lstsq(inputs, p).solution).square().sum(1).mean().sqrt().item(), 3)


def changes(config) -> dict:
    "Fields of the model and its training that differ from the preset that the command names."
    words = command(config).split()
    start, found = flat(asdict(preset(words[words.index("--preset") + 1], config.kind))), flat(asdict(config))
    return {
        k: v
        for k, v in found.items()
        if v != start[k] and k.startswith(("model.", "train.")) and k not in ("train.seed", "train.threads")
    }


def settings(config) -> dict:
    "What the table of levers shows."
    found = flat(asdict(config))
    return {k.split(".")[-1]: found[k] for k in LEVERS if k in found} | {
        "beta": [
            config.train.beta.start if config.train.beta.kind != "constant" else config.train.beta.end,
            config.train.beta.end,
        ]
    }


def method(config) -> str:
    "The model's name in the tables."
    return {"kvae": "KVAE", "skvae": "switching KVAE"}.get(config.kind) or (
        "AE-RNN" if config.model.autoencoder else "VAE-RNN"
    )


def record(folder: Path) -> dict:
    "Everything that is stored about a run."
    run, row = load_run(folder), measure(folder, DROPS)
    test, about = run_data(run).test, json.loads((folder / "metrics.json").read_text())
    row["data"] = row["data"] if run.config.data.path else run.config.data.world
    last = [round(e["valid"]["elbo"], 3) for e in about["history"][-5:]]
    return {
        "method": method(run.config),
        "command": command(run.config),
        "changes": changes(run.config),
        "settings": settings(run.config),
        **row,
        "device": about.get("device"),
        "machine": about.get("machine"),
        "bent_pixels": bent(run.model, test),
        "last_valid_elbo_per_frame": last,
    }


def known() -> list[dict]:
    "The rows that are stored already."
    return json.loads(RESULT.read_text())["runs"] if RESULT.exists() else []


def store(row: dict):
    "Writes the result file with this row, atomically; it takes the place of an earlier one by the same command."
    runs = sorted(
        [r for r in known() if r["command"] != row["command"]] + [row],
        key=lambda r: (r["data"], r["method"], r["command"]),
    )
    content = {"command": "python experiments/films.py", "torch": torch.__version__, "runs": runs}
    with atomic_write(RESULT) as tmp:
        tmp.write_text(json.dumps(content, indent=1) + "\n")


def wanted(args) -> list:
    "The configurations that were asked for."
    start = preset(args.preset, args.model)
    data, changes = replace(start.data, path=args.data, world=args.world), dict(c.split("=") for c in args.changes)
    model = replace(start.model, **{k: json.loads(v) for k, v in changes.items()})
    return [replace(start, data=data, model=model, train=replace(start.train, seed=seed)) for seed in range(args.seeds)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="", help="the .npz file; none: simulated videos")
    parser.add_argument("--world", default="box", help="which simulated world")
    parser.add_argument("--model", default="kvae", help="which kind of model")
    parser.add_argument("--preset", default="best", help="of that kind")
    parser.add_argument("--changes", nargs="*", default=[], help="fields of the model, such as autoencoder=true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", nargs="*", default=[], help="run folders that exist already")
    args = parser.parse_args()
    tune_cpu()
    torch.set_num_threads(1)
    for item in [Path(r) for r in args.runs] or wanted(args):
        if not args.runs and any(r["command"] == command(item) for r in known()):
            continue
        store(r := record(item if args.runs else fit(item)))
        print(
            r["method"],
            r["data"],
            r["seed"],
            r["elbo_per_frame"],
            r["bent_pixels"],
            {n: (e["smoothing"], e["filtering"]) for n, e in r["imputation"]["gap"].items()},
            flush=True,
        )


if __name__ == "__main__":
    main()
