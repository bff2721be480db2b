"""What a picture is, however it is stored: levels, axes, names and frames by one rule; the rest is refused by name."""

import copy
import io
import os
import pickle
import struct
import tempfile
import warnings
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from kvae_nb.core.errors import InputError
from kvae_nb.core.files import array_headers, check_output, inside, parse_yaml, read_arrays, read_yaml
from kvae_nb.data.batches import batches
from kvae_nb.data.films import VideoData, describe, split, split_indices
from kvae_nb.data.levels import find_layout, fitness
from kvae_nb.data.opening import (
    DataConfig,
    file_chunks,
    from_arrays,
    has_grey,
    looks_grey,
    open_data,
    read_video_data,
    save_video_data,
)
from kvae_nb.data.readers import natural_order, read_frames
from kvae_nb.data.shards import write_shards
from kvae_nb.worlds.balls import World, simulate

FOLDER = Path(tempfile.mkdtemp(prefix="kvae_nb-test-"))
FEW = settings(max_examples=60, deadline=None)


def sentence(refused):
    "What an InputError says: one sentence."
    said = str(refused.value)
    assert said.endswith(".") and "\n" not in said
    return said


def picture(seed, frames=4, side=16, channels=1):
    "A film of random levels, black and white among them, as the oracle: uint8 [time, channels, side, side]."
    levels = np.random.default_rng(seed).integers(0, 256, (frames, channels, side, side), dtype=np.uint8)
    levels[0, :, 0, 0], levels[0, :, 0, 1] = 0, 255
    return levels


# ---- one rule of scales ----------------------------------------------------------------------------------------------
SCALES = {  # how a level is stored; each is exact enough that the nearest of 256 levels is the level itself
    "8 bits": lambda x, t: x.astype(t),
    "10 bits": lambda x, t: np.rint(x / 255 * 1023).astype(t),
    "12 bits": lambda x, t: np.rint(x / 255 * 4095).astype(t),
    "14 bits": lambda x, t: np.rint(x / 255 * 16383).astype(t),
    "16 bits": lambda x, t: (x * 257.0).astype(t),
    "0 … 1": lambda x, t: (x / 255).astype(t),
    "-1 … 1": lambda x, t: (x / 127.5 - 1).astype(t),
    "-½ … ½": lambda x, t: (x / 255 - 0.5).astype(t),
}
WHOLE = [np.uint16, ">u2", np.int32, ">i4", np.uint64, np.float32, ">f4", np.float64]
STORED = st.one_of(
    st.tuples(st.just("8 bits"), st.sampled_from([np.uint8, np.int16, *WHOLE])),
    st.tuples(st.sampled_from(["10 bits", "12 bits", "14 bits", "16 bits"]), st.sampled_from(WHOLE)),
    st.tuples(
        st.sampled_from(["0 … 1", "-1 … 1", "-½ … ½"]), st.sampled_from([np.float16, np.float32, ">f4", np.float64])
    ),
)


def layouts_of(channels):
    "Every order of the axes in which such a film or set can be written."
    return ["NTCHW", "NTHWC", "NCTHW", "TCHW", "THWC", "CTHW", "HWCT", "HWTC", "NHWCT"] + (
        ["NTHW", "NHWT", "THW", "HWT"] if channels == 1 else []
    )


def written(path, array):
    "The array in an .npy or .npz file."
    np.save(path, array) if path.suffix == ".npy" else np.savez_compressed(path, images=array)
    return path


