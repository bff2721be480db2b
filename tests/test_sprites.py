"""Sprites, swings and their files: painting, drawing, labels, readers, and files that want to do harm."""

import hashlib
import io
import os
import pickle
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from kvae_nb.core.errors import InputError
from kvae_nb.data.audio import LABELS, sounds_at
from kvae_nb.data.opening import DataConfig, looks_grey, open_data
from kvae_nb.data.pickles import read_object_arrays
from kvae_nb.data.sheets import cut_sheet, read_li_sprites, read_sheets, read_sprite_folder, save_sheets
from kvae_nb.data.someone import flare_order, open_someone, read_flare, read_mug, someone_kind
from kvae_nb.data.sources import SequenceDataConfig, open_sequences
from kvae_nb.worlds.figures import COLUMNS, skeleton
from kvae_nb.worlds.pendulum import swing
from kvae_nb.worlds.sprites import (
    LabelledFilms,
    Sheets,
    compose,
    drawn_sheets,
    half_size,
    looks_of,
    original_characters,
    simulate_sprites,
)
from kvae_nb.worlds.swings import FRICTIONS, LENGTHS, simulate_swings, swing_covers, swing_paths, swing_pendulum

ROOT = Path(__file__).resolve().parent.parent
PARTS = ROOT.parent / "shared" / "data" / "sprites_parts.npz"
SHA_OF_ALL = "9a90d76e1172c33b"


@pytest.fixture(scope="module")
def drawn():
    return drawn_sheets()


def painted_slowly(sheets, look, motion):
    "One film by the formula of alpha over, in float64."
    film = np.zeros(sheets.body.shape[2:-1] + (3,))
    for part, c in zip(sheets, (*look, 0)):
        colour, alpha = part[c, motion, ..., :3].astype(float), part[c, motion, ..., 3:] / 255
        film = np.rint(alpha * colour + (1 - alpha) * film)
    return film.astype(np.uint8)


# painting


def test_all_real_clips_are_composed_to_the_byte_or_else_the_drawn_ones_by_the_formula(drawn):
    "With the real sheets beside the checkout: all 1296 × 9 clips by their hash. Without: the same arithmetic."
    sheets = read_sheets(PARTS) if PARTS.is_file() else drawn
    if PARTS.is_file():
        digest = hashlib.sha256()
        for first in range(0, 1296, 162):
            digest.update(simulate_sprites(np.arange(first, first + 162), sheets=sheets).images)
        assert digest.hexdigest().startswith(SHA_OF_ALL)
    rng = np.random.default_rng(0)
    looks, motion = rng.integers(0, 6, (40, 4)), rng.integers(0, 9, 40)
    for film, look, m in zip(compose(sheets, looks, motion), looks, motion):
        assert (film == painted_slowly(sheets, look, m)).all()


def test_sheets_of_one_colour_a_part_give_these_colours():
    "Body left half, trousers right half over it, a top that is half transparent, no hair."
    make = lambda rgba, where: np.where(where[..., None], np.array(rgba, np.uint8), np.uint8(0))
    column = np.broadcast_to(np.arange(8), (2, 9, 8, 8, 8))
    sheets = Sheets(
        make((200, 0, 0, 255), column < 6),
        make((0, 100, 0, 255), column >= 4),
        make((0, 0, 255, 128), column >= 6),
        make((9, 9, 9, 255), column < 0),
    )
    film = compose(sheets, np.zeros((1, 4), int), np.array([3]))[0]
    assert (film[..., :4, :] == (200, 0, 0)).all() and (film[..., 4:6, :] == (0, 100, 0)).all()
    assert (film[..., 6:, :] == (0, round(100 * 127 / 255), 128)).all()


def test_a_part_changes_no_pixel_that_neither_class_of_it_covers(drawn):
    rng = np.random.default_rng(1)
    for place, part in enumerate(drawn[:4]):
        for _ in range(6):
            look, motion = rng.integers(0, 6, 4), rng.integers(0, 9)
            other = look.copy()
            other[place] = (look[place] + 1 + rng.integers(5)) % 6
            a, b = compose(drawn, np.stack([look, other]), np.array([motion] * 2))
            covered = (part[[look[place], other[place]], motion, ..., 3] > 0).any(0)
            changed = (a != b).any(-1)
            assert changed.any() and not (changed & ~covered).any()


def test_every_class_of_every_part_is_seen_in_every_motion(drawn):
    "At least 30 of 4096 pixels of each frame differ visibly between any two classes."
    for place in range(4):
        look = np.full((6, 4), 2)
        look[:, place] = np.arange(6)
        for motion in range(9):
            films = compose(drawn, look, np.full(6, motion)).astype(int)
            apart = abs(films[:, None] - films[None]).max(-1) > 20
            pixels = apart.sum((-1, -2)).min(-1) + 4096 * np.eye(6, dtype=int)
            assert pixels.min() >= 30


