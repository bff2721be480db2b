"""The moving picture on the README: a film that comes and goes, and what a pretrained model makes of it.

    python experiments/hero.py

The film is the first of a seed that training has not used, three times as long as those the model was trained on.
Writes nbs/images/hero.gif. Takes seconds.
"""

from dataclasses import replace
from pathlib import Path

import torch

from kvae_nb.data.opening import open_data
from kvae_nb.evaluation.videos import video_rows, write_video
from kvae_nb.models.kvae import KVAE
from kvae_nb.training.pretrained import load_pretrained

WORLD, STEPS, SEEN, HIDDEN = "simulated_gravity", 60, 4, 8


@torch.no_grad()
def main():
    "Four films beside each other: the truth, what the model saw, its filter, its smoother."
    weights = load_pretrained(WORLD)
    film = open_data(
        replace(weights.data, sequences=1, steps=STEPS, simulate_seed=weights.data.simulate_seed + 1, test=0, valid=0)
    )
    x = film.frames.float() / 255
    mask = torch.arange(STEPS)[None] % (SEEN + HIDDEN) < SEEN
    found = KVAE.from_pretrained(WORLD).impute(x, mask, particles=0)
    shown = x.where(mask[..., None, None, None], torch.tensor(0.45))
    wrong = {
        how: ((f.frames > 0.5) != (x > 0.5))[~mask].float().mean()
        for how, f in (("filtered", found.filtered), ("smoothed", found.smoothed))
    }
    films = [v[0].clamp(0, 1).numpy() for v in (x, shown, found.filtered.frames, found.smoothed.frames)]
    path = write_video(
        Path(__file__).parents[1] / "nbs" / "images" / "hero.gif",
        video_rows(films, mask[0], ["true", "seen by the model", "from the past", "with hindsight"], scale=5),
        fps=6,
    )
    print(
        path,
        f"{path.stat().st_size / 1024:.0f} KB",
        "wrong pixels in hidden frames:",
        {k: f"{v:.2%}" for k, v in wrong.items()},
    )


if __name__ == "__main__":
    main()