@FEW
@given(st.integers(0, 999), st.sampled_from([1, 3]), STORED, st.data(), st.sampled_from(["a.npy", "a.npz", "memory"]))
def test_the_same_picture_gives_the_same_levels(seed, channels, stored, choose, name):
    "Over layouts, types, scales and places: the levels are the oracle's, in every one."
    levels, layout = picture(seed, channels=channels), choose.draw(st.sampled_from(layouts_of(channels)))
    array = SCALES[stored[0]](levels, stored[1])[None]  # [1, T, C, H, W]
    array = array.transpose(["NTCHW".index(a) for a in [*layout] + [a for a in "NTCHW" if a not in layout]]).reshape(
        [dict(zip("NTCHW", array.shape))[a] for a in layout]
    )
    if name == "memory":
        data = from_arrays(array, layout=layout)
    else:
        data = read_video_data(written(FOLDER / name, array), layout=layout)
    assert data.frames.shape == (1, 4, channels, 16, 16)
    assert np.array_equal(data.frames[0].numpy(), levels), stored


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.sampled_from([1, 3]), st.sampled_from(["png", "16-bit png", "film", "gif", "shards"]))
def test_images_and_films_give_the_same_levels_too(seed, channels, kind):
    levels = picture(seed, channels=channels)
    frames, last = np.moveaxis(levels, 1, -1), 3 if kind in ("film", "gif") else channels
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / {"film": "a.mkv", "gif": "a.gif"}.get(kind, "set")
        if kind == "film":  # FFV1 in RGB loses nothing
            iio.imwrite(
                path,
                frames.repeat(3 // channels, -1),
                fps=30,
                plugin="FFMPEG",
                codec="ffv1",
                macro_block_size=1,
                pixelformat="bgr0",
            )
        elif kind == "gif":
            levels = levels // 64 * 85 // 255 * 255  # so few colours that the palette holds all
            iio.imwrite(path, np.moveaxis(levels, 1, -1).repeat(3 // channels, -1), plugin="pillow")
        elif kind == "shards":
            write_shards(path, [from_arrays(levels[None])])
        else:
            path.mkdir()
            assume(kind == "png" or channels == 1)  # Pillow writes no colour of 16 bits; see below
            for t, f in enumerate(frames):
                Image.fromarray(
                    f.squeeze(-1) * np.uint16(257 if kind == "16-bit png" else 1)
                    if kind == "16-bit png"
                    else f.squeeze(-1)
                    if channels == 1
                    else f
                ).save(path / f"{t}.png")
        data = read_video_data(path)
    assert np.array_equal(data.frames[0].numpy(), levels.repeat(last // channels, 1))


@pytest.mark.parametrize("top", [1.0, 255.0])
@pytest.mark.parametrize("mode", ["bicubic", "bilinear", "nearest"])
def test_resizing_beyond_black_and_white_costs_neither(top, mode):
    "A bicubic filter overshoots at both ends; the levels are those of the cut picture, whatever the scale."
    film = torch.from_numpy(simulate("box", 2, 3, seed=1).images).float() / 255
    x = F.interpolate(film, (48, 48), mode=mode) * top
    assert mode != "bicubic" or (x.max() > top * 1.02 and x.min() < -top * 0.02)
    found = from_arrays(x).frames[:, :, 0]
    assert torch.equal(found, (x.double() / top * 255).round().clamp(0, 255).to(torch.uint8))


@FEW
@given(st.floats(1, 1.05), st.floats(0, 0.25))
def test_a_little_beyond_one_is_cut_and_said(over, under):
    x = np.linspace(-under, over, 2 * 3 * 64, dtype=np.float64).reshape(2, 3, 8, 8)
    data = from_arrays(x)
    assert np.array_equal(data.frames.numpy().ravel(), np.rint(x.clip(0, 1) * 255).astype(np.uint8).ravel())
    assert ("cut" in data.note) == (over > 1 or under > 0)


def test_the_scale_is_one_for_the_whole_set_and_can_be_said(tmp_path):
    dark = np.full((2, 3, 8, 8), 1000, np.uint16)
    both = np.stack([dark[0], dark[1] * 0 + 4000])
    assert from_arrays(dark).frames.unique().tolist() == [249] and "white at 1023" in describe(from_arrays(dark))
    assert from_arrays(both).frames.unique().tolist() == [62, 249] and "white at 4095" in describe(from_arrays(both))
    assert read_video_data(written(tmp_path / "x.npz", dark), white=4095).frames.unique().tolist() == [62]
    assert open_data(
        DataConfig(path=str(tmp_path / "x.npz"), steps=3, size=8, white=65535)
    ).frames.unique().tolist() == [4]
    for white in (0.0, -1.0, float("nan"), float("inf")):
        if white != 0:
            with pytest.raises(InputError, match="white"):
                from_arrays(dark, white=white)
    one = VideoData(torch.ones(1, 2, 1, 8, 8, dtype=torch.uint8))
    save_video_data(tmp_path / "one.npz", one)
    assert torch.equal(read_video_data(tmp_path / "one.npz").frames, one.frames)  # what we wrote has its levels


# ---- images of a folder ----------------------------------------------------------------------------------------------
def png(pixels, kind):
    "A PNG file of 16 bits, of this kind of colour (0 grey, 2 RGB, 4 grey and alpha, 6 RGBA), byte by byte."
    h, w = pixels.shape[:2]
    chunk = lambda name, raw: struct.pack(">I", len(raw)) + name + raw + struct.pack(">I", zlib.crc32(name + raw))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 16, kind, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind, channels", [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_png_of_16_bits_with_fewer_in_it(tmp_path, bits, kind, channels):
    "The levels are those of the same numbers in an array, transparency laid over black."
    pixels = np.random.default_rng(bits).integers(0, 2**bits, (8, 8, channels))
    pixels[0, 0] = 2**bits - 1
    if channels in (2, 4):
        pixels[..., -1] = 65535 * (np.arange(8) < 5)
    for t in range(2):
        (tmp_path / f"{t}.png").write_bytes(png(pixels, kind))
    seen = pixels[..., :-1] * (pixels[..., -1:] > 0) if channels in (2, 4) else pixels
    expected = from_arrays(np.moveaxis(seen, -1, 0)[None, None].astype(np.uint16), layout="NTCHW").frames[0, 0]
    found = read_video_data(tmp_path)
    assert torch.equal(found.frames[0, 0], expected) and found.frames.max() == 255
    assert ("transparency" in found.note) == (channels in (2, 4))


def shape_of(mode):
    "A white square on black as an image of this mode, and its pixels."
    square = np.zeros((16, 16), np.uint8)
    square[3:9, 4:12] = 255
    if mode == "palette, clear":
        image = Image.fromarray((square > 0).astype(np.uint8), "P")
        image.putpalette([255, 0, 0, 255, 255, 255])  # the ground is red, but not to be seen
        image.info["transparency"] = 0
        return image, square
    if mode in ("LA", "RGBA"):  # white everywhere, seen in the square
        white = np.full((16, 16, len(mode) - 1), 255, np.uint8)
        return Image.fromarray(np.concatenate([white, square[..., None]], -1)), square
    return (
        Image.fromarray(square).convert("RGB").quantize(4) if mode == "P" else Image.fromarray(square).convert(mode)
    ), square


MODES = ["1", "L", "P", "LA", "RGB", "RGBA", "palette, clear"]


@pytest.mark.parametrize("modes", [[m] for m in MODES] + [["1", "L", "P"], ["L", "RGB"], MODES])
def test_every_mode_of_png_shows_the_same_shape(tmp_path, modes):
    "Alone and mixed, as programs write them that look for the smallest file; grey if all are grey."
    for t, mode in enumerate(modes):
        image, square = shape_of(mode)
        image.save(tmp_path / f"{t}.png", **({"transparency": 0} if mode == "palette, clear" else {}))
    data = read_video_data(tmp_path)
    assert data.channels == (3 if {"RGB", "RGBA", "palette, clear"} & {*modes} else 1)
    assert (data.frames == torch.from_numpy(square)).all() and data.steps == len(modes)


def test_what_stands_in_the_transparency_alone_is_refused(tmp_path):
    _, square = shape_of("L")
    Image.fromarray(np.stack([square * 0, square], -1)).save(tmp_path / "0.png")
    with pytest.raises(InputError, match=str(tmp_path)) as refused:
        read_video_data(tmp_path)
    assert "transparency" in sentence(refused)


def test_folders_with_other_things_in_them(tmp_path):
    for t in (0, 1, 2, 10):
        Image.fromarray(np.full((8, 8), t * 10, np.uint8)).save(
            tmp_path / f"bild ü {t}.PNG" if t else tmp_path / "bild ü 0.png"
        )
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "._bild ü 0.png").write_text("of another system")
    (tmp_path / "deeper.png").mkdir()
    link = tmp_path.parent / "linked"
    link.symlink_to(tmp_path)
    for path in (tmp_path, str(tmp_path), link):
        data = read_video_data(path)
        assert data.frames[0, :, 0, 0, 0].tolist() == [0, 10, 20, 100] and "1 other file" in describe(data)
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(InputError, match="16 bits"):
        read_video_data(tmp_path)


NUMBERS = st.lists(st.integers(-300, 300), min_size=2, max_size=12, unique=True)


@given(
    NUMBERS,
    st.sampled_from(["", "t", "frame ", "a_b"]),
    st.sampled_from(["", "_end", " (x)"]),
    st.sampled_from([1, 4, 100]),
)
def test_names_are_sorted_as_numbers(numbers, before, after, parts):
    "Whole numbers, decimals and negative ones, with any words around: the order of the numbers."
    names = [f"{before}{n / parts:.12g}{after}" for n in sorted(numbers)]
    assume(any(n >= 0 for n in numbers))  # where all have a dash it may be a hyphen
    mixed = sorted(names, key=lambda name: hash(name))
    assert [mixed[i] for i in natural_order(mixed)] == names


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=2, max_size=12, unique=True),
    st.sampled_from(["s{}-{}", "s{}_{}", "{}-{}", "cam{}x{}", "2024.{}.{}"]),
)
def test_names_of_two_numbers(pairs, form):
    names = [form.format(a, b) for a, b in sorted(pairs)]
    mixed = sorted(names, key=lambda name: name[::-1])
    assert [mixed[i] for i in natural_order(mixed)] == names


@pytest.mark.parametrize(
    "names",
    [
        "1.1 1.2 1.9 1.10 2.1",
        "2024.1.2 2024.1.10 2024.9.1 2024.10.1",
        "t0.25 t0.5 t1",
        "cam-1_t-0.5 cam-1_t0 cam-2_t-1 cam-2_t1",
        "frame-1 frame-2 frame-10",
        "1e-05 0.001 0.1 1",
        "кадр2 кадр10",
        "a² b²",
    ],
)
def test_names_whose_dots_and_dashes_mean_different_things(names):
    names = names.split()
    for mixed in (names[::-1], sorted(names), sorted(names, key=lambda name: name[::-1])):
        assert [mixed[i] for i in natural_order(mixed)] == names


def test_no_batch_of_nothing():
    "A part without clips gives no batch; a batch holds at least one clip."
    data = from_arrays(np.zeros((4, 2, 8, 8)))
    assert list(batches(data[:0], 2, torch.arange(0))) == [] and len(list(batches(data, 3, torch.arange(4)))) == 2
    with pytest.raises(InputError, match="batch_size"):
        next(batches(data, 0, torch.arange(4)))


# ---- one rule of axes ------------------------------------------------------------------------------------------------
SIDES = st.sampled_from([1, 2, 3, 5, 8, 16, 20, 64])


@settings(max_examples=300, deadline=None)
@given(st.lists(SIDES, min_size=1, max_size=6).map(tuple), st.booleans())
def test_a_layout_that_is_taken_is_the_documented_one_or_the_only_one(shape, bare):
    "No order of the axes that looks more like frames is passed over in silence; a refusal names a layout that fits."
    try:
        found = find_layout(shape, bare)
    except InputError as error:
        named = [w for w in str(error).replace(";", " ").split() if w.isupper() and set("THW") <= set(w)]
        assert (
            len(shape) not in (3, 4, 5)
            or any(fitness(shape, name) for name in named if len(name) == len(shape))
            or not any(named[:-1])
        )
        return
    assert len(found) == len(shape) and (bare or found in ("NTHW", "NTCHW"))
    if found not in ("NTHW", "NTCHW"):
        documented = {4: "NTHW", 5: "NTCHW"}.get(len(shape))
        assert documented is None or fitness(shape, documented) < fitness(shape, found)


@pytest.mark.parametrize(
    "shape, layout",
    [
        ((40, 64, 64, 3), "THWC"),
        ((40, 64, 64, 1), "THWC"),
        ((40, 64, 64, 20), "NHWT"),
        ((2, 5, 16, 16, 3), "NTHWC"),
        ((2, 3, 20, 16, 16), "NCTHW"),
        ((800, 64, 64), "THW"),
        ((64, 64, 3, 50), "HWCT"),
    ],
)
def test_refused_by_name_and_read_when_told(tmp_path, shape, layout):
    images = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    np.savez(tmp_path / "x.npz", images=images)
    with pytest.raises(InputError, match="x.npz") as refused:
        read_video_data(tmp_path / "x.npz", size=16)
    assert f"--data.layout {layout}" in sentence(refused)
    data = open_data(DataConfig(path=str(tmp_path / "x.npz"), steps=5, size=16, layout=layout))
    sizes = dict(zip(layout, shape))
    assert data.frames.shape[1:] == (5, sizes.get("C", 1), 16, 16) and len(data) == (
        sizes["N"] if "N" in sizes else sizes["T"] // 5
    )


def test_a_bare_film_is_a_film_and_it_is_said(tmp_path):
    film = np.random.default_rng(0).integers(0, 256, (800, 64, 64), dtype=np.uint8)
    np.save(tmp_path / "film.npy", film)
    data = open_data(DataConfig(path=str(tmp_path / "film.npy"), steps=20, size=64))
    assert torch.equal(data.frames.flatten(0, 2), torch.from_numpy(film))
    said = describe(data)
    assert (
        said.startswith("40 clips of 20 frames, 64×64, grey, cut from one film of 800 frames, stride 20")
        and "levels kept" in said
        and "[frames, height, width]" in said
    )


def test_parts_beside_a_film_are_cut_with_it(tmp_path):
    time = np.arange(50.0)
    np.savez(
        tmp_path / "x.npz",
        images=np.zeros((50, 8, 8)),
        state=time[:, None],
        mask=time % 3 > 0,
        controls=time[:, None] * 2,
    )
    data = read_video_data(tmp_path / "x.npz", steps=20, stride=10, layout="THW")
    assert (
        data.state[:, 0, 0].tolist() == [0, 10, 20, 30]
        and torch.equal(data.controls, 2 * data.state)
        and torch.equal(data.mask, data.state[..., 0] % 3 > 0)
    )


@pytest.mark.parametrize("flip", ["negative strides", "not contiguous", "only for reading", "big-endian", "Fortran"])
def test_arrays_of_any_build(tmp_path, flip):
    x = np.random.default_rng(0).integers(0, 256, (3, 4, 16, 16)).astype(np.uint8)
    np.save(tmp_path / "x.npy", x)
    view, expected = {
        "negative strides": lambda: (x[::-1, :, ::-1], x[::-1, :, ::-1]),
        "not contiguous": lambda: (x.repeat(2, 0)[::2], x),
        "only for reading": lambda: (np.load(tmp_path / "x.npy", mmap_mode="r"), x),
        "big-endian": lambda: (x.astype(">u2"), x),
        "Fortran": lambda: (np.asfortranarray(x), x),
    }[flip]()
    assert np.array_equal(from_arrays(view, state=view[:, :, 0, :3].astype(">f8")).frames[:, :, 0].numpy(), expected)
    assert np.array_equal(from_arrays(view, state=view[:, :, 0, :3].astype(">f8")).state.numpy(), expected[:, :, 0, :3])
    from_arrays(view).frames.add_(1)  # ours, and the caller's array stays as it was
    assert np.array_equal(np.load(tmp_path / "x.npy"), x)


# ---- films cut with overlap ------------------------------------------------------------------------------------------
@FEW
@given(
    st.integers(1, 3),
    st.integers(30, 200),
    st.integers(1, 12),
    st.integers(1, 15),
    st.floats(0, 0.3),
    st.floats(0, 0.3),
    st.integers(0, 2**31),
)
def test_no_frame_of_a_held_out_clip_is_trained_on(films, time, steps, stride, test, valid, seed):
    "Whatever is cut from one film or several: training, validation and test share no frame."
    numbers = np.arange(films * time, dtype=np.float32).reshape(films, time, 1)
    data = from_arrays(np.zeros((films, time, 8, 8)), steps=steps, stride=stride, state=numbers, layout="NTHW")
    assert len(data) == films * ((time - steps) // stride + 1)
    try:
        parts = split(data, test, valid, seed)
    except InputError as error:
        assert "divided" in str(error)
        return
    seen = [set(part.state.flatten().tolist()) for part in parts]
    assert seen[0] and not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]
    assert bool(seen[1]) == (valid > 0) and bool(seen[2]) == (test > 0)


def test_overlap_survives_what_open_data_does(tmp_path):
    "A grey film, a black and white one, on another device: still divided by place."
    rng = np.random.default_rng(0)
    for name, film in (
        ("grey", rng.integers(0, 256, (100, 16, 16))),
        ("balls", simulate("box", 1, 100, size=16).images[0]),
    ):
        np.save(tmp_path / f"{name}.npy", film.astype(np.uint8))
        data = open_data(DataConfig(path=str(tmp_path / f"{name}.npy"), steps=10, stride=2, size=16)).to("cpu")
        assert data.overlap == 4 and ("black and white" in data.note) == (name == "balls")
        parts = split(data)
        assert (
            int(split_indices(len(data), overlap=data.overlap).train.max()) == len(parts.train) - 1
            and len(parts.train) + len(parts.valid) + len(parts.test) == len(data) - 8
        )
    assert data[:5].overlap == data.overlap  # a selection still shares frames


def test_without_overlap_nothing_has_changed():
    order = split_indices(100, 0.1, 0.05, 3)
    film = from_arrays(np.zeros((200, 8, 8)), steps=2, state=np.arange(200.0)[:, None])
    assert film.overlap == 0 and torch.equal(split(film, 0.1, 0.05, 3).test.state[:, 0, 0].long() // 2, order.test)


# ---- black and white, or grey ----------------------------------------------------------------------------------------
def ball(soft, ground=0, side=32, frames=40):
    "A ball that goes round, with an edge of this softness, on a ground of this level."
    t, (y, x) = np.arange(frames)[:, None, None], np.mgrid[:side, :side]
    near = np.clip(
        (side / 6 - np.hypot(x - side / 2 - 9 * np.sin(t / 5), y - side / 2 - 9 * np.cos(t / 5))) / max(soft, 1e-3)
        + 0.5,
        0,
        1,
    )
    return np.rint(ground + (255 - ground) * near).astype(np.uint8)


STILL = ("gradient", "black")
FILMS = {
    "sharp": (ball(0), False),
    "soft edge": (ball(1), False),
    "on grey": (ball(1, 90), True),
    "on white": (255 - ball(1), True),
    "a glow": (ball(14), True),
    "dark": (ball(1) // 20, True),
    "gradient": (np.arange(32, dtype=np.uint8)[None, None].repeat(40, 0).repeat(32, 1) * 8, True),
    "black": (ball(0) * 0, False),
}


STORED = [
    (name, form) for name in FILMS for form in ("npz", "npy", "png", "gif") if form != "gif" or name not in STILL
]  # a GIF leaves out frames that are alike


@pytest.mark.parametrize("name, form", STORED)
def test_black_and_white_is_decided_alike_for_every_format(tmp_path, name, form):
    "The same film gets the same decision and the same levels however it is stored, and what was decided is said."
    film, grey = FILMS[name]
    path = tmp_path / ("set" if form == "png" else f"x.{form}")
    if form == "npz":
        np.savez(path, images=film[None])
    elif form == "npy":
        np.save(path, film)
    elif form == "gif":
        iio.imwrite(path, film, plugin="pillow")
    else:
        path.mkdir()
        for t, f in enumerate(film):
            Image.fromarray(f).save(path / f"{t}.png")
    config = DataConfig(path=str(path), steps=20, size=32)
    data = open_data(config)
    assert looks_grey(path) == has_grey(read_video_data(path, 20, 32)) == grey
    kept = np.array_equal(data.frames[0, :, 0].numpy(), film[:20])
    assert set(data.frames.unique().tolist()) <= {0, 255} if not grey else kept
    assert ("levels kept" in describe(data)) == grey
    assert torch.equal(open_data(replace(config, binarize=False)).frames, data.frames) == (
        grey or set(np.unique(film)) <= {0, 255}
    )


def test_what_was_trained_before_is_opened_as_before():
    "Simulated films are the same bytes whether black and white was said, as in stored runs, or is decided."
    for world in ("box", "gravity", "polygon", "pong"):
        c = DataConfig(world=world, sequences=31)
        assert (
            open_data(c).fingerprint()
            == open_data(replace(c, binarize=True)).fingerprint()
            == open_data(replace(c, binarize=False)).fingerprint()
        )


# ---- what cannot be meant --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "change",
    [
        {"size": 0},
        {"size": -8},
        {"size": 12},
        {"size": 8 * 10**6},
        {"steps": 0},
        {"steps": -3},
        {"steps": 10**9},
        {"sequences": 0},
        {"sequences": -5},
        {"sequences": 10**20},
        {"split_seed": 2**64},
        {"split_seed": -1},
        {"layout": "q"},
        {"layout": "NNTHW"},
        {"white": -1.0},
        {"white": float("nan")},
        {"simulate_seed": 2**63},
        {"test": 1.0},
        {"valid": -0.1},
        {"test": float("nan")},
        {"stride": -1},
        {"world": "torus"},
    ],
)
def test_a_configuration_that_cannot_be_meant(change):
    with pytest.raises(InputError) as refused:
        open_data(DataConfig(**change))
    assert next(iter(change)).replace("world", "torus") in sentence(refused) or str(
        next(iter(change.values()))
    ) in sentence(refused)


@pytest.mark.parametrize(
    "change",
    [
        {"sequences": 0},
        {"sequences": 10**12},
        {"steps": 0},
        {"steps": 10**12},
        {"size": 10**7},
        {"seed": 2**64},
        {"seed": -1},
        {"radius": 40.0},
        {"radius": 1e300},
        {"dt": 1e30},
        {"balls": 10**9},
        {"workers": 10**9},
        {"speed": (1.0, float("nan"))},
        {"speed": (0.0, 1e200)},
    ],
)
def test_a_simulation_that_cannot_be_meant(change):
    with pytest.raises(InputError) as refused:
        simulate(**({"sequences": 2, "steps": 3} | change))
    sentence(refused)


def test_a_world_that_cannot_be():
    for name in ("spread", "gravity", "paddle", "ball_elasticity"):
        with pytest.raises(InputError, match=name):
            World(((2, 2), (30, 2), (30, 30)), (1, 2), **({"spread": 1.0} | {name: float("nan")}))


def test_a_film_that_would_fill_the_memory_when_cut(monkeypatch):
    "Overlapping clips are counted as what they become in a batch, not as the film they come from."
    monkeypatch.setattr("kvae_nb.core.files.memory_bytes", lambda: 2**20)
    film = np.zeros((400, 16, 16))
    assert len(from_arrays(film, steps=20)) == 20
    with pytest.raises(InputError, match="GiB"):
        from_arrays(film, steps=20, stride=1)


# ---- objects and entries ---------------------------------------------------------------------------------------------
def test_one_position_of_any_kind():
    frames = torch.arange(7, dtype=torch.uint8).view(7, 1, 1, 1, 1).expand(7, 2, 1, 8, 8)
    data = VideoData(frames)
    with tempfile.TemporaryDirectory() as folder:
        shards = write_shards(folder, [data], 3)
        for index in (4, -3, np.int64(4), np.int32(-3), np.uint8(4), np.array(4), torch.tensor(4), torch.tensor(-3)):
            assert data[index].frames.unique().tolist() == shards[index].frames.unique().tolist() == [4]
        for index in (7, -8, np.int64(7), torch.tensor(-8)):
            for d in (data, shards):
                with pytest.raises(IndexError):
                    d[index]


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))], ids=["copied", "pickled"])
def test_a_copied_set_is_the_set(twin, tmp_path):
    data = from_arrays(np.arange(40 * 64).reshape(40, 8, 8) % 256, steps=8, stride=4, state=np.arange(40.0)[:, None])
    for one in (data, write_shards(tmp_path / "set", [data], 2).subset(torch.tensor([3, 0, 5]))):
        other = twin(one)
        assert (
            other.fingerprint() == one.fingerprint()
            and torch.equal(other[1].state, one[1].state)
            and (other.note, other.overlap) == (one.note, one.overlap)
        )