def test_what_cannot_be_composed_is_refused(drawn):
    for looks, motion in (([[0, 0, 6, 0]], [0]), ([[0, 0, 0, -1]], [0]), ([[0, 0, 0, 0]], [9]), ([[0, 0, 0]], [0])):
        with pytest.raises(InputError):
            compose(drawn, np.array(looks), np.array(motion))
    for wrong in (dict(characters=0), dict(characters=1297), dict(characters=np.array([1296])), dict(size=48)):
        with pytest.raises(InputError):
            simulate_sprites(sheets=drawn, **wrong)
    with pytest.raises(InputError):
        drawn_sheets(size=48)


# characters and labels


def test_numbers_of_characters_are_digits_to_the_base_six():
    looks = looks_of(np.arange(1296))
    assert (looks @ [216, 36, 6, 1] == np.arange(1296)).all() and looks.min() == 0 and looks.max() == 5
    sets = original_characters()
    assert len(sets.train) == 1000 and len(sets.test) == 296
    assert sorted([*sets.train, *sets.test]) == list(range(1296))
    np.random.seed(423)  # the authors' own way
    assert (np.concatenate(sets) == np.random.permutation(1296)).all()


def test_simulated_sprites_have_the_labels_of_what_is_seen(drawn):
    films = simulate_sprites(np.array([7, 1295]), (0, 4, 8), drawn)
    assert isinstance(films, LabelledFilms) and films.images.shape == (6, 8, 64, 64, 3)
    assert films.labels[:, :4].tolist() == [[0, 0, 1, 1]] * 3 + [[5, 5, 5, 5]] * 3
    assert films.labels[:, 4].tolist() == [0, 4, 8] * 2 and films.labels.dtype == np.int64
    assert [f[0] for f in films.factors] == ["body", "bottom", "top", "hair", "motion"]
    assert [f[1:] for f in films.factors] == [(6, True)] * 4 + [(9, False)]
    assert (films.images[4] == painted_slowly(drawn, (5, 5, 5, 5), 4)).all()
    chosen = simulate_sprites(5, (0,), drawn, seed=3)
    assert len(chosen.images) == 5 and len(np.unique(chosen.labels, axis=0)) == 5
    assert (chosen.images == simulate_sprites(5, (0,), drawn, seed=3).images).all()


def test_half_the_size_is_the_mean_of_four_pixels(drawn):
    large = simulate_sprites(3, (1, 5), drawn)
    small = simulate_sprites(3, (1, 5), drawn, size=32)
    mean = large.images.reshape(6, 8, 32, 2, 32, 2, 3).astype(float).mean((3, 5))
    assert (small.images == np.floor(mean + 0.5)).all() and (small.labels == large.labels).all()
    assert (half_size(np.full((4, 4, 3), 255, np.uint8)) == 255).all()


# the drawn figures


def test_drawn_sheets_are_a_function_of_the_seed(drawn):
    again, other, small = drawn_sheets(), drawn_sheets(1), drawn_sheets(size=32)
    assert all((a == b).all() for a, b in zip(drawn, again))
    assert any((a != b).any() for a, b in zip(drawn, other))
    assert all((a[..., 3] == b[..., 3]).all() for a, b in zip(drawn, other))  # the seed is one of colours
    assert small.body.shape == (6, 9, 8, 32, 32, 4)
    for a, b in zip(drawn, small):  # a smaller sheet covers the same share
        share = a[..., 3].reshape(-1, 32, 2, 32, 2).mean((2, 4)) - b[..., 3].reshape(-1, 32, 32)
        assert abs(share).max() <= 1.0


def test_bones_keep_their_lengths():
    for action, columns in COLUMNS.items():
        for column in columns:
            j = skeleton(action, column)
            for n in "LR":
                far = lambda a, b: np.linalg.norm(j[a + n] - j[b + n])
                assert abs(far("hip", "knee") - 8) < 1e-9 and abs(far("knee", "foot") - 8) < 0.05
                assert abs(far("shoulder", "elbow") - 6.6) < 1e-9 and far("elbow", "hand") < 6.4 + 1e-9


