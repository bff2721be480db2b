"""A film from a telephone or a camera, of any size and colour, given to `kvae train` and `kvae impute`."""

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from kvae_nb.app.command import main
from kvae_nb.app.verbs import parse
from kvae_nb.core.errors import InputError
from kvae_nb.data.films import describe
from kvae_nb.data.opening import DataConfig, looks_grey, open_data
from kvae_nb.training.few import for_few_clips
from kvae_nb.training.kinds import divided
from kvae_nb.training.runs import RunConfig, fit_config_to_data, read_config


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


SMALL = (
    "--data.size 16 --model.filters 4 --model.alpha_units 8 --train.epochs 1 --train.device cpu --train.threads 1 "
    "--train.picture_every 0"
)


def test_the_recipe_from_a_cold_start_to_the_whole_film(tmp_path, monkeypatch, capsys):
    film(tmp_path / "film.mp4", 50, 66, frames=400)
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--data", "film.mp4", "--preset", "demo", *SMALL.split()]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == (
        "400 frames: 381 overlapping clips of 20, 286 to train on, batch 8, learning rate 0.003, 1 epoch"
    )
    assert main("impute film.mp4 --gap 40:47 --out filled.mp4 --strip".split()) == 0
    said = capsys.readouterr().out
    assert "7 of 400 frames were hidden" in said and "middle 50×50 of 50×66 pixels" in said
    assert "grey levels" in said and (tmp_path / "filled_strip.png").stat().st_size > 1000
    before, after = (np.stack([*iio.imiter(name, plugin="FFMPEG")]) for name in ("film.mp4", "filled.mp4"))
    assert before.shape == after.shape == (400, 50, 66, 3)
    assert iio.immeta("filled.mp4", plugin="FFMPEG")["fps"] == iio.immeta("film.mp4", plugin="FFMPEG")["fps"]
    off = np.abs(before.astype(int) - after).mean((1, 2, 3))
    hidden = np.isin(np.arange(400), np.arange(40, 47))
    assert off[~hidden].max() < 3 < off[hidden].min()  # what is left is the compression
    assert main("evaluate --measure.gaps 3 --measure.drops [] --measure.generate_steps 2".split()) == 0
    assert "is better on these films in gaps of 3: " in capsys.readouterr().out  # one epoch has learnt nothing


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A run folder of a model that has seen a few frames of a film in colour."
    there = tmp_path_factory.mktemp("own")
    film(there / "film.gif", 51, 67, frames=60)
    assert main(["train", "--data", str(there / "film.gif"), *SMALL.split(), "--out", str(there / "runs")]) == 0
    return str(next((there / "runs").iterdir()))


def pictures(folder, frames):
    "The frames as a folder of PNG images."
    folder.mkdir()
    for t, frame in enumerate(frames):
        iio.imwrite(folder / f"{t}.png", frame)
    return folder


def read_back(path):
    "All frames of a film of any kind."
    if path.suffix == ".npz":
        with np.load(path) as found:
            return found["images"]
    if path.is_dir():
        return np.stack([iio.imread(p) for p in sorted(path.iterdir())])
    return np.stack([*iio.imiter(path, plugin="pillow" if path.suffix == ".gif" else "FFMPEG")])


@pytest.mark.parametrize("shape", [(51, 67, 3), (40, 21), (16, 16, 3)], ids=["odd", "grey", "small"])
def test_seen_frames_are_what_they_were_and_hidden_ones_are_not_looked_at(run, tmp_path, shape):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (12, *shape), dtype=np.uint8)
    hidden = np.isin(np.arange(12), [0, 3, 4, 5, 11])
    other = np.where(hidden.reshape(-1, *[1] * len(shape)), 255 - frames, frames)
    found = []
    for name, some in (("one", frames), ("other", other)):
        source = pictures(tmp_path / name, some)
        for out in (f"{name}.npz", f"{name}_filled"):
            words = ["impute", run, "--data", str(source), "--gap", "0:1,3:6,11:12", "--out", str(tmp_path / out)]
            assert main(words) == 0
            found.append(read_back(tmp_path / out))
    assert all(f.shape == frames.shape and f.dtype == np.uint8 for f in found)
    assert all((f[~hidden] == frames[~hidden]).all() for f in found)
    assert all((f == found[0]).all() for f in found)
    assert (found[0][hidden] != frames[hidden]).mean() > 0.5
    with np.load(tmp_path / "one.npz") as arrays:
        assert arrays["smoothed"].shape == (1, 12, 3, 16, 16) and (arrays["mask"] == ~hidden).all()


@pytest.mark.parametrize("ending", [".gif", ".mp4"])
def test_films_of_odd_sizes_keep_them(run, tmp_path, ending):
    source = film(tmp_path / "odd.gif", 51, 67, frames=24)
    out = tmp_path / f"filled{ending}"
    words = ["impute", run, "--data", str(source), "--gap", "2:4", "--every", "6", "--out", str(out)]
    assert main(words) == 0
    before, after = read_back(source)[..., :3].astype(int), read_back(out)[..., :3]
    assert before.shape == after.shape == (24, 51, 67, 3)
    hidden = np.isin(np.arange(24) % 6, [2, 3])
    off = np.abs(before - after).mean((1, 2, 3))
    assert off[~hidden].max() < 4 < off[hidden].min()


