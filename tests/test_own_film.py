"""A film from a telephone or a camera, of any size and colour, given to `kvae train` with no other word."""

import imageio.v3 as iio
import numpy as np
import pytest

from kvae_nb.app.command import main
from kvae_nb.app.verbs import parse
from kvae_nb.core.errors import InputError
from kvae_nb.data.films import describe
from kvae_nb.data.opening import looks_grey, open_data
from kvae_nb.training.runs import RunConfig, fit_config_to_data


def film(path, height, width, frames=45, grey=False, binary=False):
    "A bright spot that goes round on a coloured ground."
    t, (y, x) = np.arange(frames)[:, None, None], np.mgrid[:height, :width]
    near = (
        np.hypot(x - width / 2 * (1 + 0.6 * np.sin(t / 7)), y - height / 2 * (1 + 0.6 * np.cos(t / 5)))
        < min(height, width) / 6
    )
    ground = np.zeros((1, 1, 1, 3)) if binary else 80 + 60 * np.stack([x / width, y / height, x * 0 + 0.5], -1)[None]
    pixels = np.where(near[..., None], 255, ground).astype(np.uint8)
    iio.imwrite(
        path,
        pixels[..., :1].repeat(3, -1) if grey else pixels,
        **({"macro_block_size": 1} if path.suffix == ".mp4" else {}),
    )
    return path


@pytest.mark.parametrize(
    "name, height, width", [("wide.mp4", 74, 100), ("tall.mp4", 160, 90), ("odd.gif", 51, 67), ("small.gif", 20, 31)]
)
def test_any_size_becomes_square_sequences(tmp_path, name, height, width):
    path = film(tmp_path / name, height, width)
    config = parse(["train", "--data", str(path)])[1]
    data = open_data(config.data)
    found = fit_config_to_data(RunConfig(data=config.data, model=config.model), data)
    assert found.data.binarize is False and found.model.pixels == "gaussian" and "levels kept" in describe(data)
    assert (len(data), data.steps, data.size) == (2, 20, 32) and data.frames.float().std() > 10


def test_black_and_white_stays_black_and_white(tmp_path):
    path = film(tmp_path / "ball.gif", 32, 32, binary=True)
    config = parse(["train", "--data", str(path)])[1]
    data = open_data(config.data)
    found = fit_config_to_data(RunConfig(data=config.data, model=config.model), data)
    assert found.data.binarize and found.model.pixels == "bernoulli" and set(data.frames.unique().tolist()) == {0, 255}


def test_what_is_said_wins_over_what_is_seen(tmp_path):
    path = film(tmp_path / "clip.gif", 40, 40, grey=True)
    assert parse(["train", "--data", str(path), "--model.pixels", "bernoulli"])[1].model.pixels == "bernoulli"


def test_no_film_is_no_grey_film(tmp_path):
    assert not looks_grey(tmp_path / "missing.mp4") and not looks_grey("clips.npz")
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    with pytest.raises(InputError, match="cannot be decoded"):
        looks_grey(tmp_path / "broken.mp4")


@pytest.mark.parametrize("name, width", [("tall.mp4", 52), ("odd.gif", 51)])
def test_from_a_cold_start_to_frames_filled_in(tmp_path, monkeypatch, name, width):
    film(tmp_path / name, 90, width, frames=60)
    monkeypatch.chdir(tmp_path)
    small = (
        "--data.steps 5 --data.size 16 --model.filters 4 --model.alpha_units 8 --train.epochs 1 "
        "--train.batch_size 4 --train.device cpu --train.threads 1 --train.picture_every 0"
    )
    assert main(["train", "--data", name, *small.split()]) == 0
    assert main(["impute", "--data", name, "--gap", "1:3", "--out", "filled.npz"]) == 0
    with np.load("filled.npz") as found:
        assert (
            found["smoothed"].shape == (12, 5, 3, 16, 16)
            and np.isfinite(found["smoothed"]).all()
            and (~found["mask"]).sum() == 24
        )


@pytest.mark.parametrize("frames", [12, 45])
def test_a_film_that_is_too_short_is_refused_with_the_way_out(tmp_path, capsys, frames):
    path = film(tmp_path / "short.gif", 40, 40, frames=frames)
    assert main(["train", "--data", str(path), "--out", str(tmp_path / "runs")]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("kvae: ") and "data.steps" in said and not (tmp_path / "runs").exists()
