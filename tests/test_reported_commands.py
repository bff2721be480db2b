"""Faults of the command, of training and of series that were reported, each with the input that showed it."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from refusals import refuses

from kvae_nb.app.command import main
from kvae_nb.app.given import given_run, newest_run, test_data
from kvae_nb.app.parsers import measured_by
from kvae_nb.app.series import as_series, stationary
from kvae_nb.data.films import VideoData
from kvae_nb.data.opening import read_video_data, save_video_data
from kvae_nb.data.sequences import SequenceData, load_sequences
from kvae_nb.evaluation.someone import SomeoneEvaluation
from kvae_nb.training.annealing import Schedule
from kvae_nb.training.config import TrainConfig, check_training
from kvae_nb.training.kinds import preset
from kvae_nb.training.loop import fit
from kvae_nb.training.pretrained import pack

SHORT = "--epochs 1 --train.batch_size 8 --train.device cpu --train.threads 1 --train.picture_every 0"
test_data.__test__ = False  # a function of the library


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "A folder with films and sequences, and a run of each kind: film, seq, and a model of sequences on films."
    home, before = tmp_path_factory.mktemp("home"), os.getcwd()
    os.chdir(home)
    run = lambda line: main(line.split()) == 0
    assert run("simulate --sequences 24 --steps 8 --size 16 --seed 1 --out box.npz")
    x = torch.randn(20, 10, 2, generator=torch.Generator().manual_seed(0))
    SequenceData(x, torch.full((20,), 10), emission="normal(2)").save("num.npz")
    small = "--data.steps 8 --data.size 16 --model.filters 4"
    assert run(f"train --data box.npz --preset demo {small} --out film {SHORT}")
    assert run(f"train --model vrnn --preset numbers --data num.npz --out seq {SHORT}")
    assert run(f"train --model arnn --preset box --data box.npz --data.steps 8 --out onfilms {SHORT}")
    os.chdir(before)
    return home


@pytest.fixture
def here(home, monkeypatch, tmp_path):
    "A fresh folder that sees the files of `home`, and the runs by their kinds."
    for path in home.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return {kind: next((home / kind).iterdir()) for kind in ("film", "seq", "onfilms")}


def test_files_of_sequences_are_filled_in(here):
    assert main(["impute", str(here["seq"]), "--data", "num.npz", "--gap", "2:4", "--out", "a.npz"]) == 0
    with np.load("a.npz") as filled:
        assert all(np.isfinite(a).all() for a in filled.values() if a.dtype.kind == "f")


def test_a_film_for_a_model_of_sequences_is_no_film(here):
    np.save("one.npy", np.asarray(read_video_data("box.npz", 8, 16).frames[0, :, 0]))
    words = ["impute", str(here["onfilms"]), "--data", "one.npy", "--gap", "2:4", "--out"]
    assert main([*words, "b.mp4"]) == 2 and not [*Path().glob(".b*"), *Path().glob("b.*")]
    for more in (["--every", "4"], ["--strip"]):
        assert main([*words, "b.npz", *more]) == 2


def test_options_of_evaluate_may_stand_before_the_run(here, capsys):
    seq = str(here["seq"])
    assert main(["evaluate", "--checkpoint", "last", seq, "--measure.particles", "2", "--force"]) == 0
    assert measured_by(["sprites"]) is SomeoneEvaluation


def test_the_newest_run_is_the_one_that_was_started_last(tmp_path):
    for name, when in (("a", 1e9), ("b", 1.1e9)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("kind: kvae\n")
        os.utime(tmp_path / name / "config.yaml", (when, when))
        os.utime(tmp_path / name, (when, when))
    (tmp_path / "a" / "evaluation.json").write_text("{}")
    assert newest_run(tmp_path).name == "b"


def test_the_held_out_part_of_a_run_is_the_same_by_its_own_file(tmp_path, capsys):
    clips = torch.randint(0, 2, (40, 8, 1, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8) * 255
    config = preset("demo")
    model = replace(config.model, size=16, filters=4, units=16, alpha_units=8)
    train = replace(config.train, epochs=1, batch_size=8, device="cpu", threads=1, picture_every=0)
    folder = fit(replace(config, model=model, train=train), tmp_path, quiet=True, data=VideoData(clips, overlap=3))
    given = given_run(folder, "best")
    own, named = test_data(given, ""), test_data(given, str(folder / "data.npz"))
    assert torch.equal(own.frames, named.frames)


def test_a_beginning_that_is_missing_is_not_continued(here):
    films = read_video_data("box.npz", 8, 16)
    seen = torch.ones(len(films), 8, dtype=torch.bool)
    seen[:, 1] = False
    save_video_data("masked.npz", VideoData(films.frames, mask=seen))
    assert main(["generate", str(here["film"]), "--data", "masked.npz", "--out", "g", "--steps", "3"]) == 2


def test_hidden_steps_of_a_beginning_are_drawn(here):
    x = torch.randn(4, 10, 2)
    seen = torch.ones(4, 10, dtype=torch.bool)
    seen[:, 2] = False
    data = SequenceData(
        torch.where(seen[..., None], x, torch.nan), torch.full((4,), 10), mask=seen, emission="normal(2)"
    )
    data.save("masked.npz")
    words = ["generate", str(here["seq"]), "--data", "masked.npz", "--steps", "3"]
    assert main([*words, "--out", "g"]) == 0
    made = load_sequences("g/generated.npz")
    again = [
        main([*words, "--noise", "false", "--seed", k, "--out", f"g{k}"]) or load_sequences(f"g{k}/generated.npz").x
        for k in "12"
    ]
    assert torch.equal(*again)  # without noise the beginning, too, is the same each time
    assert made.x.isfinite().all() and torch.equal(made.x[0, 0], data.x[0, 0])


@pytest.mark.parametrize(
    "line",
    [
        "swap sprites --count 2 --codes sw/swap.npz --out sw",
        "simulate --world sprites --sequences 12 --steps 8 --size 32 --balls 7 --out s.npz",
        "simulate --world sprites --sequences 12 --steps 8 --size 32 --look nonsense --out s.npz",
    ],
)
def test_what_would_be_ignored_or_lost_is_refused(tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2 and not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_a_port_that_no_machine_has_is_refused(here, capfd):
    assert main(["board", str(here["film"]), "--port", "99999999"]) == 2


def test_a_gap_of_endless_digits_is_refused(here):
    for kind, data in (("film", "box.npz"), ("seq", "num.npz")):
        words = ["impute", str(here[kind]), "--data", data, "--gap", "1" * 5000 + ":3", "--out", "q.npz"]
        assert main(words) == 2


def with_field(config, name, value):
    "The configuration with this field, past the checks of types that the tests have and a user has not."
    object.__setattr__(config, name, value)
    return config


def test_misspelt_settings_are_refused():
    check_training(TrainConfig())
    refuses(check_training, with_field(TrainConfig(), "schedule", "cosin"))
    refuses(check_training, with_field(TrainConfig(), "precision", "fp64"))
    refuses(check_training, TrainConfig(beta=with_field(Schedule("linear", 0, 1), "unit", "epoch")))


def test_the_weight_of_the_kl_of_frames_may_be_one_number(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["train", "--model", "vdsm", "--frames.beta", "0.5", "--data", "missing.npz"])
    assert "missing.npz does not exist" in capsys.readouterr().err


def test_series_of_pandas_and_numpy():
    pd = pytest.importorskip("pandas")
    assert len(as_series(pd.Index([1.0, 2.0])).a) == len(as_series(pd.array([1.0, 2.0])).a) == 2
    dated = as_series(pd.Series([1.0, 2.0], index=[5, 6]))
    assert list(as_series(dated, np.ones((2, 1), bool)).index) == [5, 6]


def test_the_start_of_an_autoregression_is_not_empty():
    refuses(stationary, torch.tensor([]))


def test_weights_of_films_are_made_of_runs_on_films(here, tmp_path):
    refuses(pack, here["seq"], "x", folder=tmp_path / "packed")
