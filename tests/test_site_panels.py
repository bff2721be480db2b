"""What the two panels of the site draw from is what `experiments/panels.py` makes of the model and of the seed.

The panels themselves are moved in a browser by tests/browser/test_panels.py.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kvae_nb import load_pretrained

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "experiments"))
import panels

DATA = json.loads((ROOT / "nbs/images/panels.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def codes():
    with torch.no_grad():
        return panels.codes()


def test_the_codes_are_stored(codes):
    a, height = codes
    found = torch.cat([a, height[:, None]], 1)
    assert len(DATA["codes"]) == len(found) and (height.min(), height.max()) == (0, 1)
    np.testing.assert_allclose(DATA["codes"], found, rtol=0, atol=0.006)  # two decimals


def test_the_grid_reaches_a_tenth_beyond_the_codes(codes):
    a, stored = codes[0].numpy(), DATA["sheet"]
    beyond, made = 0.1 * (a.max(0) - a.min(0)), panels.grid(codes[0])
    for low, high, cells in ((stored["low"], stored["high"], stored["cells"]), made):
        np.testing.assert_allclose(low, a.min(0) - beyond, rtol=0, atol=0.051)  # one decimal
        np.testing.assert_allclose(high, a.max(0) + beyond, rtol=0, atol=0.051)
        assert cells == 41


def test_the_tiles_of_the_sheet_are_decoded_points():
    n, size, low, high = (DATA["sheet"][k] for k in ("cells", "size", "low", "high"))
    sheet = np.asarray(Image.open(ROOT / "nbs/images/latent_sheet.png"))
    assert sheet.shape == (n * size, n * size)
    model, at = load_pretrained(panels.WORLD).model, [(0, 0), (0, n - 1), (n - 1, 0), (n // 2, n // 2), (7, 30)]
    for row, column in at:  # the first row is the highest
        a = [low[0] + column / (n - 1) * (high[0] - low[0]), high[1] - row / (n - 1) * (high[1] - low[1])]
        with torch.no_grad():
            wanted = 255 * model.decode(torch.tensor([[a]]))[0, 0].squeeze(0)
        tile = sheet[row * size : (row + 1) * size, column * size : (column + 1) * size]
        assert np.abs(tile - wanted.numpy()).max() <= 1
    grid = panels.Grid(tuple(low), tuple(high), 5)
    points = panels.points(grid)
    assert points.shape == (5, 5, 2) and points[0, 0].tolist() == pytest.approx([low[0], high[1]])
    with torch.no_grad():
        small = panels.sheet(grid)
        last = (255 * load_pretrained(panels.WORLD).model.decode(points[-1:, :1]).squeeze()).numpy()
    assert np.abs(small[-size:, :size] - last).max() <= 1


def test_the_series_is_drawn_from_its_model():
    assert DATA["series"] == panels.series()
    y, truth, model = DATA["series"]["y"], DATA["series"]["truth"], panels.tracking(0.3, 2.0)
    assert [t for t, v in enumerate(y) if v is None] == list(range(*panels.HIDDEN)) and len(y) == len(truth)
    # white noise of strength q on the velocity, over one step: the integral of e^{As} G Gᵀ e^{Aᵀs}, by a fine sum
    s = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    push = torch.stack([s, torch.ones_like(s)])
    torch.testing.assert_close(model.Q[0], 0.3 * push @ push.mT / 1000, rtol=1e-6, atol=0)
    assert (model.R.item(), model.cov1.tolist()) == (2.0, [[panels.START, 0], [0, panels.START]])