def test_only_what_is_needed_is_read(tmp_path):
    z = np.random.default_rng(0).random((2, 3, 8, 8))
    np.savez(
        tmp_path / "pong.npz",
        images=z,
        controls=np.array(None),
        mask=np.ones((2, 3)),
        words=np.array(["x"]),
        more=np.array([{1: 2}], dtype=object),
    )
    data = read_video_data(tmp_path / "pong.npz")
    assert (
        data.controls is None
        and data.mask.all()
        and "controls left out" in describe(data)
        and "more" not in describe(data)
    )
    np.savez(tmp_path / "zero.npz", images=z, controls=np.zeros((2, 3, 0)))
    assert (
        read_video_data(tmp_path / "zero.npz").controls is None
        and "width 0" in read_video_data(tmp_path / "zero.npz").note
    )
    with pytest.raises(InputError, match="width 0"):
        VideoData(torch.zeros(2, 3, 1, 8, 8, dtype=torch.uint8), controls=torch.zeros(2, 3, 0))


@pytest.mark.parametrize(
    "shape", [(0, 3, 8, 8), (2, 0, 8, 8), (2, 3, 0, 8), (2, 3, 0, 8, 8), (), (8,), (8, 8), (2, 2, 2, 2, 8, 8)]
)
@pytest.mark.parametrize("name", ["x.npz", "x.npy"])
def test_arrays_of_nothing_and_of_no_frames(tmp_path, shape, name):
    with pytest.raises(InputError, match=name) as refused:
        read_video_data(written(tmp_path / name, np.zeros(shape)))
    sentence(refused)