def test_walking_is_periodic_and_the_other_motions_are_not(drawn):
    a, b = skeleton("walk", 0.25), skeleton("walk", 8.25)
    assert all(np.allclose(a[k], b[k], atol=1e-12) for k in a)
    films = compose(drawn, np.zeros((9, 4), int), np.arange(9)).astype(int)
    step = abs(films[:, 1:] - films[:, :-1]).sum((2, 3, 4))
    close = abs(films[:, 0] - films[:, -1]).sum((1, 2, 3))
    assert (close[:3] < 1.5 * step[:3].max(1)).all()  # the walk goes on from frame 8 to frame 1 as between others
    backwards = abs(films[:, ::-1, None] - films[:, None]).sum((3, 4, 5))  # [motion, frame reversed, frame]
    shifts = np.stack([[backwards[m, (np.arange(8) - s) % 8, np.arange(8)].sum() for s in range(8)] for m in range(9)])
    assert (shifts[3:].min(1) > 0).all()  # reversed, spell and blow are no shifted spell and blow
    for m in range(3):  # the frames of a walk are the same ones backwards
        assert sorted(f.tobytes() for f in films[m]) == sorted(f.tobytes() for f in films[m, ::-1])


def test_right_is_not_the_mirror_of_left(drawn):
    films = compose(drawn, np.ones((9, 4), int), np.arange(9)).astype(int)
    for left, right in ((1, 2), (4, 5), (7, 8)):
        apart = (abs(films[left, :, :, ::-1] - films[right]).max(-1) > 20).sum((1, 2))
        assert apart.max() > 100


def test_figures_stay_inside_their_frames(drawn):
    for part in drawn[:4]:
        edge = np.concatenate([part[..., [0, -1], :, 3].ravel(), part[..., :, [0, -1], 3].ravel()])
        assert edge.max() == 0


# sheets from files


def test_sheets_written_and_read_are_the_same(tmp_path, drawn):
    save_sheets(tmp_path / "s.npz", drawn)
    assert all((a == b).all() for a, b in zip(read_sheets(tmp_path / "s.npz"), drawn))
    with pytest.raises(InputError):
        save_sheets(tmp_path / "s.npy", drawn)


def whole_sheet(rng):
    return rng.integers(0, 256, (1344, 832, 4), dtype=np.uint8)


def test_a_sheet_of_cells_is_cut_by_the_recipe():
    sheet = np.zeros((1344, 832, 4), np.uint8)
    for row in range(21):
        for column in range(13):
            sheet[64 * row : 64 * row + 64, 64 * column : 64 * column + 64, :2] = row, column
    cells = cut_sheet(sheet)
    rows, columns = cells[:, 0, 5, 5, 0].tolist(), cells[:, :, 5, 5, 1].tolist()
    assert rows == [10, 9, 11, 2, 1, 3, 14, 13, 15]
    assert columns[0] == [8, 1, 2, 3, 4, 5, 6, 7] and columns[3] == [0, 1, 2, 3, 4, 5, 4, 6]
    assert columns[8] == [0, 1, 2, 3, 4, 5, 4, 0]
    with pytest.raises(InputError):
        cut_sheet(sheet[:-1])