def test_frames_that_are_missing_in_the_file_are_filled_in(run, tmp_path, capsys):
    frames = np.random.default_rng(0).integers(0, 256, (10, 20, 30, 3), dtype=np.uint8)
    lost = frames / np.float32(255)
    lost[4:6] = np.nan
    np.savez(tmp_path / "lost.npz", images=lost)
    np.savez(tmp_path / "masked.npz", images=frames, mask=~np.isin(np.arange(10), [4, 5]))
    for name in ("lost", "masked"):
        out = tmp_path / f"{name}_filled.npz"
        assert main(["impute", run, "--data", str(tmp_path / f"{name}.npz"), "--out", str(out)]) == 0
        said = capsys.readouterr().out
        assert "2 of 10 frames were hidden" in said and "in hidden squares" not in said  # the truth is not known
        back = read_back(out)
        assert (np.delete(back, [4, 5], 0) == np.delete(frames, [4, 5], 0)).all()
    line = (frames[3].astype(float) * 2 + frames[6]) / 3  # a third of the way, beside the square
    assert np.abs(back[4, :, :5] - line[:, :5]).max() <= 0.5


@pytest.mark.parametrize(
    "words, said",
    [
        ("--gap 10:80 --out x.mp4", "0 <= start < stop <= 60"),
        ("--gap 4 --out x.mp4", "start:stop"),
        ("--out x.mp4", "no frame is hidden"),
        ("--gap 0:60 --out x.mp4", "no frame left"),
        ("--gap 1:9 --every 8 --out x.mp4", "--every is 8"),
        ("--every 8 --out x.mp4", "--every is 8"),
        ("--every -1 --gap 1:2 --out x.mp4", "--every is -1"),
        ("--gap 1:2 --out x.avi", "written as .mp4"),
        ("--gap 1:2 --out runs", "holds other files"),
        ("--gap 1:2 --out film.gif --force", "would destroy it"),
        ("--gap 1:2 --out film.gif/x.mp4", "is a file"),
    ],
)
def test_nonsense_is_refused_in_one_sentence_and_nothing_is_written(run, monkeypatch, capsys, words, said):
    there = Path(run).parents[1]
    monkeypatch.chdir(there)
    before = sorted(there.rglob("*"))
    assert main(["impute", "film.gif", *words.split()]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and error[0].startswith("kvae: ") and said in error[0]
    assert sorted(there.rglob("*")) == before


def test_a_strip_is_for_one_film(run, tmp_path, capsys):
    np.savez(tmp_path / "clips.npz", images=np.zeros((3, 8, 16, 16), np.uint8))
    words = ["impute", run, "--data", str(tmp_path / "clips.npz"), "--gap", "1:2", "--out", str(tmp_path / "x.npz")]
    assert main([*words, "--strip"]) == 2 and "--strip is for one film" in capsys.readouterr().err


@pytest.mark.parametrize("frames, steps", [(400, 20), (400, 10), (61, 20), (1000, 7)])
def test_no_clip_shares_a_frame_with_another_part(tmp_path, frames, steps):
    numbered = np.zeros((frames, 8, 8, 3), np.uint8)
    numbered[..., 0], numbered[..., 1] = np.arange(frames)[:, None, None] % 256, np.arange(frames)[:, None, None] // 256
    np.save(tmp_path / "film.npy", numbered)
    data = DataConfig(path=str(tmp_path / "film.npy"), steps=steps, size=8, binarize=False)
    data = for_few_clips(RunConfig(data=data))[0].data
    parts = divided(data, open_data(data))
    sets = [set((p.frames[:, :, 0, 0, 0] + 256 * p.frames[:, :, 1, 0, 0].int()).flatten().tolist()) for p in parts]
    assert all(sets) and not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])
    assert max(sets[0]) < min(sets[1]) and max(sets[1]) < min(sets[2])
    assert len(parts.train) > 10 and len(parts.train) > len(parts.test)


def test_what_was_given_wins(tmp_path, capsys):
    film(tmp_path / "film.gif", 24, 24, frames=60)
    given = (
        "--data.steps 6 --data.stride 3 --train.batch_size 5 --train.lr 0.01 --model.network conv --model.stable 0.9 "
        "--model.filters 4 --data.size 16 --train.epochs 1 --train.picture_every 0 --train.device cpu"
    )
    assert main(["train", "--data", str(tmp_path / "film.gif"), *given.split(), "--out", str(tmp_path / "runs")]) == 0
    assert "19 overlapping clips of 6, 14 to train on, batch 5, learning rate 0.01, 1 epoch" in capsys.readouterr().out
    config = read_config(next((tmp_path / "runs").glob("*/config.yaml")))
    assert (config.data.stride, config.train.batch_size, config.train.lr) == (3, 5, 0.01)
    assert (config.model.network, config.model.stable) == ("conv", 0.9)


@pytest.mark.parametrize("frames", [4, 12])
def test_a_film_that_is_too_short_is_refused_with_the_way_out(tmp_path, capsys, frames):
    path = film(tmp_path / "short.gif", 40, 40, frames=frames)
    assert main(["train", "--data", str(path), "--out", str(tmp_path / "runs")]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("kvae: ") and "data.steps" in said and not (tmp_path / "runs").exists()
