"Properties of reading and writing data sets: what was saved comes back, and a damaged file is refused in one sentence."

import io
import json
import tempfile
import threading
import warnings
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kvae_nb.core.errors import InputError
from kvae_nb.data.batches import ahead, batches
from kvae_nb.data.films import VideoData, from_simulation, split_indices
from kvae_nb.data.opening import read_video_data, save_video_data, simulated_chunks
from kvae_nb.data.shards import open_shards, write_shards
from kvae_nb.worlds.balls import simulate

FOLDER = Path(tempfile.mkdtemp(prefix="kvae_nb-test-"))
FEW = settings(max_examples=60, deadline=None)
NUMBERS = [bool, np.uint8, np.int8, np.int16, np.uint16, np.int64, np.float16, np.float32, np.float64]


@st.composite
def data_sets(draw):
    "A small VideoData of any shape, with any of its optional parts."
    n, t, c, side = (
        draw(st.integers(1, 4)),
        draw(st.integers(1, 5)),
        draw(st.sampled_from([1, 3])),
        draw(st.sampled_from([8, 16])),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    highest = draw(st.sampled_from([0, 1, 2, 255]))
    part = lambda make: torch.from_numpy(make()) if draw(st.booleans()) else None
    return VideoData(
        torch.from_numpy(rng.integers(0, highest + 1, (n, t, c, side, side), dtype=np.uint8)),
        part(lambda: rng.standard_normal((n, t, 4), dtype=np.float32)),
        part(lambda: rng.standard_normal((n, t, 2), dtype=np.float32)),
        part(lambda: rng.random((n, t)) < 0.5),
        part(lambda: rng.random((n, t)) < 0.5),
        times=part(lambda: rng.exponential(size=(n, t)).cumsum(1) + 1e9 * rng.random()),
    )


def same(a, b):
    "Whether two data sets agree in every bit of every part."
    parts = ((getattr(a, k), getattr(b, k)) for k in ("frames", "state", "controls", "mask", "contacts", "times"))
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
        arrays[key] = np.zeros(
            data.draw(shape | st.just((2, 3)) | st.just((2, 3, 4))), dtype=data.draw(st.sampled_from(NUMBERS))
        )
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


@pytest.mark.parametrize("place", ["images", "state", "somewhere else"])
def test_pickles_are_never_loaded(place):
    "An object whose unpickling would leave a trace leaves none: refused as frames, and left out beside them, and said."

    class Trap:
        def __reduce__(self):
            return (Path.touch, (FOLDER / "sprung",))

    file = io.BytesIO()
    objects = np.array([Trap(), 1], dtype=object)
    np.savez(file, **{"images": np.zeros((1, 2, 8, 8)), place: objects})
    read = read_or_refuse(file.getvalue(), "trap.npz")
    assert (read is None) == (place == "images")
    assert read is None or (read.state is None and ("state left out" in read.note) == (place == "state"))
    assert not (FOLDER / "sprung").exists()


@FEW
@given(st.integers(3, 300), st.floats(0, 0.4), st.floats(0, 0.4), st.integers(0, 2**31))
def test_splits_are_disjoint_and_complete(n, test, valid, seed):
    parts = split_indices(n, test, valid, seed)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(n))
    assert len(parts.train) >= 1 and (len(parts.test) >= 1) == (test > 0) and (len(parts.valid) >= 1) == (valid > 0)
    assert all(torch.equal(a, b) for a, b in zip(parts, split_indices(n, test, valid, seed)))


def cuts(draw, total, most=4):
    "Lengths of at most `most` pieces, empty ones too, that add up to `total`."
    ends = sorted(draw(st.lists(st.integers(0, total), max_size=most - 1)))
    return [b - a for a, b in zip([0, *ends], [*ends, total])]


def in_pieces(data, lengths):
    "The data set in chunks of these lengths."
    ends = np.cumsum(lengths).tolist()
    return (data[end - length : end] for end, length in zip(ends, lengths))


@FEW
@given(st.data(), data_sets())
def test_any_chunking_gives_the_same_folder(choose, data):
    clips = choose.draw(st.integers(1, 5))
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        whole = write_shards(one, [data], clips)
        parts = write_shards(two, in_pieces(data, cuts(choose.draw, len(data))), clips)
        files = lambda folder: {p.name: p.read_bytes() for p in Path(folder).iterdir()}
        assert files(one) == files(two) and whole.fingerprint() == parts.fingerprint()
        assert same(parts[:], data)
        parts.verify()