def test_folders_of_images_are_read(tmp_path):
    import imageio.v3 as iio

    rng, made = np.random.default_rng(0), {}
    for name in ("body", "bottomwear", "topwear", "hair", "shoes"):
        (tmp_path / name).mkdir()
        for k in (1,) if name == "shoes" else range(6):
            made[name, k] = whole_sheet(rng) if k == 1 else np.full((1344, 832, 4), 40 * k, np.uint8)
            iio.imwrite(tmp_path / name / f"{k}.png", made[name, k])
    sheets = read_sheets(tmp_path)
    assert (sheets.top[1] == cut_sheet(made["topwear", 1])).all() and (
        sheets.shoes[0] == cut_sheet(made["shoes", 1])
    ).all()
    assert (sheets.hair[5] == 200).all()
    (tmp_path / "hair" / "3.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="3.png"):
        read_sheets(tmp_path)
    (tmp_path / "hair" / "3.png").unlink()
    with pytest.raises(InputError, match="3.png is missing"):
        read_sheets(tmp_path)


@pytest.mark.parametrize(
    "arrays",
    [
        {"body_0": np.zeros((9, 8, 64, 64, 4), np.uint8)},
        {"body_0": np.zeros((9, 8, 64, 64, 3), np.uint8)},
        {"body_0": np.zeros((9, 8, 64, 64, 4), np.float32)},
        {"body_0": np.zeros((9, 8, 64, 64, 4), np.uint8), "hair_0": np.zeros((9, 8, 32, 32, 4), np.uint8)},
        {"images": np.zeros(3)},
    ],
)
def test_files_without_proper_sheets_are_refused(tmp_path, arrays):
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(InputError, match="s.npz"):
        read_sheets(tmp_path / "s.npz")


# sets of sprites


def write_li(folder, which="train", clips=3, rng=None):
    "Files in the form of Li and Mandt, of two motions; the films and labels in them."
    rng, films, labels = rng or np.random.default_rng(0), [], []
    for stem, motion in (("walk_front", 0), ("spellcard_right", 5)):
        film = rng.integers(0, 256, (clips, 8, 64, 64, 3), dtype=np.uint8)
        look = rng.integers(0, 6, (clips, 4))
        np.save(folder / f"{stem}_frames_{which}.npy", film.astype(np.float32) / 256)
        marks = np.eye(6, dtype=np.float32)[look]
        np.save(folder / f"{stem}_attributes_{which}.npy", np.repeat(marks[:, None], 8, 1))
        films.append(film), labels.append(np.concatenate([look, np.full((clips, 1), motion)], 1))
    return np.concatenate(films), np.concatenate(labels)


def test_the_files_of_li_and_mandt_are_read(tmp_path):
    films, labels = write_li(tmp_path)
    write_li(tmp_path, "test", 2)
    data = read_li_sprites(tmp_path, "train")
    assert (data.frames.permute(0, 1, 3, 4, 2).numpy() == films).all() and (data.labels.numpy() == labels).all()
    assert [f.name for f in data.factors] == ["body", "bottom", "top", "hair", "motion"]
    assert someone_kind(tmp_path) == "li" and len(open_someone(tmp_path)) == 10
    short = open_someone(tmp_path, steps=4, size=32)
    assert short.frames.shape == (10, 4, 3, 32, 32) and "resized from 64×64" in short.note
    with pytest.raises(InputError):
        open_someone(tmp_path, steps=9)
    opened = open_data(DataConfig(path=str(tmp_path), steps=8, size=64))  # as the command does
    assert (opened.frames == open_someone(tmp_path).frames).all() and len(opened.factors) == 5 and looks_grey(tmp_path)
    with pytest.raises(InputError):
        read_li_sprites(tmp_path, "valid")
    np.save(tmp_path / "walk_front_frames_train.npy", 2 * films[:3].astype(np.float32))
    with pytest.raises(InputError, match="walk_front_frames_train"):
        read_li_sprites(tmp_path)


def write_sprites(folder, count=12, actions=3):
    "Folders of .sprite files, numbered from 1; the films and labels in them."
    rng, films, labels = np.random.default_rng(0), [], []
    for which, numbers in (("train", range(1, count)), ("test", (1,))):
        (folder / which).mkdir(exist_ok=True)
        for k in numbers:
            film = rng.integers(0, 256, (8, 3, 64, 64), dtype=np.uint8)
            label = dict(body=int(rng.integers(7)), shirt=int(rng.integers(4)), pant=int(rng.integers(5)))
            label |= dict(hair=int(rng.integers(6)), action=k % actions)
            torch.save(label | {"sprite": torch.from_numpy(film).float() / 127.5 - 1}, folder / which / f"{k}.sprite")
            films.append(film), labels.append([label[n] for n in ("body", "pant", "shirt", "hair", "action")])
    return np.stack(films), np.array(labels)


def test_folders_of_sprite_files_are_read_in_natural_order(tmp_path):
    films, labels = write_sprites(tmp_path)
    data = open_someone(tmp_path)
    order = [11, *range(11)]  # test/1, then train/1 … train/11
    assert (data.frames.numpy() == films[order]).all() and (data.labels.numpy() == labels[order]).all()
    assert data.factors[-1].classes == 3 and not data.factors[-1].static
    assert len(read_sprite_folder(tmp_path, "train")) == 11 and len(read_sprite_folder(tmp_path / "train")) == 11
    write_sprites(tmp_path, actions=9)
    assert read_sprite_folder(tmp_path).factors[-1].classes == 9


class Evil:
    "Would create a file when it is unpickled."

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_hostile_sprite_file_is_refused_and_nothing_runs(tmp_path):
    write_sprites(tmp_path, 2)
    torch.save({"body": 0, "sprite": Evil(tmp_path / "ran")}, tmp_path / "train" / "7.sprite")
    with pytest.raises(InputError, match="7.sprite"):
        read_sprite_folder(tmp_path)
    assert not (tmp_path / "ran").exists()
    for wrong in (
        {"sprite": 3},
        {"sprite": torch.zeros(8, 3, 64, 64)},
        [1],
        {"sprite": torch.full((8, 3, 64, 64), 2.0)},
    ):
        torch.save(wrong, tmp_path / "train" / "7.sprite")
        with pytest.raises(InputError, match="7.sprite"):
            read_sprite_folder(tmp_path)


# pickles


def objects(items):
    out = np.empty(len(items), object)
    for k, item in enumerate(items):
        out[k] = item
    return out


def write_member(path, raw, shape=(1,), name="arr_0"):
    "An .npz with an array of objects whose pickle is `raw`."
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|O", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.npy", head.getvalue() + raw)
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_honest_pickles_of_arrays_are_read(tmp_path, protocol):
    rng = np.random.default_rng(0)
    kinds = (np.uint8, np.int64, np.float32, ">f8", "<u2", bool)
    arrays = [(10 * rng.random((k + 1, 2, 3))).astype(kind) for k, kind in enumerate(kinds)]
    arrays.append(np.asfortranarray(rng.integers(0, 9, (4, 5))))
    path = write_member(tmp_path / "a.npz", pickle.dumps(objects(arrays), protocol), (len(arrays),))
    for a, b in zip(read_object_arrays(path), arrays, strict=True):
        assert a.dtype == b.dtype and (a == b).all()
    np.savez(tmp_path / "b.npz", objects(arrays))
    assert all((a == b).all() for a, b in zip(read_object_arrays(tmp_path / "b.npz"), arrays, strict=True))


