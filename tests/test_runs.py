"""Runs: what a training starts from, how it ends, how it goes on, and what it leaves in its folder."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import PartialState

import kvae_nb.training.loop as training
from kvae_nb.core.errors import InputError
from kvae_nb.core.runtime import flushes_denormals
from kvae_nb.data.batches import batches
from kvae_nb.data.films import VideoData, from_simulation, split_indices
from kvae_nb.data.opening import DataConfig, save_video_data
from kvae_nb.data.shards import write_shards
from kvae_nb.models.kvae import KVAE, KVAEConfig
from kvae_nb.models.rnn import RecurrentConfig
from kvae_nb.models.skvae import SwitchingKVAEConfig
from kvae_nb.training.checkpoints import (
    Progress,
    load_scaler,
    named_tensors,
    read_checkpoint,
    same_checkpoint,
    save_checkpoint,
)
from kvae_nb.training.config import TrainConfig, check_training
from kvae_nb.training.loop import fit
from kvae_nb.training.records import Reporter, draw_progress, validate
from kvae_nb.training.runs import (
    RecurrentRunConfig,
    RunConfig,
    SwitchingRunConfig,
    build_model,
    load_run,
    locked,
    preset,
    read_config,
    remove_leftovers,
    run_data,
    write_config,
)
from kvae_nb.training.step import make_accelerator, make_trainer, train_step
from kvae_nb.worlds.balls import simulate

QUICK = TrainConfig(epochs=1, batch_size=16, join={}, device="cpu", threads=1, picture_every=0, valid_sequences=4)
TINY = KVAEConfig(size=16, filters=4, units=8, alpha="mlp", alpha_units=8)
FILMS = from_simulation(simulate("box", 30, 6, 1, 16))


def small(data=None, model=TINY, **train) -> RunConfig:
    return RunConfig(
        data=data or DataConfig(sequences=30, steps=6, size=16), model=model, train=replace(QUICK, **train)
    )


def on_disk(folder: Path, name="films.npz", **parts) -> DataConfig:
    save_video_data(folder / name, replace(FILMS, state=None, contacts=None, **parts))
    return DataConfig(path=str(folder / name), steps=6, size=16)


def metrics(run) -> dict:
    return json.loads((Path(run) / "metrics.json").read_text())


def weights(run, checkpoint="last") -> dict:
    return load_run(run, checkpoint).model.state_dict()


def same(x: dict, y: dict) -> bool:
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


def stops(monkeypatch, epoch: int, how):
    "Calls `how` when this epoch is on the disk, once."
    finish, done = training.finish_epoch, []

    def finish_and_stop(trainer, run, progress, *rest):
        progress = finish(trainer, run, progress, *rest)
        if progress.epoch == epoch and not done:
            done.append(how())
        return progress

    monkeypatch.setattr(training, "finish_epoch", finish_and_stop)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    "A run of two epochs, to be copied."
    return fit(small(epochs=2), tmp_path_factory.mktemp("two"), quiet=True)


@pytest.fixture
def run(two, tmp_path):
    import shutil

    return Path(shutil.copytree(two, tmp_path / "run"))


# what is trained on: masks, controls, arrays


KINDS_OF_RUNS = [
    small(),
    SwitchingRunConfig(model=SwitchingKVAEConfig(size=16, filters=4, units=8)),
    RecurrentRunConfig(model=RecurrentConfig(size=16, filters=4, units=8)),
]
GIVEN_PARTS = [
    (c, parts)
    for c in KINDS_OF_RUNS
    for parts in ((), ("mask",), ("controls",), ("mask", "controls"))
    if c.kind != "rnn" or "controls" not in parts
]


@pytest.mark.parametrize("config, parts", GIVEN_PARTS, ids=lambda v: getattr(v, "kind", None) or "-".join(v))
def test_pictures_are_drawn_of_data_with_masks_and_controls(tmp_path, config, parts):
    given = {"mask": torch.rand(30, 6) > 0.3, "controls": torch.randn(30, 6, 2)}
    config = replace(
        config, data=on_disk(tmp_path, **{k: given[k] for k in parts}), train=replace(QUICK, picture_every=1)
    )
    run = fit(config, tmp_path / "runs", quiet=True)
    fit(resume=run, changes={"train.epochs": 2}, quiet=True)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(run))
    board.Reload()
    assert set(board.Tags()["images"]) == {"imputation", "weights"} and len(board.Images("weights")) == 2


def test_pictures_hide_what_the_data_hide():
    heard, known = {}, torch.ones(16, 6, dtype=torch.bool)
    known[0, 0] = False

    class Listens(KVAE):
        def impute(self, x, mask=None, u=None):
            heard.update(mask=mask, u=u)
            return super().impute(x, mask, u)

    batch = next(batches(FILMS, 16, torch.arange(16)))._replace(mask=known, u=torch.randn(16, 6, 2))
    draw_progress(SimpleNamespace(add_figure=lambda *given, **more: None), Listens(replace(TINY, dim_u=2)), batch, 0)
    assert heard["mask"].tolist() == [[False, True, True, False, False, True]] and torch.equal(heard["u"], batch.u[:1])


def test_shards_whose_validation_part_is_hidden_are_named_too(tmp_path):
    mask = torch.ones(30, 6, dtype=torch.bool)
    mask[split_indices(30).valid] = False
    write_shards(tmp_path / "films", [replace(FILMS, mask=mask)], clips=10)
    with pytest.raises(InputError, match="mask") as error:
        fit(small(DataConfig(path=str(tmp_path / "films"), steps=6, size=16)), tmp_path / "runs", quiet=True)
    assert "diverged" not in str(error.value)


@pytest.mark.parametrize("hidden, said", [("valid", "validation sequence"), ("train", "training sequence")])
def test_a_part_without_an_observed_frame_is_named(tmp_path, hidden, said):
    mask = torch.ones(30, 6, dtype=torch.bool)
    mask[getattr(split_indices(30), hidden)] = False
    with pytest.raises(InputError, match=said) as error:
        fit(small(on_disk(tmp_path, mask=mask)), tmp_path / "runs", quiet=True)
    assert "mask" in str(error.value) and "diverged" not in str(error.value) and not (tmp_path / "runs").exists()


def test_batches_in_which_everything_is_hidden_are_no_accident(tmp_path):
    mask = torch.ones(30, 6, dtype=torch.bool)
    mask[split_indices(30).train[2:]] = False
    run = fit(small(on_disk(tmp_path, mask=mask), batch_size=1, epochs=2), tmp_path / "runs", quiet=True)
    assert metrics(run)["skipped"] == 0 and "not finite" not in (run / "log.txt").read_text()
    assert all(math.isfinite(e["train"]["elbo"]) for e in metrics(run)["history"])


GREY = simulate("box", 30, 6, size=16).images / 255 * 0.6 + 0.2


@pytest.mark.parametrize(
    "given, pixels",
    [
        (GREY, "gaussian"),
        (torch.from_numpy(GREY).bfloat16(), "gaussian"),
        ((GREY * 255).astype(np.uint8)[:, :, None], "gaussian"),
        (simulate("box", 30, 6, size=16).images, "bernoulli"),
        (FILMS, "bernoulli"),
    ],
    ids=["float", "bfloat16", "uint8", "black and white", "VideoData"],
)
def test_arrays_are_trained_on_without_a_file_or_a_flag(tmp_path, given, pixels):
    run = fit(small(DataConfig()), tmp_path, data=given, quiet=True)
    found = load_run(run)
    data = run_data(found)
    assert (
        found.config.model.pixels == pixels
        and sum(map(len, data)) == 30
        and data.train.frames.shape[1:] == (6, 1, 16, 16)
    )
    moved = run.rename(tmp_path / "elsewhere")
    fit(resume=moved, changes={"train.epochs": 2}, quiet=True)
    fit(resume=moved, changes={"train.epochs": 3}, data=given, quiet=True)
    assert metrics(moved)["epoch"] == 3
    with pytest.raises(InputError, match="have changed since"):
        fit(
            resume=moved,
            data=given[torch.arange(30).flip(0)] if isinstance(given, VideoData) else given[:20],
            quiet=True,
        )


def test_masks_and_controls_in_memory_are_the_same_as_in_a_file(tmp_path):
    data = replace(FILMS, mask=torch.rand(30, 6) > 0.3, controls=torch.randn(30, 6, 2), contacts=None, state=None)
    here = fit(small(), tmp_path / "runs", data=data, quiet=True)
    file = fit(small(on_disk(tmp_path, mask=data.mask, controls=data.controls)), tmp_path / "runs", quiet=True)
    assert same(weights(here), weights(file)) and load_run(here).model.config.dim_u == 2


def test_one_film_is_cut_with_overlap_and_divided_by_place(tmp_path):
    film = GREY[:5].reshape(30, 16, 16)
    film = np.concatenate([film, film[::-1], film * 0.5])
    run = fit(RunConfig(data=DataConfig(steps=6, stride=2), model=TINY, train=QUICK), tmp_path, data=film, quiet=True)
    parts = run_data(load_run(run))
    films = [{f.numpy().tobytes() for f in part.frames.flatten(0, 1)[:1]} for part in parts]
    assert parts.train.frames.shape[1:] == (6, 1, 16, 16) and len(parts.train) > 20 and len(films) == 3
    cut = replace(FILMS, overlap=2, state=None, contacts=None)  # clips that share frames, in memory
    kept = fit(small(), tmp_path / "cut", data=cut, quiet=True)
    by_place = split_indices(30, overlap=2)
    for part, rows in zip(run_data(load_run(kept)), by_place):
        assert torch.equal(part.frames, FILMS.frames[rows])
    fit(resume=kept, changes={"train.epochs": 2}, quiet=True)


@pytest.mark.parametrize(
    "given",
    [
        np.array(["a"]),
        np.zeros((0, 6, 16, 16)),
        np.full((30, 6, 16, 16), np.nan),
        np.array([None]),
        np.zeros((30, 6), complex),
    ],
    ids=["text", "empty", "NaN", "objects", "complex"],
)
def test_arrays_that_are_no_films_are_refused_in_a_sentence(tmp_path, given):
    with pytest.raises(InputError) as error:
        fit(small(), tmp_path / "runs", data=given)
    assert "/tmp" not in str(error.value).replace(str(tmp_path), "") and not (tmp_path / "runs").exists()


# settings


@pytest.mark.parametrize(
    "name, value",
    [
        ("epochs", 10**20),
        ("epochs", 0),
        ("batch_size", 10**9),
        ("seed", 2**64),
        ("seed", -1),
        ("threads", 100_000),
        ("vae_epochs", -1),
        ("input_noise", 1.5),
        ("weight_decay", -1.0),
        ("weight_decay", math.inf),
        ("valid_sequences", 10**9),
        ("restarts", 10**9),
        ("decode_frames", 10**12),
        ("name", "../up"),
        ("name", "a/b"),
        ("name", ".hidden"),
        ("name", "x" * 300),
    ],
)
def test_settings_beyond_all_bounds_are_refused_by_name(name, value):
    with pytest.raises(InputError, match=f"train.{name} is"):
        check_training(replace(QUICK, **{name: value}))


def test_the_most_threads_allowed_are_survived(tmp_path):
    code = "import torch; from kvae_nb.training import threads\nwith threads(1024): "
    code += "print(float((torch.ones(2000, 300) @ torch.ones(300, 50)).sum()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, str(2000 * 300 * 50.0)), done.stderr


def test_the_name_of_a_run_is_in_its_folder(tmp_path):
    assert fit(small(name="first-try"), tmp_path, quiet=True).name[19:] == "_first-try"


def step(model=TINY, **train):
    "One step from the same weights; the trainer after it, and its weights before."
    trainer = make_trainer(build_model(small(model=model)), replace(QUICK, **train))
    before = {k: v.clone() for k, v in trainer.bare.state_dict().items()}
    train_step(trainer, next(batches(FILMS, 16, torch.arange(16))), 0.0, 0)
    return trainer, before


def test_weight_decay_shrinks_by_its_share_of_the_rate():
    "AdamW: w ← (1 − lr·d) w, then Adam's step, whose gradients are the same."
    (plain, before), (decayed, _) = step(lr=1e-3), step(lr=1e-3, weight_decay=0.5)
    moved = {k: v for k, v in plain.bare.named_parameters() if not torch.equal(v, before[k])}
    assert {k.split(".")[0] for k in moved} == {"encoder", "decoder", "dynamics"}
    for k, v in moved.items():
        torch.testing.assert_close(decayed.bare.get_parameter(k), v - 1e-3 * 0.5 * before[k], rtol=1e-5, atol=1e-7)


def test_the_frame_model_alone_is_trained_first(tmp_path):
    start = build_model(small()).state_dict()
    run = fit(small(epochs=2, vae_epochs=1, checkpoint_every=1), tmp_path, quiet=True)
    moved = [
        {k.split(".")[0] for k, v in weights(run, f"epoch_{e:04d}").items() if not torch.equal(v, start[k])}
        for e in (1, 2)
    ]
    assert moved[0] == {"encoder", "decoder"} and "dynamics" in moved[1]


def test_epochs_of_the_frame_model_are_refused_where_there_is_none(tmp_path):
    class Bare(KVAE):
        frame_elbo = property(lambda self: (_ for _ in ()).throw(AttributeError()))

    with pytest.raises(InputError, match="no bound of single frames"):
        make_trainer(Bare(TINY), replace(QUICK, vae_epochs=1))


def test_input_noise_is_a_function_of_seed_and_step_and_of_its_size():
    same_again = [step(input_noise=0.1)[0].bare.state_dict() for _ in range(2)]
    assert (
        same(*same_again)
        and not same(same_again[0], step()[0].bare.state_dict())
        and not same(same_again[0], step(input_noise=0.2)[0].bare.state_dict())
    )


# going on


def test_more_epochs_are_those_that_the_run_would_have_had(run, tmp_path):
    four = fit(small(epochs=4), tmp_path / "four", quiet=True)
    fit(resume=run, changes={"train.epochs": 4}, quiet=True)
    assert same_checkpoint(run / "checkpoints/last.safetensors", four / "checkpoints/last.safetensors")
    assert metrics(run)["status"] == "finished" and read_config(run / "config.yaml") == read_config(
        four / "config.yaml"
    )


@pytest.mark.parametrize("how", ["noise", "decay", "frames first", "half precision"])
def test_a_run_that_was_broken_off_ends_bit_for_bit_where_it_would_have_ended(tmp_path, monkeypatch, how):
    config = small(
        epochs=4,
        **{
            "noise": dict(input_noise=0.1, drop=0.3),
            "decay": dict(weight_decay=0.01),
            "frames first": dict(vae_epochs=3),
            "half precision": dict(precision="bf16"),
        }[how],
    )
    whole = fit(config, tmp_path / "whole", quiet=True)
    stops(monkeypatch, 2, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        fit(config, tmp_path / "broken", quiet=True)
    broken = next((tmp_path / "broken").iterdir())
    assert metrics(broken)["epoch"] == 2
    fit(resume=broken, quiet=True)
    for name in ("last", "best"):
        assert same_checkpoint(whole / f"checkpoints/{name}.safetensors", broken / f"checkpoints/{name}.safetensors")


def test_a_lower_rate_is_used_and_written_down(run):
    fit(resume=run, changes={"train.epochs": 3, "train.lr": 1e-4, "train.beta": 0.5, "train.join.alpha": 2}, quiet=True)
    config, last = read_config(run / "config.yaml"), metrics(run)["history"][-1]
    assert (config.train.lr, config.train.epochs, config.train.join, last["lr"], last["beta"]) == (
        1e-4,
        3,
        {"alpha": 2},
        1e-4,
        0.5,
    )
    assert "train.lr from 0.007 to 0.0001" in (run / "log.txt").read_text()


@pytest.mark.parametrize(
    "name, value",
    [
        ("model.dim_z", 6),
        ("model.size", 32),
        ("data.split_seed", 3),
        ("data.steps", 5),
        ("data.sequences", 10),
        ("data.test", 0.3),
        ("train.seed", 1),
        ("train.valid_sequences", 2),
        ("train.epoch", 3),
        ("model", 3),
        ("train.epochs.more", 1),
        ("train.epochs", "many"),
        ("train.epochs", 1),
        ("train.lr", -1.0),
        ("kind", "rnn"),
        ("", 1),
        ("train.device", "nowhere"),
    ],
)
def test_what_cannot_change_is_refused_by_name_and_nothing_is_written(run, name, value):
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "lock"}
    with pytest.raises(InputError, match=(name.split(".")[-1] or "no setting")):
        fit(resume=run, changes={name: value}, quiet=True)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "lock"} == before


def test_a_configuration_beside_resume_is_not_ignored(run):
    with pytest.raises(InputError, match="name in changes"):
        fit(small(epochs=4), resume=run)


def test_what_stays_as_it_is_may_be_named(run):
    config = read_config(run / "config.yaml")
    fit(resume=run, changes={"model.dim_z": config.model.dim_z, "train.seed": 0, "train.epochs": 3}, quiet=True)
    assert metrics(run)["epoch"] == 3


def test_changes_apply_to_a_new_run_too(tmp_path):
    run = fit(small(), tmp_path, changes={"model.K": 2, "train.seed": 3}, quiet=True)
    assert (load_run(run).config.model.K, load_run(run).config.train.seed) == (2, 3)


def test_no_scalar_is_lost_when_a_run_goes_on(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for epochs in (3, 4):
        time.sleep(1.1)  # files of events are put in order by the second in their names
        fit(resume=run, changes={"train.epochs": epochs}, quiet=True)
    board = EventAccumulator(str(run), purge_orphaned_data=True)
    board.Reload()
    steps = [e["step"] for e in metrics(run)["history"]]
    for tag in ("epoch/valid_elbo", "epoch/lr", "collapse/active_units"):
        assert [e.step for e in board.Scalars(tag)] == steps, tag


def test_the_curves_are_a_table(run):
    rows, history = list(csv.DictReader((run / "history.csv").open(newline=""))), metrics(run)["history"]
    assert [float(r["valid_elbo"]) for r in rows] == [e["valid"]["elbo"] for e in history]
    assert [float(r["collapse_rate"]) for r in rows] == [e["collapse"]["rate"] for e in history] and [
        int(r["epoch"]) for r in rows
    ] == [1, 2]


# endings


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_a_run_that_says_it_was_stopped_and_goes_on(tmp_path, monkeypatch, number):
    before = signal.getsignal(number)
    stops(monkeypatch, 1, lambda: signal.raise_signal(number))
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit) as error:
        fit(small(epochs=3), tmp_path, quiet=True)
    run = next(tmp_path.iterdir())
    if number == signal.SIGINT:
        assert str(run) in str(error.value) and "RUN" not in str(error.value)
    else:
        assert error.value.code == 128 + number
    assert metrics(run)["status"] == "stopped" and f"--resume {run}" in (run / "log.txt").read_text()
    assert signal.getsignal(number) is before
    fit(resume=run, quiet=True)
    assert (metrics(run)["status"], metrics(run)["epoch"]) == ("finished", 3)


def test_a_signal_that_somebody_else_looks_after_stays_with_them(tmp_path, monkeypatch):
    heard = []
    monkeypatch.setattr(signal, "getsignal", signal.getsignal)
    before = signal.signal(signal.SIGTERM, lambda *a: heard.append(a[0]))
    try:
        stops(monkeypatch, 1, lambda: signal.raise_signal(signal.SIGTERM))
        run = fit(small(epochs=2), tmp_path, quiet=True)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM] and metrics(run)["status"] == "finished"


def test_a_run_that_fails_says_why(tmp_path):
    with pytest.raises(InputError, match="diverged"):
        fit(small(epochs=3, lr=1e9), tmp_path, quiet=True)
    found = metrics(next(tmp_path.iterdir()))
    assert found["status"] == "failed" and "diverged" in found["reason"]


def test_a_run_is_held_by_one_process_only(run):
    with locked(run), pytest.raises(InputError, match=f"process {os.getpid()} on .*wait until"):
        fit(resume=run, quiet=True)
    fit(resume=run, quiet=True)  # now it is free


def test_a_process_that_was_killed_holds_nothing_and_is_named(run):
    if not (dead := os.fork()):
        with locked(run):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(dead, 0)
    fit(resume=run, quiet=True)
    assert f"process {dead} on" in (run / "log.txt").read_text() and "without a word" in (run / "log.txt").read_text()


def test_half_written_files_of_a_killed_process_are_removed(run):
    for name in (
        ".last-ab12cd_9.safetensors",
        ".metrics-ab12cd_9.json",
        "checkpoints/.best-ab12cd_9.safetensors",
        "checkpoints/.epoch_0002-ab12cd_9.safetensors",
        ".mine-ab12cd_9.txt",
        ".gitignore",
    ):
        (run / name).write_text("half")
    fit(resume=run, quiet=True)
    assert sorted(p.name for p in run.rglob(".*")) == [".gitignore", ".mine-ab12cd_9.txt"]


@pytest.mark.parametrize(
    "name",
    ["log.txt", "metrics.json", "history.csv", "checkpoints", "checkpoints/last.safetensors", "lock", "config.yaml"],
)
def test_nothing_is_written_through_a_link_out_of_the_folder(run, tmp_path, name):
    outside = tmp_path / "outside"
    (run / name).rename(outside)
    (run / name).symlink_to(outside)
    before = {p: p.read_bytes() for p in ([outside] if outside.is_file() else outside.iterdir())}
    with pytest.raises(InputError, match="leads out of its folder"):
        fit(resume=run, changes={"train.epochs": 3}, quiet=True)
    assert {p: p.read_bytes() for p in before} == before


# strangers


BOMB = "\n".join(
    ["a: &a [x, x]", *(f"{b}: &{b} [*{a}, *{a}]" for a, b in zip("abcdefghijklmnopqrstuvw", "bcdefghijklmnopqrstuvwx"))]
).encode()


@pytest.mark.parametrize(
    "content",
    [
        BOMB,
        b"[" * 5000,
        b"a: " + b"{b: " * 5000,
        bytes(range(256)),
        b"\x80\x81",
        b"",
        b"[]",
        b"3",
        b"!!python/object:os.system {}",
        b"kind: [kvae]",
        b"kind: {a: 1}",
        b"kind: os:system",
        b"model: {dim_z: 4, dim_z: 5}",
        b"train: {lr: .nan}\nmodel: 5",
        b"x: 1",
    ],
    ids=lambda b: repr(b[:12]),
)
def test_a_configuration_of_a_stranger_is_refused_in_one_sentence(run, content):
    (run / "config.yaml").write_bytes(content)
    for door in (lambda: read_config(run / "config.yaml"), lambda: load_run(run), lambda: fit(resume=run, quiet=True)):
        with pytest.raises(InputError, match="config.yaml") as error:
            door()
        assert "\n" not in str(error.value) and len(str(error.value)) < 1000


def test_notes_of_a_stranger_mean_nothing_worse_than_not_found(run):
    for content in (b"[" * 100_000, b"\xff", b"3", b'{"folder": 7, "model": ""}', b'{"folder": "/dev"}'):
        (run / "started.json").write_bytes(content)
        assert len(run_data(load_run(run)).train) > 0


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.replace("\n", "\r\n"),
        lambda s: "\ufeff" + s,
        lambda s: s.replace("lr: 0.007", "lr: 7e-3"),
        lambda s: s.replace("lr: 0.007", "lr: 7.0E-3"),
    ],
    ids=["CRLF", "BOM", "7e-3", "7.0E-3"],
)
def test_a_configuration_from_another_editor_is_read(tmp_path, change):
    write_config(RunConfig(), tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_bytes(change((tmp_path / "c.yaml").read_text()).encode())
    assert read_config(tmp_path / "c.yaml") == RunConfig()


# coming back


def test_data_are_found_from_another_folder_and_else_it_says_where_it_looked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    on_disk(tmp_path)
    run = fit(small(DataConfig(path="films.npz", steps=6, size=16)), "runs", quiet=True).resolve()
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    assert len(run_data(load_run(run)).test) == 3
    fit(resume=run, changes={"train.epochs": 2}, quiet=True)
    assert read_config(run / "config.yaml").data.path == "films.npz"
    (tmp_path / "films.npz").rename(tmp_path / "sub" / "films.npz")  # they moved along
    assert len(run_data(load_run(run)).test) == 3
    (tmp_path / "sub" / "films.npz").rename(tmp_path / "sub" / "other.npz")
    with pytest.raises(InputError) as error:
        run_data(load_run(run))
    for place in (run, tmp_path, tmp_path / "sub"):
        assert str(place / "films.npz") in str(error.value)
    fit(resume=run, changes={"data.path": "other.npz", "train.epochs": 3}, quiet=True)
    assert metrics(run)["epoch"] == 3


def test_other_data_under_the_same_name_are_not_measured(tmp_path):
    run = load_run(fit(small(on_disk(tmp_path)), tmp_path / "runs", quiet=True))
    assert len(run_data(run).test) == 3
    for other in (FILMS[torch.arange(30).flip(0)], FILMS[:29], FILMS.binarized(1.0)):
        save_video_data(tmp_path / "films.npz", other)
        with pytest.raises(InputError, match="have changed since"):
            run_data(run)
        with pytest.raises(InputError, match="have changed since"):
            fit(resume=run.folder, quiet=True)


@pytest.mark.parametrize("change", ["mask", "controls", "test", "valid", "split_seed"])
def test_other_masks_controls_or_held_out_parts_are_noticed(tmp_path, change):
    parts = {"mask": torch.rand(30, 6) > 0.3, "controls": torch.randn(30, 6, 2)}
    run = fit(small(on_disk(tmp_path, **parts)), tmp_path / "runs", quiet=True)
    assert len(run_data(load_run(run)).test) == 3
    if change in parts:
        on_disk(tmp_path, **parts | {change: parts[change].flip(0)})
    else:
        old = {"test": "test: 0.1", "valid": "valid: 0.05", "split_seed": "split_seed: 0"}[change]
        (run / "config.yaml").write_text(
            (run / "config.yaml")
            .read_text()
            .replace(f"  {old}\n", f"  {change}: {3 if change == 'split_seed' else 0.3}\n")
        )
    for door in (lambda: run_data(load_run(run)), lambda: fit(resume=run, quiet=True)):
        with pytest.raises(InputError, match="have changed since"):
            door()


def test_another_seed_of_the_simulator_is_other_data(run):
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("simulate_seed: 0", "simulate_seed: 1"))
    with pytest.raises(InputError, match="have changed since"):
        run_data(load_run(run))


# weights that are there already, models of one's own


def test_a_run_goes_on_learning_as_another_run(run, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "train_epoch", lambda *a: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):  # before its first epoch
        fit(small(), tmp_path / "tuned", init=run, quiet=True)
    monkeypatch.undo()
    tuned = next((tmp_path / "tuned").iterdir())
    assert same(weights(tuned), weights(run, "best")) and f"taken over from {run}" in (tuned / "log.txt").read_text()
    fit(resume=tuned, quiet=True)
    assert metrics(tuned)["epoch"] == 1 and not same(weights(tuned), weights(run, "best"))


def test_init_brings_its_own_kind_and_sizes_and_the_data_must_fit(tmp_path):
    tuned = fit(RunConfig(train=QUICK), tmp_path, init="box", data=simulate("box", 30, 6).images, quiet=True)
    assert load_run(tuned).model.config == KVAE.from_pretrained("box").config
    with pytest.raises(InputError, match="channels 1 and not 3"):
        fit(
            init=tuned,
            data=np.zeros((30, 6, 3, 32, 32), np.uint8) + np.arange(6, dtype=np.uint8)[:, None, None, None],
            out=tmp_path / "never",
        )
    with pytest.raises(InputError, match="nothing"):
        fit(small(), init="nothing", out=tmp_path / "never")
    with pytest.raises(InputError, match="one of them"):
        fit(small(), init="box", start="box", out=tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_start_takes_what_fits(run, tmp_path):
    bigger = small(model=replace(TINY, K=5))
    with pytest.raises(InputError, match="no weights that fit"):
        fit(
            RecurrentRunConfig(
                data=bigger.data,
                model=RecurrentConfig(size=16, filters=6, network="mlp", units=9, dim_a=3, rnn_units=7),
                train=QUICK,
            ),
            tmp_path / "never",
            start=run,
        )
    started = fit(replace(bigger, train=replace(QUICK, lr=1e-12)), tmp_path / "started", start=run, quiet=True)
    mine, theirs = weights(started), weights(run, "best")
    torch.testing.assert_close(mine["encoder.mean.weight"], theirs["encoder.mean.weight"], rtol=0, atol=1e-9)
    assert mine["dynamics.A"].shape[0] == 5 and "tensors are taken over" in (started / "log.txt").read_text()


MODULE = """
from dataclasses import dataclass
from kvae_nb.models.kvae import KVAE, KVAEConfig
from kvae_nb.training.runs import Kind, RunConfig