@pytest.mark.parametrize("name", ["файл ü 1.npz", "with space.npy", "UPPER.NPZ", "a.b.c.npz"])
def test_names_of_files(tmp_path, name):
    x = np.random.default_rng(0).random((2, 3, 8, 8))
    with open(tmp_path / name, "wb") as file:
        np.save(file, x) if name.endswith(".npy") else np.savez(file, images=x)
    (tmp_path / "link").symlink_to(tmp_path / name)
    for path in (tmp_path / name, str(tmp_path / name)):
        assert read_video_data(path).frames.shape == (2, 3, 1, 8, 8)


def test_films_in_chunks_are_read_by_the_same_rule(tmp_path):
    for t in range(7):
        Image.fromarray(np.full((8, 8), 500 * t, np.uint16)).save(tmp_path / f"{t}.png")
    whole = read_video_data(tmp_path, steps=2)
    assert torch.equal(
        torch.cat([c.frames for c in file_chunks(tmp_path, steps=2, chunk=1)]), whole.frames
    ) and whole.frames.max() == round(2500 / 4095 * 255)


# ---- the doors of kvae_nb.core.files ---------------------------------------------------------------------------------
TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(-1e9, 1e9) | st.text("abcäß 1:-", max_size=8),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text("abcxy", min_size=2, max_size=4), v, max_size=3),
    max_leaves=12,
)