def test_films_of_equal_length_that_numpy_made_one_array_of_are_read(tmp_path):
    films = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", np.array(list(films), dtype=object))
    out = read_object_arrays(tmp_path / "a.npz")
    assert (np.stack(out) == films).all() and out[0].dtype == np.uint8


def reduce_to(function, *arguments, state=None):
    "An object whose pickle calls the function."

    class Trick:
        def __reduce__(self):
            return (function, arguments) if state is None else (function, arguments, state)

    return Trick()


def hostile(mark):
    "Pickles that would do something, by name."
    code = f"open({str(mark)!r}, 'w')"
    dump = lambda thing, protocol=4: pickle.dumps(thing, protocol)
    array = lambda thing, protocol=4: dump(objects([np.zeros(2), thing]), protocol)
    text = str(mark).encode()
    yield from ((f"system {p}", dump(Evil(mark), p)) for p in range(6))
    yield from ((f"system inside an array {p}", array(Evil(mark), p)) for p in range(6))
    yield "eval", array(reduce_to(eval, code))
    yield "exec", array(reduce_to(exec, code))
    yield "getattr", b"cbuiltins\ngetattr\n(cbuiltins\n__import__\n(S'os'\ntRS'system'\ntR(S'touch " + text + b"'\ntR."
    yield "a nested list", array([[Evil(mark)]])
    yield "a dict", dump({"a": Evil(mark)})
    yield "by the old opcode", b"(S'touch " + text + b"'\nios\nsystem\n."
    yield "by GLOBAL", b"cos\nsystem\n(S'touch " + text + b"'\ntR."
    yield "by numpy itself", array(reduce_to(np.load, str(mark)))
    yield "by a dotted name", b"\x80\x04\x8c\x05numpy\x8c\x12core.os.system.now\x93\x8c\x01x\x85R."
    yield "by a dotted name in a known module", b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93\x8c\x01x\x85R."
    yield "by numpy's runstring", b"cnumpy.testing._private.utils\nrunstring\n(S'" + code.encode() + b"'\n}tR."
    yield "by an extension code", b"\x80\x02\x82\x01)R."
    yield "by a persistent id", b"Pos.system\n."
    yield "a changed maker", b"cnumpy\ndtype\n(N}S'make'\nS'x'\nstb."
    yield "a changed maker by dict", b"cnumpy\ndtype\n}S'make'\nS'x'\nsb."
    yield (
        "__class__ of a type",
        b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00u1\x85R}X\x09\x00\x00\x00__class__K\x01sN\x86b.",
    )


def test_hostile_pickles_are_refused_and_nothing_runs(tmp_path):
    mark, count = tmp_path / "ran", 0
    for name, raw in hostile(mark):
        path = write_member(tmp_path / "h.npz", raw, (2,))
        for ignored in ({}, LABELS):
            with pytest.raises(InputError, match="h.npz"):
                read_object_arrays(path, ignored=ignored)
        assert not mark.exists(), name
        count += 1
    assert count > 20
    arrays = objects([np.arange(3)])  # the makers still make what they did
    np.savez(tmp_path / "fine.npz", arrays)
    assert (read_object_arrays(tmp_path / "fine.npz")[0] == arrays[0]).all()


def array_pickle(code=b"O8", shape=b"K\x01\x85", data=b"]", order=b"|"):
    "A pickle of one array with these parts; `data` and `shape` are opcodes."
    text = lambda b: b"X" + len(b).to_bytes(4, "little") + b
    kind = (
        b"cnumpy\ndtype\n"
        + text(code)
        + b"\x89\x88\x87R(K\x03"
        + text(order)
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ftb"
    )
    start = b"\x80\x03cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"
    return start + b"(K\x01" + shape + kind + b"\x89" + data + b"tb"