class Line(KVAE):
    "A Kalman VAE with one linear system."
    def __init__(self, config): super().__init__(config)

class LineRun(RunConfig): pass

LINE = Kind(Line, LineRun, {"first": LineRun(model=KVAEConfig(K=1, alpha="constant"), kind="line_of_mine:LINE")})
"""


def test_a_kind_of_ones_own_is_opened_by_its_import_path(tmp_path, monkeypatch):
    (tmp_path / "line_of_mine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    config = preset(kind="line_of_mine:LINE")
    config = replace(config, data=small().data, model=replace(TINY, K=1, alpha="constant"), train=QUICK)
    run = fit(config, tmp_path / "runs", quiet=True)
    assert type(load_run(run).model).__name__ == "Line"
    fit(resume=run, changes={"train.epochs": 2}, quiet=True)
    from kvae_nb.app.command import main

    assert main(["generate", str(run), "--count", "1", "--steps", "2", "--out", str(tmp_path / "new")]) == 0


class Shy(KVAE):
    "A Kalman VAE that no configuration builds."

    def __init__(self, config):
        super().__init__(config)
        torch.nn.init.constant_(self.dynamics.C, 0.01)


def test_a_model_given_as_an_object_is_asked_for_again(tmp_path):
    model = Shy(TINY)
    run = fit(small(epochs=1), tmp_path, model=model, quiet=True)
    for door in (lambda: load_run(run), lambda: fit(resume=run, quiet=True)):
        with pytest.raises(InputError, match="given as an object"):
            door()
    assert same(
        load_run(run, "last", model=Shy(TINY)).model.state_dict(), {k: v.cpu() for k, v in model.state_dict().items()}
    )
    fit(resume=run, model=Shy(TINY), changes={"train.epochs": 2}, quiet=True)
    assert metrics(run)["epoch"] == 2


def test_a_given_model_of_a_known_kind_needs_no_help_later(tmp_path):
    run = fit(small(), tmp_path, model=KVAE(replace(TINY, K=2)), quiet=True)
    assert load_run(run).config.model.K == 2


@pytest.mark.parametrize(
    "model, said",
    [
        (torch.nn.Linear(2, 2), "cannot be trained"),
        (KVAE(TINY).double(), "not float32"),
        (KVAE(replace(TINY, size=32)), "size 32 and not 16"),
    ],
    ids=["no model", "double", "size"],
)
def test_models_that_cannot_be_trained_are_refused(tmp_path, model, said):
    with pytest.raises(InputError, match=said):
        fit(small(), tmp_path / "never", model=model)
    assert not (tmp_path / "never").exists()


# the caller's world


def test_random_numbers_and_types_of_the_caller_stay_as_they_are(run, tmp_path):
    def state():
        return (
            np.random.get_state()[1].tolist(),
            torch.get_rng_state().tolist(),
            torch.initial_seed(),
            torch.get_default_dtype(),
            torch.get_num_threads(),
            flushes_denormals(),
        )

    torch.set_flush_denormal(False)
    before = state()
    fit(small(epochs=2, picture_every=1), tmp_path, quiet=True)
    loaded = load_run(run)
    build_model(small())
    validate(loaded.model, FILMS, QUICK)
    run_data(loaded)
    assert state() == before


def test_a_caller_in_double_precision_gets_the_same_model(run, tmp_path):
    torch.set_default_dtype(torch.float64)
    try:
        double = fit(small(epochs=2), tmp_path / "double", quiet=True)
    finally:
        torch.set_default_dtype(torch.float32)
    assert same(weights(double), weights(run))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_caller_without_gradients_gets_the_same_model(run, tmp_path, mode):
    with mode():
        assert same(weights(fit(small(epochs=2), tmp_path / "off", quiet=True)), weights(run))


@pytest.mark.parametrize(
    "progress",
    [
        '{"history": [1]}',
        '{"epoch": "three", "history": []}',
        '{"epoch": -1, "history": []}',
        '{"step": 1.5, "history": []}',
        '{"best": "high", "history": []}',
        '{"history": ' + "[" * 100_000,
    ],
)
def test_a_checkpoint_that_says_nonsense_about_its_progress_is_refused(run, progress):
    from kvae_nb.training.checkpoints import FORMAT, save_tensors

    path = run / "checkpoints" / "last.safetensors"
    save_tensors(path, read_checkpoint(path)[0], {"format": FORMAT, "progress": progress})
    with pytest.raises(InputError, match="does not say how far"):
        fit(resume=run, quiet=True)


def test_each_run_chooses_its_device(monkeypatch):
    make_accelerator(QUICK)
    PartialState._shared_state["device"] = torch.device("meta")  # as an earlier run on another device would leave it
    assert make_accelerator(QUICK).device.type == "cpu"
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "meta")
    with pytest.raises(InputError, match="bound to meta"):
        make_accelerator(QUICK)
    monkeypatch.undo()
    make_accelerator(QUICK)


def test_the_scale_of_gradients_comes_back(tmp_path):
    model, path = KVAE(TINY), tmp_path / "c.safetensors"
    optimiser = torch.optim.Adam(model.parameters())
    scaler, fresh = torch.amp.GradScaler("cpu", init_scale=512.0, growth_interval=3), torch.amp.GradScaler("cpu")
    loss = scaler.scale(model.elbo(FILMS.frames[:2].float() / 255).elbo.sum())
    loss.backward()
    scaler.step(optimiser)
    scaler.update()
    save_checkpoint(path, model, optimiser, scaler=scaler)
    tensors = read_checkpoint(path)[0]
    load_scaler(fresh, tensors)
    assert fresh.state_dict() == scaler.state_dict() and fresh.state_dict()["_growth_tracker"] == 1
    load_scaler(fresh, named_tensors(model, optimiser))  # an older checkpoint knows of none
    load_scaler(None, tensors)  # and another precision needs none
    assert fresh.state_dict() == scaler.state_dict()


def test_a_training_that_goes_on_has_its_scale_of_gradients(tmp_path):
    "As with fp16 on a GPU, with a scaler of the CPU in the place of the GPU's."
    first, second = (make_trainer(KVAE(TINY), QUICK) for _ in range(2))
    first.accelerator.scaler, second.accelerator.scaler = (
        torch.amp.GradScaler("cpu", init_scale=512.0),
        torch.amp.GradScaler("cpu"),
    )
    entry = {"train": {}, "valid": {"elbo": -1.0}, "lr": 1e-3, "seconds": 0.0}
    training.finish_epoch(first, tmp_path, Progress(epoch=1), entry, Reporter(tmp_path, quiet=True))
    training.restore(second, tmp_path / "checkpoints/last.safetensors")
    assert second.accelerator.scaler.get_scale() == 512.0


def test_asking_for_gpus_leaves_them_asleep(monkeypatch):
    "The driver's own library is asked (NVML), not CUDA, which would start in a process that is going to be forked."
    monkeypatch.setattr(torch.cuda, "_is_compiled", lambda: True)
    monkeypatch.setattr(torch.cuda, "_device_count_nvml", lambda: 2)
    monkeypatch.setattr(torch._C, "_cuda_getDeviceCount", lambda: pytest.fail("CUDA was started"), raising=False)
    assert torch.cuda.is_available() and torch.cuda.device_count() == 2


def test_a_reporter_keeps_what_was_written_at_its_step(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, steps in ((0, (1, 2, 3)), (2, (3, 4))):  # the first one dies after its second step was kept
        reporter = Reporter(tmp_path, step=start, quiet=True)
        for k in steps:
            reporter.scalars("epoch", {"loss": float(start)}, k)
        reporter.close()
        time.sleep(1.1)  # files of events are put in order by the second in their names
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    assert [(e.step, e.value) for e in board.Scalars("epoch/loss")] == [(1, 0.0), (2, 0.0), (3, 2.0), (4, 2.0)]


def test_what_remains_of_others_is_left_alone(tmp_path):
    for name in (".last-abc.safetensors", ".last-ab12cd_9.exe", "last-ab12cd_9.safetensors"):
        (tmp_path / name).write_text("")
    remove_leftovers(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_configurations_are_written_as_they_are_read(tmp_path):
    config = small(weight_decay=0.1, input_noise=0.2, vae_epochs=3, name="x")
    write_config(config, tmp_path / "c.yaml")
    assert read_config(tmp_path / "c.yaml") == config and asdict(config)["train"]["vae_epochs"] == 3
