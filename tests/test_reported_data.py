"""Faults of data and worlds that were reported, each with the input that showed it."""

import math
import shutil
import struct
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refuses

from kvae_nb.core.gaussians import Gaussian, condition
from kvae_nb.data.audio import read_wav, write_wav
from kvae_nb.data.factors import Factor, character, split_apart
from kvae_nb.data.irregular import simulate_irregular
from kvae_nb.data.opening import file_chunks, from_arrays, read_video_data, save_video_data
from kvae_nb.data.readers import film_times, natural_order
from kvae_nb.data.sequences import from_list, joined
from kvae_nb.data.shards import open_shards, write_shards
from kvae_nb.data.sheets import read_sheets
from kvae_nb.data.someone import read_mug
from kvae_nb.data.sources import plain_sequences
from kvae_nb.worlds.balls import SQUARE, WORLDS, World, simulate
from kvae_nb.worlds.game import ToyGame
from kvae_nb.worlds.pendulum import Pendulum, film_pendulum
from kvae_nb.worlds.strings import strings


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    "A folder with one film whose frames last differently: as pictures, GIF, and Matroska under two names."
    import imageio_ffmpeg

    here, rng = tmp_path_factory.mktemp("films"), np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 256, (32, 32), dtype=np.uint8)) for _ in range(6)]
    last = [100, 100, 500, 100, 1000, 100]  # milliseconds
    frames[0].save(here / "v.gif", save_all=True, append_images=frames[1:], duration=last)
    (here / "pn").mkdir()
    for i, frame in enumerate(frames):
        frame.save(here / f"pn/{i}.png")
    lines = (f"file 'pn/{i}.png'\nduration {ms / 1000}\n" for i, ms in enumerate(last))
    (here / "list.txt").write_text("".join(lines))
    words = "-y -v error -f concat -i list.txt -fps_mode vfr -c:v ffv1 v.mkv".split()
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), *words], cwd=here, check=True)
    shutil.copy(here / "v.mkv", here / "12:30.mkv")
    return here


def test_a_film_may_have_a_colon_in_its_name(films, monkeypatch):
    monkeypatch.chdir(films)
    assert film_times("12:30.mkv") is not None
    assert len(read_video_data("12:30.mkv").frames[0]) == 6


def test_chunks_of_a_film_are_the_clips_that_it_is_read_as(films):
    whole, chunks = read_video_data(films / "v.mkv", 3), list(file_chunks(films / "v.mkv", 3))
    assert torch.equal(torch.cat([c.frames for c in chunks]), whole.frames)
    assert torch.equal(torch.cat([c.times for c in chunks]), whole.times)
    for steps, chunk in ((-1, 8), (3, 0)):
        refuses(lambda: list(file_chunks(films / "v.mkv", steps, chunk=chunk)))


def test_stamps_that_fit_no_frames_are_not_used(films, monkeypatch):
    stamps = np.r_[-0.2, -0.1, film_times(films / "v.mkv")]  # as in a film that was cut without being coded anew
    for module in ("opening", "readers"):
        monkeypatch.setattr(f"kvae_nb.data.{module}.film_times", lambda path: stamps)
    whole, chunks = read_video_data(films / "v.mkv", 3), list(file_chunks(films / "v.mkv", 3))
    assert whole.times is None and all(c.times is None for c in chunks)
    assert torch.equal(torch.cat([c.frames for c in chunks]), whole.frames)


def test_what_is_said_of_a_gif_is_true(films):
    assert "brought to equal" not in read_video_data(films / "v.gif", times=False).note


@pytest.mark.parametrize("white", [math.nan, -5, 0])
def test_white_is_a_positive_number(films, white):
    refuses(read_video_data, films / "pn", white=white)


def test_long_numbers_are_ordered_by_all_their_digits():
    names = [f"17000000001234567{k}_000{r}" for k, r in ((88, 3), (89, 2), (90, 1))]
    assert natural_order(names) == [0, 1, 2]


def test_clips_that_share_frames_still_do_when_they_are_read_again(tmp_path):
    film = np.random.default_rng(0).integers(0, 256, (30, 16, 16)).astype(np.uint8)
    data = from_arrays(film, steps=10, stride=2, layout="THW", white=255)
    assert data.overlap == 4
    save_video_data(tmp_path / "o.npz", data)
    assert read_video_data(tmp_path / "o.npz").overlap == 4
    shards = write_shards(tmp_path / "sh", [data])
    assert shards.overlap == shards[:].overlap == shards.subset(range(5)).overlap == 4
    assert len(open_shards(tmp_path / "sh").binarized(np.float32(0.5)).fingerprint()) == 16