def test_arrays_that_lie_about_themselves_are_refused(tmp_path):
    "Raw bytes as objects would be pointers; a size that is not there would be memory of somebody else."
    inner = lambda **parts: array_pickle(data=b"](" + array_pickle(**parts)[2:] + b"e") + b"."
    fine = inner(code=b"u1", shape=b"K\x02\x85", data=b"C\x02ab")
    assert read_object_arrays(write_member(tmp_path / "a.npz", fine))[0].tolist() == [97, 98]
    lies = {
        "objects from bytes": inner(code=b"O8", shape=b"K\x01\x85", data=b"C\x08abcdefgh"),
        "too few bytes": inner(code=b"u1", shape=b"K\x03\x85", data=b"C\x02ab"),
        "too many bytes": inner(code=b"u1", shape=b"K\x01\x85", data=b"C\x02ab"),
        "a negative size": inner(code=b"u1", shape=b"J\xfe\xff\xff\xff\x85", data=b"C\x02ab"),
        "text": inner(code=b"U2", shape=b"K\x01\x85", data=b"C\x08abcdefgh"),
        "a compound type": inner(code=b"u1,u1", shape=b"K\x01\x85", data=b"C\x02ab"),
        "an unknown order": inner(code=b"u2", shape=b"K\x01\x85", data=b"C\x02ab", order=b"!"),
        "an array of arrays of arrays": inner(code=b"O8", shape=b"K\x00\x85", data=b"]"),
        "another shape than promised": array_pickle(shape=b"K\x02\x85", data=b"](K\x01K\x01e") + b".",
        "an array set twice": array_pickle(data=b"]") + b"(K\x01K\x01\x85Nb.",
        "cut off": fine[:-9],
        "empty": b"",
    }
    for name, raw in lies.items():
        with pytest.raises(InputError, match="a.npz"):
            read_object_arrays(write_member(tmp_path / "a.npz", raw))
            pytest.fail(name)
    np.savez(tmp_path / "plain.npz", np.zeros(3))
    for wrong in ("plain.npz", "absent.npz"):
        with pytest.raises(InputError, match=wrong):
            read_object_arrays(tmp_path / wrong)


# recordings with notes


@pytest.fixture
def notes(monkeypatch):
    "Makes what stands beside a recording in musicnet.npz, with stand-ins for the package intervaltree."
    Interval = type("Interval", (tuple,), {"__module__": "intervaltree.interval"})
    Interval.__reduce__ = lambda self: (Interval, tuple(self))
    Tree = type("IntervalTree", (list,), {"__module__": "intervaltree.intervaltree"})
    Tree.__reduce__ = lambda self: (Tree, (sorted(self),))
    for module, known in (("", Tree), (".intervaltree", Tree), (".interval", Interval)):
        made = types.ModuleType("intervaltree" + module)
        setattr(made, known.__name__, known)
        monkeypatch.setitem(sys.modules, made.__name__, made)
    return Tree(
        [Interval((0, 22050, (1, 69, np.float64(0.5), "Half"))), Interval((22050, 44100, (1, 71, 1.0, "Half")))]
    )


def test_recordings_of_musicnet_are_read_without_their_notes(tmp_path, notes, monkeypatch):
    t = np.arange(44100) / 44100
    tone = lambda hertz, t: np.sin(2 * np.pi * hertz * t)
    path, kept = tmp_path / "musicnet.npz", {}
    for name, hertz in (("2494", 440), ("303", 660)):
        kept[name] = objects([tone(hertz, t).astype(np.float32), notes])
    np.savez(path, **kept)
    for name in ("intervaltree", "intervaltree.intervaltree", "intervaltree.interval"):  # the reader needs none of it
        monkeypatch.setitem(sys.modules, name, None)
    sounds = sounds_at(path)
    assert [(name, len(s.samples), s.rate) for name, s in sounds.items()] == [
        ("303", 16000, 16000),
        ("2494", 16000, 16000),
    ]
    here = np.arange(16000) / 16000  # whole periods are resampled without an error
    for name, hertz in (("303", 660), ("2494", 440)):
        np.testing.assert_allclose(sounds[name].samples, tone(hertz, here), atol=1e-5)
    data = open_sequences(SequenceDataConfig(source="audio", path=str(path)))
    assert (len(data), data.steps, data.event) == (2, 80, (200,))
    with pytest.raises(InputError, match="IntervalTree.*nothing was run"):
        read_object_arrays(path, "303")  # who does not expect them is told


@pytest.mark.parametrize(
    "wrong", ["notes alone", "two rows", "whole numbers", "not finite", "no objects", "no archive"]
)
def test_what_is_no_recording_is_said_to_be_none(tmp_path, notes, wrong):
    tone, path = np.zeros(100, np.float32), tmp_path / "musicnet.npz"
    told = {
        "notes alone": [notes],
        "two rows": [np.zeros((2, 3)), notes],
        "whole numbers": [np.arange(3), notes],
        "not finite": [tone + np.float32("nan"), notes],
        "no objects": None,
    }
    if wrong == "no archive":
        path.touch()
    else:
        np.savez(path, x=np.zeros(3) if told[wrong] is None else objects(told[wrong]))
    with pytest.raises(InputError, match="musicnet.npz"):
        sounds_at(path)


