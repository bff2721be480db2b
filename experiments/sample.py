"""The films that `--data sample` means: sixteen of our simulator, in the room that the videos of the paper's box have.

    python experiments/sample.py

The pretrained weights `box` know videos of the paper's own generator, whose outline lies one pixel further in than
ours, and a model that has never seen another outline cannot make anything of it; so the films are simulated without
walls, and that outline is drawn. Takes seconds.
"""

from pathlib import Path

import torch

from kvae_nb.data.films import VideoData, from_simulation
from kvae_nb.data.opening import save_video_data
from kvae_nb.worlds.balls import simulate

outline = torch.zeros(32, 32, dtype=torch.bool)
outline[2:31, 2:31] = True
outline[3:30, 3:30] = False
films = from_simulation(simulate("box", sequences=16, steps=20, seed=1, radius=3.0, walls=False))
frames = films.frames.maximum(255 * outline.to(torch.uint8))
save_video_data(
    Path(__file__).parents[1] / "kvae_nb" / "samples" / "box.npz",
    VideoData(frames, films.state, contacts=films.contacts),
)
