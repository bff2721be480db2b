"""One table: every kind of model on the same films, with the same division, masks, budget and seeds.

    python experiments/family.py train --data ../shared/data/box.npz --seeds 3       # 40 minutes a seed, one CPU core
    python experiments/family.py measure --data ../shared/data/box.npz --seeds 3     # some minutes a row

The films of the paper's generator are divided as in films.py: 4250 to learn from, 250 to choose the epoch by, 500 to
report on, of which the first 100 are measured here, in every row. Models of films are trained as `kvae train --preset
demo --train.epochs 20` does, models of sequences as sequence_films.py does: 20 epochs, batches of 32, 16 filters, 5 of
20 frames decoded. Nothing was tuned. Forecasts are made of 100 films of 60 frames that move by the generator's own rule
(limits.py) and are drawn as it draws; 20 frames are shown. What a row needs in chance is the same for all rows.

Trainings are kept below --runs and go on where they were stopped; what is finished there can be measured at any time,
and again with --again. CPU minutes are this process's, not the clock's, validation included. A switching KVAE of seed 0
that was not trained here is the packaged one, which is of the same recipe; its minutes are by the clock. Writes
experiments/results/family.json after every row.
"""

import argparse
import json
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from budget import Films, first_cells, pictures
from calibration import LEVELS, levels, share
from family_measures import (
    AHEAD,
    LEAST,
    SEEN,
    by_model,
    constant,
    copied,
    engine_films,
    film_cells,
    forecast,
    forecast_scores,
    imputation,
    interpolated,
    limit,
    long_films,
    rollouts,
)
from sequence_films import EMISSION, recipe_of
from sequences import Parts, train
from shared import begin, store, stored
from torch import Tensor

from kvae_nb.core.files import atomic_write
from kvae_nb.data.films import VideoData, mask_gap, split_indices
from kvae_nb.data.opening import DataConfig, open_data
from kvae_nb.data.sequences import SequenceData, from_films
from kvae_nb.evaluation.bounds import all_bounds
from kvae_nb.evaluation.calibration import emission_covariance, gaussian_predictor, particle_predictor, predict_hidden
from kvae_nb.evaluation.checks import FIRST
from kvae_nb.evaluation.scores import held_out_elbo
from kvae_nb.training.checkpoints import read_checkpoint
from kvae_nb.training.loop import fit
from kvae_nb.training.pretrained import load_pretrained
from kvae_nb.training.runs import load_run, preset

EPOCHS = 20
FILMS = {"kvae": {}, "vae_rnn": {}, "ae_rnn": {"autoencoder": True}, "skvae": {}}
FILMS["dsvae"] = {"filters": 16, "pixels": "bernoulli"}
SEQUENCES = ("srnn", "vrnn", "dmm", "iseq", "arnn")
ORDER = ("kvae", "srnn", "vae_rnn", "dmm", "vrnn", "arnn", "iseq", "ae_rnn", "skvae", "dsvae")
UNTRAINED = ("copy_last", "interpolation", "constant", "limit")
MEASURED, FORECAST, ROLLED = 100, 100, 32  # films: of the test part, forecast, continued for 200 frames
PARTICLES = {"kvae_particles": 64, "skvae_particles": 256} | dict.fromkeys(SEQUENCES, 8)
TWICE = ("kvae", "skvae")  # measured with particles as well: a row each
PATHS, LONG, GAP, COVERED = 16, 200, 7, 100  # of IWAE; new frames; hidden frames and films where coverage is counted
NEW_SEED = 1_000_003  # of the films that are forecast; no other script uses it


def config_of(kind: str, data: Path, seed: int):
    "The run of a model of films: preset demo, 20 epochs."
    start = preset("demo", "rnn" if kind.endswith("rnn") else kind)
    training = replace(start.train, epochs=EPOCHS, decode_frames=5, seed=seed, threads=1, name=f"{kind}_{seed}")
    model = replace(start.model, **FILMS[kind])
    return replace(start, data=DataConfig(str(data)), model=model, train=training)