# faces


def write_mug(folder, lengths=(50, 9, 64), side=112):
    rng = np.random.default_rng(0)
    films = [rng.integers(0, 256, (n, side, side, 3), dtype=np.uint8) for n in lengths]
    np.savez(folder / "MUG.npz", objects(films))
    np.savez(folder / "labels.npz", np.array([(3, 8), (1, 2), (51, 5)][: len(films)]))
    return folder / "MUG.npz", films


def test_faces_are_read_in_seeded_windows_with_the_labels_that_are_stored(tmp_path):
    path, films = write_mug(tmp_path)
    data = read_mug(path, steps=20, size=112)
    assert data.frames.shape == (2, 20, 3, 112, 112) and data.labels.tolist() == [[3, 8], [51, 5]]
    assert [(f.name, f.classes, f.static) for f in data.factors] == [("person", 52, True), ("expression", 9, False)]
    for said in ("1 frame in 2", "windows by seed 0", "112×112", "1 shorter film"):
        assert said in data.note
    for clip, film in zip(data.frames.permute(0, 1, 3, 4, 2).numpy(), (films[0], films[2])):
        starts = [k for k in range(len(film[::2]) - 19) if (film[::2][k : k + 20] == clip).all()]
        assert len(starts) == 1
    assert (read_mug(path, seed=0).frames == read_mug(path, seed=0).frames).all()
    assert not all(
        (read_mug(path, size=112).frames == read_mug(path, size=112, seed=s).frames).all() for s in range(1, 5)
    )
    assert someone_kind(path) == "mug" and open_someone(path).frames.shape == (2, 20, 3, 64, 64)
    wide = read_mug(path, size=160, crop=160)
    assert (wide.frames[..., :24, :] == 0).all() and (wide.frames[..., 24:136, 24:136] > 0).any()
    assert (read_mug(path, size=112).frames == wide.frames[..., 24:136, 24:136]).all()


def test_what_is_not_of_someone_is_not_taken_for_it(tmp_path):
    (tmp_path / "notes.txt").write_text("an image=none, and a folder\n")
    (tmp_path / "folder.txt").mkdir()
    np.savez(tmp_path / "labels.npz", np.zeros(3))
    np.savez(tmp_path / "plain.npz", np.zeros(3))
    (tmp_path / "bad.npz").write_bytes(b"PK")
    for path in (tmp_path, *(tmp_path / n for n in ("plain.npz", "bad.npz", "absent.npz", "x" * 400))):
        assert someone_kind(path) == ""


def test_faces_that_cannot_be_used_are_refused(tmp_path):
    path, _ = write_mug(tmp_path, (9,))
    with pytest.raises(InputError, match="fewer"):
        read_mug(path)
    np.savez(tmp_path / "labels.npz", np.zeros((4, 2), int))
    with pytest.raises(InputError, match="labels.npz"):
        read_mug(path, steps=2)
    np.savez(path, objects([np.zeros((9, 8, 8), np.uint8)]))
    np.savez(tmp_path / "labels.npz", np.zeros((1, 2), int))
    with pytest.raises(InputError, match="clip 0"):
        read_mug(path, steps=2)
    assert someone_kind(tmp_path) == ""
    with pytest.raises(InputError, match="no films of someone"):
        open_someone(tmp_path)


# the game's sheets