@FEW
@given(st.data(), data_sets())
def test_shards_answer_as_memory_does(choose, data):
    "Any positions, any subset, any view of a set on the disk gives what the same set in memory gives."
    steps, size = choose.draw(st.integers(1, data.steps)), choose.draw(st.sampled_from([None, 8, 24]))
    binary = choose.draw(st.lists(st.floats(0, 1), max_size=2))
    with tempfile.TemporaryDirectory() as folder:
        write_shards(folder, [data], choose.draw(st.integers(1, 5)))
        save_video_data(FOLDER / "memory.npz", data)
        shards, memory = open_shards(folder, steps, size), read_video_data(FOLDER / "memory.npz", steps, size)
        for threshold in binary:
            shards, memory = shards.binarized(threshold), memory.binarized(threshold)
        positions = lambda: torch.tensor(choose.draw(st.lists(st.integers(0, len(memory) - 1), min_size=1, max_size=6)))
        if choose.draw(st.booleans()):
            kept = positions()
            shards, memory = shards.subset(kept), memory.subset(kept)
        assert [len(shards), shards.steps, shards.channels, shards.size] == [
            len(memory),
            memory.steps,
            memory.channels,
            memory.size,
        ]
        index = choose.draw(st.builds(slice, *[st.none() | st.integers(-5, 5)] * 2, st.none() | st.integers(1, 3)))
        assert same(shards[index], memory[index])
        order, batch_size, drop_last = positions(), choose.draw(st.integers(1, 4)), choose.draw(st.booleans())
        read, picked = (list(batches(d, batch_size, order, drop_last)) for d in (shards, memory))
        assert len(read) == len(picked)
        for a, b in zip(read, picked):
            assert all(x is y is None or torch.equal(x, y) for x, y in zip(a, b))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_shards(choose):
    """A file of the folder changed, cut or lost: refused in a sentence when opened or verified, unless it means the
    same.
    """
    data = VideoData(
        torch.arange(3 * 2 * 64).to(torch.uint8).view(3, 2, 1, 8, 8),
        torch.arange(24.0).view(3, 2, 4),
        mask=torch.ones(3, 2, dtype=torch.bool),
    )
    with tempfile.TemporaryDirectory() as folder:
        write_shards(folder, [data], 2)
        path = choose.draw(st.sampled_from(sorted(Path(folder).iterdir())))
        content = bytearray(path.read_bytes())
        position = choose.draw(st.integers(0, len(content) - 1))
        if choose.draw(st.booleans()):
            content[position] ^= choose.draw(st.integers(1, 255))
        else:
            content = content[:position]
        path.write_bytes(content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                shards = open_shards(folder)
                shards.verify()
                assert same(shards[:], data)
        except InputError as error:
            assert str(error).endswith(".") and "\n" not in str(error) and folder in str(error)


@FEW
@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=8),
        lambda v: (
            st.lists(v, max_size=3)
            | st.dictionaries(st.sampled_from(["format", "shapes", "shards", "frames", "clips"]), v, max_size=4)
        ),
    ).map(lambda v: json.dumps(v).encode())
)
def test_any_index(content):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "index.json").write_bytes(content)
        with pytest.raises(InputError) as refused:
            open_shards(folder)
        assert folder in str(refused.value) and str(refused.value).endswith(".")


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(["box", "gravity", "polygon", "pong"]),
    st.integers(1, 100),
    st.integers(1, 130),
    st.integers(0, 2**31),
)
def test_simulating_in_chunks(world, sequences, chunk, seed):
    parts, whole = (
        list(simulated_chunks(world, sequences, 3, seed, 16, chunk=chunk)),
        from_simulation(simulate(world, sequences, 3, seed, 16)),
    )
    for name in ("frames", "state", "contacts"):
        assert torch.equal(torch.cat([getattr(p, name) for p in parts]), getattr(whole, name))


@FEW
@given(st.lists(st.integers(), max_size=20), st.integers(1, 4), st.integers(0, 25), st.booleans())
def test_ahead_changes_nothing(items, depth, stop, breaks):
    "The same items in the same order, the same error at the same place, no thread left, wherever the consumer stops."

    def source():
        yield from items
        if breaks:
            raise InputError("no more.")

    seen, before = [], threading.active_count()
    with closing(ahead(source(), depth)) as early:
        try:
            for k, item in enumerate(early):
                if k == stop:
                    break
                seen.append(item)
        except InputError:
            assert breaks and seen == items
    assert seen == items[:stop] and threading.active_count() == before