def test_a_pendulum_too_fast_for_its_steps_is_refused():
    stiff = Pendulum(friction=300.0)
    refuses(film_pendulum, 3, 15, pendulum=stiff)
    assert np.isfinite(film_pendulum(3, 15, pendulum=stiff, substeps=12).state).all()


def test_masks_lengths_and_parts_of_sequences_hold_what_they_should():
    one, half = [np.zeros((3, 2))], [[1, 0.5, np.nan]]
    refuses(from_list, one, mask=half)
    refuses(from_list, one, part=[1.9])
    refuses(plain_sequences, {"x": np.zeros((1, 3, 2)), "mask": np.array(half)})
    refuses(plain_sequences, {"x": np.zeros((1, 3, 2)), "lengths": np.array([2.9])})


@pytest.mark.parametrize("kind", [">f4", np.longdouble])
def test_numbers_in_any_order_of_bytes_are_read(kind):
    assert from_list([np.ones((3, 2), kind)]).x.sum() == 6


def test_sets_that_cannot_be_joined_or_divided_are_refused():
    plain = from_list([np.zeros((3, 2))])
    pushed = [from_list([np.zeros((3, 2))], controls=[np.zeros((3, k))]) for k in (1, 2)]
    refuses(joined, [])
    refuses(joined, pushed)
    refuses(character, plain)
    refuses(split_apart, plain)


def test_labels_may_be_one_number_and_not_none():
    film, factors = np.random.default_rng(0).random((1, 5, 16, 16)), (Factor("a", 3, True),)
    refuses(from_arrays, film, labels=np.zeros(0, int), factors=factors)
    assert from_arrays(film, labels=2, factors=factors).labels.tolist() == [[2]]


def test_worlds_are_what_they_should_be():
    assert simulate(WORLDS["pong"], 2, 5, look="published").images.shape == (2, 5, 32, 32)
    assert len(simulate(World(SQUARE, (np.int64(5), np.int64(10)), 3.0), 62, 3, workers=2).images) == 62
    star = [(16 + 12 * math.cos(4 * math.pi * k / 5), 16 + 12 * math.sin(4 * math.pi * k / 5)) for k in range(5)]
    refuses(World, (), (5, 10), 1.0)
    refuses(World, star, (5, 10), 1.0)


def test_sound_that_no_file_can_hold_is_refused(tmp_path):
    refuses(write_wav, tmp_path / "a.wav", [0.0], 2**30, 32)
    data = np.array([1e39, 0.0], "<f8").tobytes()  # more than float32 has
    form = b"fmt " + struct.pack("<IHHIIHH", 16, 3, 1, 16000, 128000, 8, 64) + b"data" + struct.pack("<I", len(data))
    (tmp_path / "big.wav").write_bytes(b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVE" + form + data)
    refuses(read_wav, tmp_path / "big.wav")


def test_pictures_of_someone_are_what_they_should_be(tmp_path):
    rng = np.random.default_rng(0)
    oblong = {
        f"{n}_{k}": np.zeros((9, 8, 32, 16, 4), np.uint8) for n in ("body", "bottom", "top", "hair") for k in (0, 1)
    }
    np.savez(tmp_path / "sheets.npz", **oblong)
    refuses(read_sheets, tmp_path / "sheets.npz")
    clips = np.empty(2, object)
    clips[:] = [rng.integers(0, 256, (n, 16, 16, 3)).astype(np.uint8) for n in (12, 10)]
    np.savez(tmp_path / "f.npz", clips)
    np.savez(tmp_path / "labels.npz", np.array([[0, 1], [1, 0]]))
    assert len(read_mug(tmp_path / "f.npz", 4, 16)) > 0
    for wrong in (dict(every=0), dict(every=-1), dict(crop=0)):
        refuses(read_mug, tmp_path / "f.npz", 4, 16, **wrong)


def test_numbers_of_simulations_are_checked():
    refuses(simulate_irregular, "box", 2, 5, longest=math.inf)
    refuses(strings, 2, seed=-1)
    refuses(strings, 2, math.nan)


def test_a_symbol_that_the_game_does_not_have_is_impossible():
    assert ToyGame().exact(torch.tensor([[5]]), torch.zeros(1, 1, 4)).log_prob.item() == -math.inf


def test_what_is_observed_may_be_counted_from_the_end():
    joint = Gaussian(torch.zeros(3), torch.eye(3))
    assert condition(joint, [-1], torch.ones(1)).mean.shape == (2,)
