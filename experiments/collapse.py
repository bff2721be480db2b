"""Posterior collapse of a Kalman VAE with and without annealing: the same seeds in two arms, which differ in β only.

    python experiments/collapse.py --setting mlp --seeds 20

How the settings were found. The paper's recipe (learning rate .007, weight .3 on the pixels, K=3, dim_z=4, LSTM) was
made small, so that a training takes half a minute: films of 16×16 pixels, 16 films in a step, 1000 steps. Then, with β
= 1 throughout and three to six seeds each, were tried

  mlp    encoder and decoder with two hidden layers of 64 units, the library's own (Glorot) start: all collapsed, and
         two seeds that were left to themselves for 4000 steps still were; so were all with PyTorch's default start,
         and with K=8 and dim_z=6 besides (with 256 units, the default, both of two seeds were alive at step 1000,
         ten nats behind the annealed ones)
  conv   convolutions with 16 filters, PyTorch's default start: five of six were collapsed at step 1000, but one of two
         that were left to themselves woke up before step 1300: some of these are late rather than lost

A ramp that begins at step 0 was too steep in trials with one seed (conv, over 200 steps) and three seeds (mlp, over
500): with .3 on the pixels a small β already has a large effect, and the decoder had not learned by then to use
the code. Hence β = 0 for 300 steps, then a rise over 200.

Writes experiments/results/collapse_<setting>.json after every run and skips the runs that are there already, so it can
be stopped and started. For each run: how much the encoder says (active units, rate, mutual information, on 64 films
that were not trained on), liveness and response of the decoder, the plain bound, how many steps were skipped because
loss or gradient was not finite, and the verdict of `kvae_nb.training.annealing.diagnose`; the numbers behind it every
100 steps. A run that is not alive at the end gets as many steps again, β = 0 for 600 of them, then a rise over 200: one
that was only collapsed can wake up, one that is dead cannot. A failing Cholesky factor would end the script. Everything
is float32.
"""

import argparse
import json
import platform
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch

from kvae_nb.core.errors import InputError
from kvae_nb.core.files import atomic_write
from kvae_nb.core.runtime import tune_cpu
from kvae_nb.data.films import take
from kvae_nb.data.opening import DataConfig, open_data
from kvae_nb.models.kvae import KVAEConfig
from kvae_nb.training.annealing import Schedule, collapse_report, diagnose
from kvae_nb.training.config import TrainConfig
from kvae_nb.training.loop import epoch_rows
from kvae_nb.training.runs import RunConfig, build_model
from kvae_nb.training.step import make_trainer, reseed, train_step
from kvae_nb.training.watch import liveness, response

HERE = Path(__file__).parent
ARMS = {"constant": Schedule(), "annealed": Schedule("linear", wait=300, length=200, unit="steps")}
AGAIN = Schedule("linear", wait=600, length=200, unit="steps")  # the second chance, counted from its own start
RECIPE = RunConfig(data=DataConfig(sequences=512, size=16), train=TrainConfig(batch_size=16, device="cpu", threads=1))
SETTINGS = {
    "mlp": replace(RECIPE, model=KVAEConfig(size=16, network="mlp", units=64)),
    "conv": replace(RECIPE, model=KVAEConfig(size=16, filters=16), train=replace(RECIPE.train, decode_frames=5)),
}
DEFAULT_START = {"conv"}  # settings with PyTorch's own initialisation
TEST = 64  # films kept for the measures


def default_start(model: torch.nn.Module) -> torch.nn.Module:
    "The model with PyTorch's own initialisation in every layer that has one."
    for layer in model.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    return model


@torch.no_grad()
def measure(model, x, config: TrainConfig) -> dict:
    "What encoder and decoder do on these films."
    reseed(config, "valid")
    report, live, answer = collapse_report(model.posterior(x)), liveness(model, x), response(model, x)
    return {
        "elbo": model.elbo(x).per_frame.item(),
        "active_units": report.active_units,
        "rate": report.rate,
        "mutual_information": report.mutual_information,
        "liveness": live,
        "response": answer,
        "verdict": diagnose(report.rate, live, answer),
    }