def write_flare(folder):
    "Five sheets of one colour each, 4×6 pixels a cell, the animations of two actions."
    import imageio.v3 as iio

    (folder / "images").mkdir()
    (folder / "animations").mkdir()
    colours = dict(cloth_boots=10, cloth_pants=20, cloth_gloves=30, cloth_shirt=40, head_bald=50, plate_helm=60)
    for name, level in colours.items():
        sheet = np.zeros((6, 32, 4), np.uint8)
        sheet[..., 3] = 255
        sheet[..., 0], sheet[..., 1] = level, np.repeat(np.arange(8), 4)  # green tells the direction
        iio.imwrite(folder / "images" / f"{name}.png", sheet)
        lines = [f"image=images/{name}.png", ""]
        for action, frames, kind in (("run", 3, "looped"), ("stance", 3, "back_forth"), ("swing", 2, "play_once")):
            lines += [f"[{action}]", f"frames={frames}", "duration=2", f"type={kind}"]
            at = list(colours).index(name)
            lines += [f"frame={t},{d},{4 * d},0,4,6,{2 - at},{5 + t}" for t in range(frames) for d in range(8)]
        (folder / "animations" / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder / "animations"


def test_sheets_of_flare_become_films(tmp_path):
    folder = write_flare(tmp_path)
    data = read_flare(folder, actions=("run", "swing"), steps=5, size=32)
    assert someone_kind(folder) == "flare" and data.frames.shape == (2 * 16, 5, 3, 32, 32)
    assert [(f.name, f.classes) for f in data.factors][-2:] == [("head", 2), ("motion", 16)]
    assert data.labels[:16, -1].tolist() == list(range(16)) and data.labels[::16, -2].tolist() == [0, 1]
    for motion in (3, 8 + 6):
        for t, shown in enumerate((0, 1, 2, 0, 1) if motion < 8 else (0, 1, 1, 1, 1)):
            red, green = data.frames[motion, t, 0], data.frames[motion, t, 1]
            at = lambda row, column: int(red[row, column])
            top = 26 - 5 - shown  # the place is at 13/16 of the height
            assert at(top, 14) == 10 and at(top, 15) == 20 and at(top, 18) == 50 and at(top - 1, 15) == 0
            assert (green[red > 0] == motion % 8).all()
    assert flare_order("back_forth", 3, 7) == [0, 1, 2, 1, 0, 1, 2] and flare_order("play_once", 2, 4) == [0, 1, 1, 1]


def test_sheets_of_flare_that_cannot_be_used_are_refused(tmp_path):
    folder = write_flare(tmp_path)
    with pytest.raises(InputError, match="fly"):
        read_flare(folder, actions=("fly",))
    (folder / "cloth_shirt.txt").write_text("image=images/none.png\n[run]\nframe=0,0,0,0,1,1,0,0\n")
    with pytest.raises(InputError, match="cloth_shirt"):
        read_flare(folder)
    (folder / "cloth_shirt.txt").write_text("image=images/cloth_boots.png\n[run]\nframe=0,0,a\n")
    with pytest.raises(InputError, match="cloth_shirt"):
        read_flare(folder)
    (folder / "cloth_shirt.txt").unlink()
    with pytest.raises(InputError, match="chest"):
        read_flare(folder)


# swings


def test_swings_follow_the_integrator_and_their_labels():
    films = simulate_swings(40, 60, seed=1, size=32)
    assert films.images.shape == (40, 60, 32, 32, 3) and [f[0] for f in films.factors] == [
        "bob",
        "rod",
        "length",
        "friction",
    ]
    for row in (0, 7, 39):
        _, _, length, friction = films.labels[row]
        pendulum = swing_pendulum(length, friction)
        assert pendulum.length == LENGTHS[length] and pendulum.friction == FRICTIONS[friction] * LENGTHS[length] ** 2
        path = swing(pendulum, films.state[row : row + 1, 0], np.zeros((1, 60)))
        assert abs(path[0] - films.state[row]).max() < 1e-12
        energy = pendulum.energy(films.state[row, :, 0], films.state[row, :, 1])
        assert (np.diff(energy) < 1e-6 * energy[0]).all()  # nothing pushes; the integrator's error is far below
        lost = np.trapezoid(pendulum.friction * films.state[row, :, 1] ** 2, dx=pendulum.dt)
        assert abs(energy[0] - energy[-1] - lost) < 0.05 * energy[0]  # friction takes it: a sum over 60 frames
    assert (simulate_swings(10, 60, seed=1, size=32).images == films.images[:10]).all()


def test_the_same_motion_in_other_colours_covers_the_same_pixels():
    films = simulate_swings(60, 12, seed=2)
    lengths = np.array(LENGTHS)[films.labels[:, 2:3]]
    rod, bob = swing_covers(films.state[..., 0], np.broadcast_to(lengths, films.state.shape[:2]))
    seen = films.images.max(-1) > 0
    assert not (seen & (rod == 0) & (bob == 0)).any() and seen[(rod > 0.02) | (bob > 0.02)].all()
    full = bob == 1  # where the bob covers all of a pixel, the pixel has its colour
    from kvae_nb.worlds.swings import BOBS

    colours = np.broadcast_to(np.array(BOBS, np.uint8)[films.labels[:, 0]][:, None, None, None], films.images.shape)
    assert (films.images[full] == colours[full]).all()


def test_swings_of_small_angle_have_the_period_of_the_formula():
    start = np.array([[0.01, 0.0]] * 4)
    paths = swing_paths(np.array([(k, 0) for k in range(4)]), start, 200)
    for length, path in zip(LENGTHS, paths[..., 0]):
        down = np.flatnonzero((path[:-1] > 0) & (path[1:] <= 0))
        cross = down + path[down] / (path[down] - path[down + 1])
        period = np.diff(cross).mean() * 0.1
        assert abs(period / (2 * np.pi * np.sqrt(length / 9.81)) - 1) < 2e-3  # straight lines between frames


@pytest.mark.parametrize("wrong", [dict(sequences=0), dict(steps=0), dict(size=12), dict(seed=-1), dict(size=True)])
def test_swings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InputError):
        simulate_swings(**wrong)