@contextmanager
def clocked(folder: Path, epoch):
    "Adds the CPU seconds of this process, and the epochs they went into, to a file in the folder, however it ends."
    started, first, path = time.process_time(), epoch(), folder / "cpu.json"
    try:
        yield
    finally:
        folder.mkdir(parents=True, exist_ok=True)
        known = json.loads(path.read_text()) if path.exists() else []
        known.append({"epochs": epoch() - first, "seconds": round(time.process_time() - started, 1)})
        with atomic_write(path) as tmp:
            tmp.write_text(json.dumps(known))


def folder_of(runs: Path, kind: str, seed: int) -> Path | None:
    "The folder of a training that has begun."
    if kind in SEQUENCES:
        return runs / f"films_{kind}_{seed}"
    found = sorted(p for p in runs.glob(f"*_{kind}_{seed}") if (p / "config.yaml").exists() and p.name[:3] == "202")
    return found[-1] if found else None


def epochs_of(runs: Path, kind: str, seed: int) -> int:
    "How many epochs a training has behind it."
    folder = folder_of(runs, kind, seed)
    if kind in SEQUENCES:
        last = folder / "last.safetensors"
        return read_checkpoint(last)[1].epoch if last.exists() else 0
    path = folder / "metrics.json" if folder else None
    return json.loads(path.read_text())["epoch"] if path and path.exists() else 0


def train_films(runs: Path, kind: str, data: Path, seed: int) -> Path:
    "Trains a model of films, or goes on."
    last = (folder := folder_of(runs, kind, seed)) and folder / "checkpoints" / "last.safetensors"
    with clocked(runs / "cpu" / f"{kind}_{seed}", lambda: epochs_of(runs, kind, seed)):
        if last and last.exists():
            return fit(resume=folder, quiet=True)
        return fit(config_of(kind, data, seed), runs, quiet=True)


def parts_of(data: Path) -> Parts:
    "Training, validation and test films."
    config = DataConfig(str(data))
    whole = open_data(config)
    return Parts(*(whole.subset(k) for k in split_indices(len(whole), config.test, config.valid, config.split_seed)))


def run_queue(args):
    "All trainings, seed after seed."
    films = parts_of(args.data)
    parts = Parts(*(from_films(part, EMISSION) for part in films))
    for seed in range(args.seeds):
        for kind in args.kinds:
            started = time.time()
            if kind in SEQUENCES:
                train(recipe_of(kind, seed), parts, folder_of(args.runs, kind, seed))
            elif epochs_of(args.runs, kind, seed) < EPOCHS:
                train_films(args.runs, kind, args.data, seed)
            print(kind, seed, f"{time.time() - started:.0f} s by the clock", flush=True)


class Bench(NamedTuple):
    "All films that a row is measured on."

    test: VideoData
    sequences: SequenceData  # the same
    cells: Films  # the same
    new: VideoData  # to be forecast
    new_cells: Films
    images: Tensor  # the generator's picture of each cell
    background: Tensor  # pixels that are on in every training frame
    mean: Tensor  # mean training frame


def floats(films: VideoData) -> Tensor:
    "The frames as numbers between 0 and 1."
    return films.frames.float() / 255


def bench_of(data: Path) -> Bench:
    "The films, and what is known of training films."
    config = DataConfig(str(data))
    whole = open_data(config)
    rows = split_indices(len(whole), config.test, config.valid, config.split_seed)
    known, chosen = whole.subset(rows[0]), rows[2][:MEASURED]
    cells = first_cells(film_cells(whole.state.double().numpy(), floats(whole), 1))
    new, test = engine_films(FORECAST, SEEN + AHEAD, NEW_SEED), whole.subset(chosen)
    new_cells = film_cells(new.state.double().numpy(), floats(new), 0)
    background = (known.frames[:, :, 0] > 127).flatten(0, 1).all(0)
    images = pictures(cells, new_cells)
    mean = floats(known).mean((0, 1))
    some = Films(*(v[chosen] for v in cells))
    return Bench(test, from_films(test, EMISSION), some, new, new_cells, images, background, mean)


def model_of(runs: Path, kind: str, seed: int):
    "A trained model; None while its training has not finished."
    kind = kind.removesuffix("_particles")
    if kind == "skvae" and seed == 0 and folder_of(runs, kind, seed) is None:
        return load_pretrained("box_switching").model
    if epochs_of(runs, kind, seed) < EPOCHS:
        return None
    if kind not in SEQUENCES:
        return load_run(folder_of(runs, kind, seed)).model
    recipe, folder = recipe_of(kind, seed), folder_of(runs, kind, seed)
    return train(recipe, Parts(*[SequenceDataStub(EMISSION)] * 3), folder)[0]