@given(TREES, st.sampled_from(["\n", "\r\n"]), st.sampled_from(["", "\ufeff"]))
def test_what_yaml_says_is_read(tree, ends, mark):
    import yaml

    text = yaml.safe_dump(tree, allow_unicode=True)
    assume("&" not in text and "!" not in text)
    (FOLDER / "t.yaml").write_bytes((mark + text.replace("\n", ends)).encode())
    assert read_yaml(FOLDER / "t.yaml") == yaml.safe_load(text)


@FEW
@given(
    st.binary(max_size=200)
    | st.text(max_size=200).map(str.encode)
    | st.integers(51, 3000).map(lambda k: b"[" * k)
    | st.integers(51, 500).map(lambda k: b"{a: " * k)
    | st.integers(1, 30).map(lambda k: b"a: &a [1]\nb: [" + b"*a," * k + b"]")
)
def test_any_yaml_is_read_or_refused_in_a_sentence(content):
    (FOLDER / "any.yaml").write_bytes(content)
    try:
        read_yaml(FOLDER / "any.yaml")
        assert not any(mark in content for mark in (b"&a [1]", b"[" * 51))
    except InputError as error:
        assert "any.yaml" in str(error) and str(error).endswith(".") and "\n" not in str(error)


@pytest.mark.parametrize(
    "nested",
    [
        lambda k: "[" * k + "]" * k,
        lambda k: "{a: " * k + "}" * k,
        lambda k: "\n".join(" " * j + "a:" for j in range(k)),
        lambda k: "- " * k + "1",
    ],
)
def test_yaml_is_read_fifty_levels_deep_and_no_deeper(nested):
    assert parse_yaml(nested(50)) is not None
    for k in (51, 5000 if nested(2)[:2] != "- " else 1000):
        with pytest.raises(InputError, match="mine") as refused:
            parse_yaml(nested(k), "mine")
        sentence(refused)


