"Properties of reading and writing data sets: what was saved comes back, and a damaged file is refused in one sentence."

import io
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kvae_nb.core import InputError
from kvae_nb.data import VideoData, read_video_data, save_video_data, split_indices

FOLDER = Path(tempfile.mkdtemp(prefix="kvae_nb-test-"))
FEW = settings(max_examples=60, deadline=None)
NUMBERS = [bool, np.uint8, np.int8, np.int16, np.uint16, np.int64, np.float16, np.float32, np.float64]


@st.composite
def data_sets(draw):
    "A small VideoData of any shape, with any of its optional parts."
    n, t, c, side = draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.sampled_from([1, 3])), draw(st.sampled_from([8, 16]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    highest = draw(st.sampled_from([0, 1, 2, 255]))
    part = lambda make: torch.from_numpy(make()) if draw(st.booleans()) else None
    return VideoData(
        torch.from_numpy(rng.integers(0, highest + 1, (n, t, c, side, side), dtype=np.uint8)),
        part(lambda: rng.standard_normal((n, t, 4), dtype=np.float32)),
        part(lambda: rng.standard_normal((n, t, 2), dtype=np.float32)),
        part(lambda: rng.random((n, t)) < 0.5),
        part(lambda: rng.random((n, t)) < 0.5),
    )


def same(a, b):
    "Whether two data sets agree in every bit of every part."
    parts = ((getattr(a, k), getattr(b, k)) for k in ("frames", "state", "controls", "mask", "contacts"))
    return all(x is y is None or (x is not None and y is not None and torch.equal(x, y)) for x, y in parts)


def read_or_refuse(content: bytes, name="damaged.npz"):
    "The data set in these bytes, or None when the reader refuses them with one sentence; anything else fails the test."
    (FOLDER / name).write_bytes(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy and zipfile may comment on strange headers
            return read_video_data(FOLDER / name)
    except InputError as error:
        assert str(error).endswith(".") and "\n" not in str(error) and name in str(error)


@FEW
@given(data_sets())
def test_what_is_saved_comes_back(data):
    save_video_data(FOLDER / "saved.npz", data)
    assert same(read_video_data(FOLDER / "saved.npz"), data)


@FEW
@given(st.data())
def test_any_array_of_numbers(data):
    "Frames of any type and scale become uint8 or are refused; order within an array is kept."
    dtype = np.dtype(data.draw(st.sampled_from(NUMBERS)))
    images = data.draw(hnp.arrays(dtype, (1, 2, 8, 8)))
    file = io.BytesIO()
    np.savez(file, images=images)
    read = read_or_refuse(file.getvalue(), "array.npz")
    finite = np.isfinite(images).all()
    assert (read is not None) == finite
    if finite:
        levels = read.frames.numpy().ravel()
        assert read.frames.shape == (1, 2, 1, 8, 8)
        order = np.argsort(images.ravel(), kind="stable")
        assert (np.diff(levels[order].astype(int)) >= 0).all()


@FEW
@given(st.data())
def test_any_shape(data):
    "Arrays of any rank and shape give a data set or one sentence."
    file = io.BytesIO()
    shape = st.lists(st.sampled_from([0, 1, 2, 3, 8, 16]), max_size=6).map(tuple)
    arrays = {"images": np.zeros(data.draw(shape | st.just((2, 3, 8, 8))), dtype=np.uint8)}
    for key in data.draw(st.sets(st.sampled_from(["state", "controls", "mask", "contacts"]))):
        arrays[key] = np.zeros(data.draw(shape | st.just((2, 3)) | st.just((2, 3, 4))), dtype=data.draw(st.sampled_from(NUMBERS)))
    np.savez(file, **arrays)
    read = read_or_refuse(file.getvalue(), "shape.npz")
    assert read is None or read.frames.shape[-1] == arrays["images"].shape[-1]


def archive() -> bytes:
    "A small file, uncompressed so that a flipped bit is not always caught by the decompressor."
    rng, file = np.random.default_rng(0), io.BytesIO()
    np.savez(file, images=rng.random((2, 3, 8, 8)), state=rng.standard_normal((2, 3, 4)), mask=rng.random((2, 3)) < 0.5)
    return file.getvalue()


WHOLE = archive()
NPY = WHOLE[WHOLE.index(b"\x93NUMPY") :][: 128 + 2 * 3 * 8 * 8 * 8]


@FEW
@given(st.integers(0, len(WHOLE) - 1))
def test_truncated(length):
    assert read_or_refuse(WHOLE[:length]) is None


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped(flips):
    damaged = bytearray(WHOLE)
    for position, bits in flips:
        damaged[position] ^= bits
    read = read_or_refuse(bytes(damaged))
    assert read is None or isinstance(read, VideoData)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 127), st.integers(1, 255), st.integers(0, len(NPY)))
def test_damaged_npy(position, bits, length):
    "The .npy format has no checksum: its header is read as it is."
    damaged = bytearray(NPY)
    damaged[position] ^= bits
    read_or_refuse(bytes(damaged), "damaged.npy")
    if length < len(NPY):
        assert read_or_refuse(NPY[:length], "cut.npy") is None


@FEW
@given(st.binary(max_size=300), st.sampled_from(["x.npz", "x.npy", "x.gif"]))
def test_any_bytes(content, name):
    assert read_or_refuse(content, name) is None


@pytest.mark.parametrize("index", [None, -1])
def test_pickles_are_never_loaded(index):
    "An object whose unpickling would leave a trace leaves none."

    class Trap:
        def __reduce__(self):
            return (Path.touch, (FOLDER / "sprung",))

    file = io.BytesIO()
    objects = np.array([Trap(), 1], dtype=object)
    if index is None:
        np.savez(file, images=objects)
    else:
        np.savez(file, images=np.zeros((1, 2, 8, 8)), state=objects)
    assert read_or_refuse(file.getvalue(), "trap.npz") is None
    assert not (FOLDER / "sprung").exists()


@FEW
@given(st.integers(3, 300), st.floats(0, 0.4), st.floats(0, 0.4), st.integers(0, 2**31))
def test_splits_are_disjoint_and_complete(n, test, valid, seed):
    parts = split_indices(n, test, valid, seed)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(n))
    assert len(parts.train) >= 1 and (len(parts.test) >= 1) == (test > 0) and (len(parts.valid) >= 1) == (valid > 0)
    assert all(torch.equal(a, b) for a, b in zip(parts, split_indices(n, test, valid, seed)))
