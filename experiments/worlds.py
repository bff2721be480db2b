"""Four worlds by two generators: how the weights trained on one do on films of the other.

    python experiments/worlds.py ../shared/data                    # a few minutes on one CPU core
    python experiments/worlds.py ../shared/data --particles 256    # hidden frames by particles as well

Rows are weights of the package, trained on the authors' films or on our simulator's; columns are films of the authors'
generator (the held-out part), and new ones of our simulator in our look and in the published one. Measured are the
plain bound and the share of wrong pixels in hidden frames: a gap of seven frames and half of them dropped. No weights
have been trained on, or chosen by, any of these films. Writes experiments/results/worlds.json.
"""

import argparse
import time
from pathlib import Path

import torch
from shared import begin, store, wrong_pixels

from kvae_nb.data.films import VideoData, from_simulation, split
from kvae_nb.data.opening import DataConfig, open_data
from kvae_nb.evaluation.imputation import curve_masks
from kvae_nb.evaluation.scores import held_out_elbo
from kvae_nb.models.protocol import asked_particles
from kvae_nb.training.pretrained import load_pretrained, pretrained_names
from kvae_nb.worlds.balls import LOOKS, WORLDS, simulate

FILES = {"box": "box", "gravity": "box_gravity", "polygon": "polygon", "pong": "pong"}
SEED = 1500  # of the new films of our simulator
MASKS = (("gap", "7"), ("drop", "0.5"))
LOST = 0.05  # share of wrong pixels from which a model does not know these films, and particles would not help


def films(world: str, folder: Path, count: int) -> dict[str, VideoData]:
    "Films of each kind that no weights have been trained on."
    config = DataConfig(path=str(folder / f"{FILES[world]}.npz"), binarize=True)
    held_out = split(open_data(config), config.test, config.valid, config.split_seed).test
    ours = {look: from_simulation(simulate(world, count, 20, seed=SEED, look=look)) for look in LOOKS}
    return {"authors": held_out[:count]} | {f"simulated, {look} look": data for look, data in ours.items()}


def errors(model, data: VideoData, mask: torch.Tensor, particles: int) -> dict[str, float]:
    "Share of wrong pixels in hidden frames, by smoothing and filtering; 0 particles: the plug-in."
    found = wrong_pixels(model, data.frames.float() / 255, mask, **asked_particles(model, particles))
    mean = found.sum(0) / (~mask).sum()
    return {how: round(v.item(), 5) for how, v in zip(("smoothing", "filtering"), mean)}


@torch.no_grad()
def measured(model, data: VideoData, particles: int) -> dict:
    "The plain bound and the errors in hidden frames of these films."
    masks, _ = curve_masks(data, (7,), (0.5,), 0)
    found = {"elbo_per_frame": round(held_out_elbo(model, data).per_frame, 3)}
    for kind, size in MASKS:
        found[f"{kind} {size}"] = errors(model, data, masks[kind][size], 0)
        if particles and found[f"{kind} {size}"]["smoothing"] < LOST:
            found[f"{kind} {size}, particles"] = errors(model, data, masks[kind][size], particles)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with box.npz, box_gravity.npz, polygon.npz and pong.npz")
    parser.add_argument("--films", type=int, default=200, help="of each kind")
    parser.add_argument("--particles", type=int, default=0, help="besides the plug-in; 0: none")
    args = parser.parse_args()
    begin()
    started, table = time.perf_counter(), []
    for world in WORLDS:
        kinds = films(world, args.data, args.films)
        for name in (n for n in (world, f"simulated_{world}") if n in pretrained_names()):
            model = load_pretrained(name).model
            for kind, data in kinds.items():
                table.append({"world": world, "weights": name, "films": kind, **measured(model, data, args.particles)})
                print(table[-1], flush=True)
    content = {
        "command": "python experiments/worlds.py ../shared/data"
        + f" --particles {args.particles}" * bool(args.particles),
        "sequences": args.films,
        "seed": SEED,
        "particles": args.particles,
        "seconds": round(time.perf_counter() - started),
        "table": table,
    }
    store("worlds", content)


if __name__ == "__main__":
    main()