def go(trainer, data, steps: range, x, path: list) -> int:
    "Takes these steps, measures every 100, and returns how many were skipped."
    skipped, per_epoch, rows = 0, len(data) // trainer.config.batch_size, []
    for step in steps:
        rows = rows or epoch_rows(len(data), trainer.config, step // per_epoch)[step % per_epoch :]
        skipped += int(not train_step(trainer, take(data, rows.pop(0)), step / per_epoch, step).finite)
        if (step + 1) % 100 == 0:
            path.append({"step": step + 1, **measure(trainer.bare, x, trainer.config)})
    return skipped


def one_run(model, config: TrainConfig, data, steps: int) -> dict:
    """A training from this seed with this schedule of β; if nothing came of it, what becomes of the same weights
    when they get as many steps again, annealed.
    """
    path, started = [], (time.perf_counter(), time.process_time())
    trainer, train, x = make_trainer(model, config), data[TEST:], take(data, torch.arange(TEST)).x
    skipped = go(trainer, train, range(steps), x, path)
    result = {"seed": config.seed, **path[-1]}
    if result["verdict"] != "alive":
        again = replace(config, beta=replace(AGAIN, wait=steps + AGAIN.wait))
        skipped += go(trainer._replace(config=again), train, range(steps, 2 * steps), x, path)
        result["annealed_afterwards"] = path[-1]
    short = [{k: p[k] for k in ("step", "elbo", "rate", "liveness", "response")} for p in path]
    return {
        **result,
        "skipped_steps": skipped,
        "seconds": round(time.perf_counter() - started[0], 1),
        "cpu_seconds": round(time.process_time() - started[1], 1),
        "path": short,
    }


def begun(args, run, data, out):
    "What is to be stored, with the runs that were stored before. Raises `InputError` if they had another setting."
    setting = {k: asdict(getattr(run, k)) for k in ("data", "model", "train")} | {
        "arms": {k: asdict(s) for k, s in ARMS.items()},
        "steps": args.steps,
        "again": asdict(AGAIN),
        "start": "PyTorch's" if args.setting in DEFAULT_START else "Glorot",
    }
    result = {
        "command": "python experiments/collapse.py " + " ".join(sys.argv[1:]),
        "setting": setting,
        "machine": f"{platform.machine()} CPU, {torch.get_num_threads()} thread",
        "torch": torch.__version__,
        "constant_image_score": build_model(run).pixels.constant_image_score(take(data, torch.arange(TEST)).x),
        "runs": [],
    }
    if out.exists():
        before = json.loads(out.read_text())
        if before["setting"] != json.loads(json.dumps(setting)):
            raise InputError(f"{out} holds runs of another setting; move it away or give another --out.")
        result["runs"] = before["runs"]
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--setting", choices=SETTINGS, default="mlp")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--out", type=Path, help="another file for the results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    tune_cpu()
    run, out = SETTINGS[args.setting], args.out or HERE / "results" / f"collapse_{args.setting}.json"
    data, start = open_data(run.data), default_start if args.setting in DEFAULT_START else lambda model: model
    result = begun(args, run, data, out)
    done = {(r["arm"], r["seed"]) for r in result["runs"]}
    for seed, arm in ((s, a) for s in range(args.seeds) for a in ARMS):
        if (arm, seed) in done:
            continue
        config = replace(run.train, seed=seed, beta=ARMS[arm])
        found = one_run(start(build_model(replace(run, train=config))), config, data, args.steps)
        result["runs"].append({"arm": arm, **found})
        with atomic_write(out) as tmp:
            tmp.write_text(json.dumps(result, indent=1) + "\n")
        later = f", afterwards {found['annealed_afterwards']['verdict']}" if "annealed_afterwards" in found else ""
        print(
            f"seed {seed:2d}, {arm:>8}: {found['verdict']}{later}, rate {found['rate']:.4f} nats, response "
            f"{found['response']:.1e}, {found['elbo']:.1f} nats per frame, {found['skipped_steps']} steps "
            f"skipped, {found['cpu_seconds']:.0f} s",
            flush=True,
        )
    for arm in ARMS:
        verdicts = [r["verdict"] for r in result["runs"] if r["arm"] == arm]
        print(f"{arm}: " + ", ".join(f"{verdicts.count(v)} of {len(verdicts)} {v}" for v in sorted(set(verdicts))))


if __name__ == "__main__":
    main()