def test_a_name_that_looks_like_a_date_stays_a_name():
    assert parse_yaml("name: 2026-11-28\nlr: 1e-3\n") == {
        "name": "2026-11-28",
        "lr": "1e-3",
    }  # the parser of the options makes a number of it


@pytest.mark.parametrize(
    "text",
    ["a: !!python/name:os.system", "a: !!binary aGk=", "a: 1\na: 2", "- {x: 1, x: 2}", "a: !<tag:yaml.org,2002:int> 3"],
)
def test_yaml_that_a_configuration_does_not_need(text):
    with pytest.raises(InputError, match="mine"):
        parse_yaml(text, "mine")


def forged(shape, payload=b"", declared=None, dtype="|u1", twice=False, name="images.npy"):
    "An archive with one array that promises this shape, and perhaps the same member again."
    header, out = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of a name that is there twice
        for _ in range(1 + twice):
            archive.writestr(name, header.getvalue() + payload)
    return out.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        forged((10**9, 10**9)),
        forged((2, 3, 8, 8), bytes(383)),
        forged((2, 3, 8, 8), bytes(385)),
        forged((-2, 3, 8, -8), bytes(384)),
        forged((2**28,), bytes(2**28)),
        forged((1,), b"x", twice=True),
        forged((1,), b"x", name="../images.npy"),
        forged((1,), b"x", name="/images.npy"),
        forged((1,), b"x", name="C:\\images.npy"),
        forged((1,), bytes(8), dtype="|O"),
        b"PK\x03\x04",
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00\xff\xff{",
    ],
    ids=range(13),
)
def test_an_archive_that_lies(content):
    (FOLDER / "lie.npz").write_bytes(content)
    for read in (read_arrays, read_video_data):
        with pytest.raises(InputError, match="lie.npz") as refused:
            read(FOLDER / "lie.npz")
        sentence(refused)