class SequenceDataStub(NamedTuple):
    "What a finished training asks of its data."

    emission: str
    controls: None = None


def minutes_of(runs: Path, kind: str, seed: int) -> float:
    "CPU minutes of the training."
    kind = kind.removesuffix("_particles")
    if kind in SEQUENCES:
        progress = read_checkpoint(folder_of(runs, kind, seed) / "last.safetensors")[1]
        return sum(e["seconds"] for e in progress.history) / 60
    path = runs / "cpu" / f"{kind}_{seed}" / "cpu.json"
    if kind == "skvae" and not path.exists():
        return 1075.7 / 60  # of the packaged switching KVAE, by the clock, as its file says
    known = json.loads(path.read_text())
    return sum(k["seconds"] for k in known) / sum(k["epochs"] for k in known) * EPOCHS / 60


@torch.no_grad()
def importance(model, x: Tensor) -> float:
    "The log of the mean of 16 weights p(x, a)/q(a|x), in nats a frame: IWAE of a model whose z is integrated exactly."
    torch.manual_seed(0)
    logs = torch.stack([torch.cat([model.elbo(part).elbo for part in x.split(50)]) for _ in range(PATHS)])
    return ((logs.logsumexp(0) - torch.tensor(float(PATHS)).log()).sum() / x[..., 0, 0, 0].numel()).item()


def bound(kind: str, model, bench: Bench) -> dict:
    "The bound on the log-likelihood, nats a frame, and what it is."
    if kind in SEQUENCES:
        found = all_bounds(model, bench.sequences, PATHS)
        if kind == "arnn":
            return {"kind": "log-likelihood, each frame given the true ones before it", "exact": found.elbo.per_step}
        named = {name: getattr(found, name).per_step for name in ("elbo", "iwae", "fivo")}
        return {"kind": f"ELBO; IWAE and FIVO with {PATHS} paths"} | named
    if kind == "ae_rnn":
        return {"kind": "none: its score is no bound"}
    elbo = held_out_elbo(model, bench.test).per_frame
    if kind in ("skvae", "dsvae"):
        return {"kind": "ELBO, regimes by a Markov chain" if kind == "skvae" else "ELBO", "elbo": elbo}
    integrated = "" if kind == "vae_rnn" else ", z integrated exactly"
    found = importance(model, floats(bench.test))
    return {"kind": f"ELBO; IWAE with {PATHS} samples of a{integrated}", "elbo": elbo, "iwae": found}


def coverage(kind: str, model, bench: Bench) -> dict | None:
    "How often a of hidden frames lies in the stated regions; None where no distribution of a is stated."
    if kind == "kvae":
        tool = gaussian_predictor(model.dynamics.R().double())
    elif kind == "kvae_particles":
        tool = particle_predictor(PARTICLES[kind])
    elif kind == "skvae":
        tool = gaussian_predictor(emission_covariance(model, bench.test))
    elif kind == "vae_rnn":
        tool = gaussian_predictor(torch.zeros(2, 2, dtype=torch.float64))
    else:
        return None
    some = bench.test[:COVERED]
    hidden = predict_hidden(model, some, mask_gap(COVERED, some.steps, FIRST, GAP), tool)
    parts = {"smoothing": hidden.predicted.smoothed, "filtering": hidden.predicted.filtered}
    if kind == "vae_rnn":
        del parts["smoothing"]
    return {"levels": LEVELS} | {how: share(levels(p, hidden.a, 1), hidden.film) for how, p in parts.items()}


def generated(kind: str, model, bench: Bench) -> dict:
    "Sampled forecasts and long films."
    given = {"particles": PARTICLES[kind]} if kind in SEQUENCES else {}
    x = floats(bench.new)
    drawn = rollouts(model, x[:, :SEEN], AHEAD, **given)
    made = rollouts(model, x[:ROLLED, :FIRST], LONG, **given)
    return {
        "sampled": forecast_scores(drawn, x[:, SEEN:], bench.background),
        "generation": long_films(made, x[:ROLLED], floats(bench.test)),
    }


