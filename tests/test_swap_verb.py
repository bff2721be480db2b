"""The verbs for models of someone: films with labels, a training, swaps, the table of a judge, and what is refused."""

import json
import os
import shutil
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from kvae_nb.app.command import main
from kvae_nb.data.opening import labelled_films, read_video_data
from kvae_nb.training.runs import load_run, run_data
from kvae_nb.worlds.sprites import drawn_sheets

SMALL = (
    "--model dsvae --data.steps 8 --data.size 32 --model.filters 4 --model.features 8 --model.reader_units 6 "
    "--model.rnn_units 6 --model.dim_a 3 --model.dim_f 4 --train.batch_size 8 --train.device cpu --train.threads 1 "
    "--train.picture_every 0 --data.test .3 --data.valid .1 --epochs 1 --out runs"
)
QUICK = "--measure.gaps [2] --measure.drops [] --measure.generate_count 2 --measure.generate_steps 4"


def kvae(line, capsys=None):
    "Exit code, and what was written on both streams."
    code = main(line.split())
    out, err = capsys.readouterr() if capsys else ("", "")
    return code, out, err


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "A folder with sprites of ten characters and a run that was trained on them."
    folder, before = tmp_path_factory.mktemp("home"), os.getcwd()
    os.chdir(folder)
    assert main("simulate --world sprites --sequences 90 --size 32 --out s.npz".split()) == 0
    assert main(f"train --data s.npz {SMALL}".split()) == 0
    next(Path("runs").iterdir()).rename("run")
    os.chdir(before)
    return folder


@pytest.fixture
def here(home, tmp_path, monkeypatch):
    "A fresh folder with the run and its films."
    shutil.copytree(home / "run", tmp_path / "run")
    shutil.copy(home / "s.npz", tmp_path / "s.npz")
    started = tmp_path / "run" / "started.json"
    started.write_text(json.dumps(json.loads(started.read_text()) | {"folder": str(tmp_path)}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_simulated_sprites_have_labels_and_are_those_of_the_world(here, capsys):
    data = read_video_data("s.npz")
    assert [f.name for f in data.factors] == ["body", "bottom", "top", "hair", "motion"]
    assert torch.equal(data.frames, labelled_films("sprites", 90, size=32).frames)
    code, _, err = kvae("simulate --world sprites --sequences 9 --size 32 --out s.npz", capsys)
    assert code == 2 and "exists already" in err  # labels may be somebody's work


def test_sprites_of_given_sheets_and_swings(here, capsys):
    parts = {
        f"{name}_{k}": v
        for name, part in drawn_sheets()._asdict().items()
        if part is not None
        for k, v in enumerate(part)
    }
    np.savez("sheets.npz", **parts)
    words = "simulate --world sprites --sequences 18 --size 64 --out"
    assert kvae(f"{words} given.npz --sheets sheets.npz")[0] == kvae(f"{words} drawn.npz")[0] == 0
    given, drawn = read_video_data("given.npz"), read_video_data("drawn.npz")
    assert torch.equal(given.frames, drawn.frames) and torch.equal(given.labels, drawn.labels)
    code, out, _ = kvae("simulate --world swings --sequences 4 --steps 12 --size 32 --out w.npz", capsys)
    assert code == 0 and "4 clips of 12 frames" in out and "labelled by" in out
    assert read_video_data("w.npz").state is not None


def test_no_character_is_on_both_sides(here):
    parts = run_data(load_run("run"))
    seen = [set(map(tuple, part.labels[:, :4].tolist())) for part in parts]
    assert all(seen) and not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])


def test_held_out_clips_are_swapped_where_none_are_named(here, capsys):
    code, out, err = kvae("swap run --count 3 --out swaps", capsys)
    assert (code, err) == (0, "") and "3 motions × 3 looks, 8 frames each" in out
    with np.load("swaps/swap.npz") as f:
        assert f["swapped"].shape == (3, 3, 8, 3, 32, 32) and f["swapped"].dtype == np.uint8
        looks = torch.from_numpy(f["looks"])
    held_out = run_data(load_run("run")).test
    assert all((held_out.frames == x).flatten(1).all(1).any() for x in looks)
    assert iio.improps("swaps/swap.gif", plugin="pillow").shape[0] == 8
    assert iio.imread("swaps/swap.png").ndim == 3
    first = Path("swaps/swap.npz").read_bytes()
    code, _, err = kvae("swap run --count 3 --out swaps", capsys)
    assert code == 2 and "exists already" in err
    assert kvae("swap run --count 3 --out swaps --force")[0] == 0
    assert Path("swaps/swap.npz").read_bytes() == first