def test_an_array_larger_than_the_memory(monkeypatch, tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 255, 5000, dtype=np.uint8))
    np.savez(tmp_path / "x.npz", images=np.load(tmp_path / "x.npy"))
    monkeypatch.setattr("kvae_nb.core.files.memory_bytes", lambda: 4000)
    for name in ("x.npy", "x.npz"):
        for door in (read_arrays, array_headers):
            with pytest.raises(InputError, match="memory"):
                door(tmp_path / name)


def test_outputs_never_replace_inputs_and_stay_in_their_folder(tmp_path):
    source, run = tmp_path / "in.npz", tmp_path / "run"
    source.write_bytes(b"x")
    run.mkdir()
    os.link(source, tmp_path / "hard.npz")
    (tmp_path / "soft.npz").symlink_to("in.npz")
    for name in ("in.npz", "hard.npz", "soft.npz", "run/../in.npz"):
        with pytest.raises(InputError, match="destroy"):
            check_output(tmp_path / name, tmp_path / "other.npz", source, force=True)
    with pytest.raises(InputError, match="--force"):
        check_output(tmp_path / "hard.npz")
    assert check_output(tmp_path / "new.npz", source) == tmp_path / "new.npz"
    (run / "log.txt").symlink_to(source)
    (run / "figures").symlink_to(tmp_path)
    (run / "new").symlink_to(tmp_path / "not there yet")
    for name in ("log.txt", "figures/a.png", "new", "../in.npz", source):
        with pytest.raises(InputError, match="leads out"):
            inside(run, name)
    assert inside(run, "a/b.txt") == run / "a/b.txt"


# ---- chosen clips, and numbers that cannot be meant ------------------------------------------------------------------
CHOICES = {
    "list": [4, -3],
    "empty list": [],
    "range": range(1, 6, 2),
    "slice": slice(5, 1),
    "numpy slice": slice(np.int64(1), np.int64(3)),
    "backwards": slice(None, None, -1),
    "backwards by two": slice(5, 1, -2),
    "all": ...,
    "reversed": np.arange(7)[::-1],
    "big-endian": np.array([4, -3], ">i8"),
    "uint8": np.array([0, 1, 1, 0, 0, 1, 6], np.uint8),
    "uint16": np.array([4, 2], np.uint16),
    "empty": np.array([]),
    "bools": [True, False] * 3 + [True],
    "mask": np.arange(7) % 3 == 0,
    "no clip": np.zeros(7, bool),
    "torch": torch.tensor([4, -3]),
    "torch int32": torch.tensor([4, 2], dtype=torch.int32),
    "torch uint8": torch.tensor([1, 0, 1, 1, 1, 0, 0], dtype=torch.uint8),
    "torch mask": torch.arange(7) > 3,
}


@pytest.mark.parametrize("index", CHOICES.values(), ids=CHOICES)
def test_clips_are_chosen_as_numpy_chooses(tmp_path, index):
    data = VideoData(torch.arange(7, dtype=torch.uint8).view(7, 1, 1, 1, 1).expand(7, 2, 1, 8, 8))
    plain = index.numpy() if torch.is_tensor(index) else index
    right = np.arange(7)[
        np.array(plain, dtype=int) if np.size(plain) == 0 else [*plain] if isinstance(plain, range) else plain
    ]
    shards = write_shards(tmp_path / "set", [data], 3)
    for found in (data[index], data.subset(index), shards[index], shards.subset(index)[:]):
        assert found.frames[:, 0, 0, 0, 0].tolist() == right.tolist()


@pytest.mark.parametrize(
    "index",
    [
        None,
        1.0,
        "a",
        (1, 2),
        {1},
        [0.5],
        [True],
        [[1]],
        [[1], [1, 2]],
        np.zeros((2, 2), int),
        np.bool_(True),
        True,
        np.zeros(3, bool),
        torch.zeros(6),
        slice(1.5),
        slice(0, 2, 0),
    ],
    ids=str,
)
def test_what_chooses_no_clips_is_refused(tmp_path, index):
    data = VideoData(torch.zeros(7, 2, 1, 8, 8, dtype=torch.uint8))
    for one in (data, write_shards(tmp_path / "set", [data], 3)):
        for choose in (one.__getitem__, one.subset):
            with pytest.raises(InputError, match="clips are chosen by"):
                choose(index)
        with pytest.raises(IndexError, match="clip 7 of 7"):
            one[[1, 7]]