def untrained(kind: str, bench: Bench) -> dict:
    "Rows that nothing was trained for."
    tools = {"copy_last": copied, "interpolation": interpolated, "constant": constant(bench.mean)}
    test, new = floats(bench.test), floats(bench.new)
    inside, ahead = (
        (limit(bench.cells, bench.images), limit(bench.new_cells, bench.images))
        if kind == "limit"
        else (tools[kind], tools[kind])
    )
    found = {"imputation": imputation(inside, test), "forecast": forecast(ahead, new, bench.background)}
    if kind == "constant":
        p = bench.mean.double().clamp(LEAST, 1 - LEAST)
        log = (test * p.log() + (1 - test) * (1 - p).log()).sum((2, 3, 4)).mean().item()
        found["bound"] = {"kind": "log-likelihood of independent pixels, as often on as in training", "exact": log}
    if kind == "limit":
        known = stored("limits")["log_evidence"]["per_frame"]
        found["bound"] = {"kind": "the highest possible mean log p(x), experiments/limits.py", "exact": known}
    return found | {"parameters": 0, "cpu_minutes": 0.0}


def trained(kind: str, seed: int, model, bench: Bench, runs: Path) -> dict:
    "Everything about a trained model."
    asked = PARTICLES.get(kind, 0 if kind in TWICE else None)
    given = {} if asked is None else {"particles": asked}
    predict = by_model(model, **given)
    return {
        "particles": PARTICLES.get(kind, 0),
        "imputation": imputation(predict, floats(bench.test)),
        "forecast": forecast(predict, floats(bench.new), bench.background),
        **generated(kind, model, bench),
        "bound": bound(kind.removesuffix("_particles"), model, bench),
        "coverage": coverage(kind, model, bench),
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "cpu_minutes": minutes_of(runs, kind, seed),
    }


def rounded(value):
    "Numbers with few digits."
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def measure_all(args):
    "Measures all rows that are finished and not stored yet."
    bench = bench_of(args.data)
    head = {
        "command": f"python experiments/family.py measure --data ../shared/data/{args.data.name} --seeds {args.seeds}",
        "data": args.data.name,
        "films": {"measured": MEASURED, "forecast": FORECAST, "continued": ROLLED, "coverage": COVERED},
        "epochs": EPOCHS,
        "least probability": LEAST,
    }
    if args.again:
        known = [r for r in stored("family").get("runs", []) if r["kind"] not in args.again]
        store("family", head | {"runs": known}, indent=None)
    wanted = [{"kind": kind, "seed": None} for kind in UNTRAINED]
    order = [k for kind in args.kinds for k in ([kind, f"{kind}_particles"] if kind in TWICE else [kind])]
    wanted += [{"kind": kind, "seed": seed} for seed in range(args.seeds) for kind in order]

    def one(row: dict) -> dict:
        started = time.process_time()
        if row["seed"] is None:
            found = untrained(row["kind"], bench)
        else:
            model = model_of(args.runs, row["kind"], row["seed"]).eval()
            found = trained(row["kind"], row["seed"], model, bench, args.runs)
        return rounded(found | {"seconds_to_measure": time.process_time() - started})

    ready = [r for r in wanted if r["seed"] is None or model_of(args.runs, r["kind"], r["seed"]) is not None]
    runs = stored("family").get("runs", [])
    for row in ready:
        if not any(row.items() <= done.items() for done in runs):
            runs.append(row | one(row))
            store("family", head | {"runs": runs}, indent=None)
            print(row, f"{runs[-1]['seconds_to_measure']:.0f} s", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("what", choices=["train", "measure"])
    p.add_argument("--data", required=True, type=Path, help="the .npz file of the paper's box generator")
    p.add_argument("--kinds", nargs="+", default=ORDER, choices=ORDER)
    p.add_argument("--again", nargs="+", default=[], help="kinds of rows that are measured again")
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--runs", type=Path, default=Path("runs"), help="where trainings are kept")
    args = p.parse_args()
    begin()
    (run_queue if args.what == "train" else measure_all)(args)


if __name__ == "__main__":
    main()