def test_named_clips_are_swapped_in_their_order(here, capsys):
    x = read_video_data("s.npz").frames
    np.save("looks.npy", x[:5].movedim(2, -1).numpy())
    np.save("motions.npy", x[20:24, :6].movedim(2, -1).numpy())
    line = "swap run --looks looks.npy --motions motions.npy --count 3 --codes codes.npz --out swaps"
    code, out, err = kvae(line, capsys)
    assert (code, err) == (0, "") and "codes of 9 clips" in out
    model = load_run("run").model
    with np.load("swaps/swap.npz") as f, np.load("codes.npz") as codes, torch.no_grad():
        wanted = model.swap(x[:3], x[20:23, :6]).frames
        assert np.abs(f["swapped"] / 255 - wanted.clamp(0, 1).numpy()).max() < 0.51 / 255
        assert codes["looks_identity_mean"].shape == (5, 4) and codes["motions_pose_mean"].shape == (4, 6, 3)
        found = model.factors(x[20:24, :6]).pose.mean.numpy()
        np.testing.assert_allclose(codes["motions_pose_mean"], found, rtol=1e-4, atol=1e-5)
        assert "looks_labels" not in codes


def test_evaluate_prints_the_table_of_a_judge_and_keeps_the_judge(here, capsys):
    steps = "--measure.pairs 40 --measure.judge_steps 20"
    code, out, err = kvae(f"evaluate run {QUICK} {steps}", capsys)
    assert code == 0 and "swaps as a judge sees them (40 films; labels used: none)" in out
    assert "follows the look" in out and "Fréchet distance" in out
    first = json.loads(Path("run/evaluation.json").read_text())["someone"]
    assert list(first["factors"]) == ["body", "bottom", "top", "hair", "motion"] and first["swaps"] == 40
    (judge,) = Path("run").glob("judge_*.safetensors")
    made = judge.stat().st_mtime_ns
    assert kvae(f"evaluate run {QUICK} {steps}")[0] == 0 and judge.stat().st_mtime_ns == made
    assert json.loads(Path("run/evaluation.json").read_text())["someone"] == first


def test_films_without_labels_get_no_table(here, capsys):
    x = read_video_data("s.npz").frames[:6]
    np.save("new.npy", x.movedim(2, -1).numpy())
    code, out, _ = kvae(f"evaluate run --data new.npy --out there {QUICK}", capsys)
    assert code == 0 and "judge" not in out
    code, out, _ = kvae(f"evaluate run --out none {QUICK} --measure.pairs 0", capsys)
    assert code == 0 and "judge" not in out


def test_it_fills_in_and_generates(here, capsys):
    code, out, _ = kvae("impute run --data s.npz --gap 3:5 --out filled.npz", capsys)
    assert code == 0 and "180 hidden frames of 90 sequences" in out
    with np.load("filled.npz") as f:
        assert f["smoothed"].shape == (90, 8, 3, 32, 32) and f["a_smoothed"].shape == (90, 8, 7)
    assert kvae("generate run --steps 10 --count 3 --out new")[0] == 0
    assert kvae("generate run --data s.npz --prefix 4 --steps 4 --count 2 --out on")[0] == 0
    with np.load("new/generated.npz") as f, np.load("on/generated.npz") as g:
        assert f["frames"].shape == (3, 10, 3, 32, 32) and g["frames"].shape == (2, 4, 3, 32, 32)


@pytest.mark.parametrize(
    "line, said",
    [
        ("swap box --out x", "needs a model that tells looks from motions"),
        ("swap nothing --out x", "there is no run folder 'nothing'"),
        ("swap run --mode dance --out x", "must be pose or dynamics"),
        ("swap run --mode dynamics --out x", "has no dynamics of a clip"),
        ("swap run --count 0 --out x", "--count is 0"),
        ("swap run --seed -1 --out x", "--seed is -1"),
        ("swap run --out x.png", "must be a folder"),
        ("swap run --out s.npz", "must be a folder"),
        ("swap run --codes codes.txt --out x", "--codes is 'codes.txt'"),
        ("swap run --codes s.npz --looks s.npz --out x", "the file that is read"),
        ("swap run --looks none.npz --out x", "none.npz"),
        ("swap run", "--out is missing"),
        ("evaluate run --measure.pairs -1", "measure.pairs is -1"),
        ("evaluate run --measure.judge_steps 0", "measure.judge_steps is 0"),
        ("simulate --world sprites --size 20 --out n.npz", "20"),
        ("simulate --world sprites --sheets none.npz --out n.npz", "none.npz"),
        ("simulate --world swings --sheets s.npz --out n.npz", "--sheets is for --world sprites"),
        ("simulate --world box --sheets s.npz --out n.npz", "--sheets is for --world sprites"),
        ("simulate --world sprites --out folder/", "must be a file name that ends in .npz"),
        ("train --data plain.npz --train.pair character " + SMALL, "label"),
        ("train --data s.npz --train.pair shoes " + SMALL, "shoes"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(here, capsys, line, said):
    np.savez("plain.npz", images=np.random.default_rng(0).integers(0, 255, (20, 8, 3, 32, 32), np.uint8))
    before = sorted(str(p) for p in Path().rglob("*"))
    code, _, err = kvae(line, capsys)
    sentences = [s for s in err.splitlines() if s.startswith("kvae:") and "warning" not in s]
    assert code == 2 and len(sentences) == 1 and said in sentences[0], err
    assert sorted(str(p) for p in Path().rglob("*")) == before