@pytest.mark.parametrize(
    "choose",
    [
        lambda d: d[:],
        lambda d: d[5:40],
        lambda d: d[::3],
        lambda d: d[torch.arange(40)],
        lambda d: d[np.arange(50) % 2 == 0],
        lambda d: d.subset([*range(45)]),
        lambda d: d.map(lambda v: v.clone()),
        lambda d: d[::-1],
        lambda d: d[torch.randperm(50)],
    ],
)
def test_a_selection_of_overlapping_clips_still_overlaps(choose):
    "What is held out shares no frame with what is trained on; out of their order clips are refused."
    film = from_arrays(np.zeros((209, 8, 8)), steps=13, stride=4, state=np.arange(209.0)[:, None])
    chosen = choose(film)
    try:
        parts = split(chosen, test=0.2)
    except InputError as error:
        assert "divided" in str(error) and len(chosen) == 50 and chosen.state[0, 0] != 0
        return
    frames = [set(part.state.flatten().tolist()) for part in parts]
    assert all(frames) and not frames[0] & frames[1] and not frames[0] & frames[2] and not frames[1] & frames[2]


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 2.0},
        {"steps": "2"},
        {"steps": True},
        {"size": 8.0},
        {"size": 8 * 10**8},
        {"stride": 1.5},
        {"channels": 1.0},
        {"layout": None},
        {"white": "255"},
        {"white": True},
    ],
    ids=str,
)
def test_numbers_of_another_kind(wrong):
    with pytest.raises(InputError) as refused:
        from_arrays(np.zeros((2, 3, 8, 8)), **wrong)
    assert next(iter(wrong)) in sentence(refused)


def test_numbers_of_numpy_are_numbers_and_a_stride_may_be_any():
    frames = np.zeros((2, 6, 8, 8))
    assert from_arrays(frames, steps=np.int64(3), size=np.int32(8), stride=10**30).steps == 3


def test_thresholds_outside_of_the_scale():
    data = VideoData(torch.full((2, 3, 1, 8, 8), 100, dtype=torch.uint8))
    assert not data.binarized(1).frames.any() and data.binarized(0.3).frames.all()
    for wrong in (2.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="threshold"):
            data.binarized(wrong)


def test_tensors_and_arrays_of_other_builds():
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(from_arrays(x.bfloat16()).frames, from_arrays(x.bfloat16().float()).frames)
    for wrong in (x.to_sparse(), x.to("meta"), np.ma.masked_array(x.numpy(), x.numpy() > 0.5), [[1, 2], [3]]):
        with pytest.raises(InputError) as refused:
            from_arrays(wrong)
        sentence(refused)
    with pytest.raises(InputError, match="controls"):
        from_arrays(x, controls=np.ma.masked_array(np.zeros((2, 3, 1)), True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert from_arrays(x, controls=np.ones((2, 3, 1), np.float16)).controls.sum() == 6


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"no picture"])
def test_a_folder_with_a_damaged_image(tmp_path, content):
    Image.new("L", (8, 8), 255).save(tmp_path / "0.png")
    (tmp_path / "1.png").write_bytes(content)
    with pytest.raises(InputError, match="1.png") as refused:
        read_video_data(tmp_path)
    sentence(refused)


def test_an_image_too_large_to_be_one_and_a_name_too_long_to_be_one(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    Image.new("L", (8, 8)).save(tmp_path / "0.png")
    with pytest.raises(InputError, match="too large"):
        read_video_data(tmp_path)
    for path in ("a" * 5000 + ".npz", "a\0.npz"):
        assert not looks_grey(path)
        with pytest.raises(InputError, match="does not exist"):
            read_video_data(path)


def test_numbers_of_numpy_divide_a_set_too():
    data = VideoData(torch.zeros(20, 2, 1, 8, 8, dtype=torch.uint8))
    assert [len(p) for p in split(data, np.float32(0.2), np.float64(0.1), np.int64(3))] == [
        14,
        2,
        4,
    ] and not data.binarized(np.float32(0.5)).frames.any()
    for seed in (1.5, -1, 2**64):
        with pytest.raises(InputError, match="seed"):
            split(data, seed=seed)


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "I;16"])
def test_a_damaged_image_of_a_folder_is_refused_wherever_it_is_decoded(tmp_path, mode):
    "The header is read, then a palette, then the scale of all images, then the frames: each of these decodes."
    rng = np.random.default_rng(0)
    shape = {"RGB": (16, 16, 3), "RGBA": (16, 16, 4)}.get(mode, (16, 16))
    for k in range(3):
        values = rng.integers(0, 2**16 if mode == "I;16" else 256, shape)
        image = Image.fromarray(values.astype("u2" if mode == "I;16" else "u1"))
        (image.convert("P") if mode == "P" else image).save(tmp_path / f"{k}.png")
    whole, outcomes = (tmp_path / "1.png").read_bytes(), set()
    data = whole.index(b"IDAT") + 4
    for at in (data, data + 1, data + 40, len(whole) - 30):  # the stream's head, its middle, its end
        for raw in (whole[:at], whole[:at] + b"\xff\xff\xff" + whole[at + 3 :]):
            (tmp_path / "1.png").write_bytes(raw)
            try:
                read_frames(tmp_path, size=16)
                outcomes.add("read")
            except InputError as error:
                assert "1.png" in str(error) and "\n" not in str(error)
                outcomes.add("refused")
    assert "refused" in outcomes
