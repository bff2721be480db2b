"""Labels stay with their clips, divide a set, join clips and price latents; two stages make one run."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kvae_nb.training.loop as training
from kvae_nb.app.command import main
from kvae_nb.core.errors import InputError
from kvae_nb.data.factors import Factor, character, check_labels, draw_partners, paired, split_apart
from kvae_nb.data.films import VideoData, take
from kvae_nb.data.opening import DataConfig, from_arrays, open_data, read_video_data, save_video_data
from kvae_nb.data.shards import open_shards, write_shards
from kvae_nb.models.dsvae import DSVAE, DSVAEConfig
from kvae_nb.models.identity import IdentityConfig, IdentityVAE
from kvae_nb.models.kvae import KVAE, KVAEConfig
from kvae_nb.models.vdsm import VDSM, VDSMConfig
from kvae_nb.training.annealing import Schedule, check_schedule, value
from kvae_nb.training.checkpoints import same_checkpoint
from kvae_nb.training.config import TrainConfig
from kvae_nb.training.identity_runs import IdentityRunConfig, VdsmRunConfig
from kvae_nb.training.kinds import RunConfig, divided
from kvae_nb.training.loop import fit
from kvae_nb.training.runs import load_run, read_config, run_data
from kvae_nb.training.step import make_trainer, train_step, training_loss

FACTORS = (Factor("hat", 3, True), Factor("coat", 4, True), Factor("walk", 5, False))
SIZES = dict(size=16, K=3, dim_a=2, filters=4, units=8, widths=(6,), pixel_var=0.1)
QUICK = dict(device="cpu", threads=1, picture_every=0, valid_sequences=8, reconstruction_weight=1.0, join={})
few = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def clips(n: int = 60, steps: int = 4, size: int = 16) -> VideoData:
    "Clips whose pixels say which labels they have: every frame of clip k has the levels of its three labels."
    labels = torch.stack([torch.arange(n) % 3, torch.arange(n) // 3 % 4, torch.arange(n) // 12 % 5], 1)
    frames = (40 * labels + 7).to(torch.uint8)[:, None, :, None, None].expand(n, steps, 3, size, size).contiguous()
    return VideoData(frames, labels=labels, factors=FACTORS)


def agree(data: VideoData):
    "Raises unless the labels are those that the pixels say."
    assert torch.equal(data.frames[:, 0, :, 0, 0].long(), 40 * data.labels + 7)
    assert data.factors == FACTORS


# What happens to labels


@few
@given(st.lists(st.one_of(st.slices(60), st.lists(st.integers(-1, 59), min_size=1, max_size=70)), max_size=4))
def test_labels_stay_with_their_clips(choices):
    data = clips()
    for choice in choices:
        if isinstance(choice, list):
            choice = [k % len(data) for k in choice] if len(data) else []
        data = data[choice]
        agree(data)
    agree(data.map(lambda v: v.clone()))
    agree(data.map(lambda v: v[:, :2]))
    agree(data.to("cpu"))
    agree(data.subset(slice(None)))


@pytest.mark.parametrize("steps, stride", [(None, 0), (3, 0), (2, 1), (2, 2)])
def test_labels_come_back_from_files_and_arrays(tmp_path, steps, stride):
    data = clips()
    save_video_data(tmp_path / "a.npz", data)
    for found in (
        read_video_data(tmp_path / "a.npz", steps=steps, stride=stride),
        from_arrays(data.frames, steps=steps, stride=stride, labels=data.labels.numpy(), factors=FACTORS),
    ):
        agree(found)
    opened = open_data(DataConfig(path=str(tmp_path / "a.npz"), steps=steps or 4, stride=stride, size=16))
    agree(opened)  # levels are kept: they are no shapes on a black ground


def test_labels_come_back_from_shards(tmp_path):
    data = clips()
    write_shards(tmp_path / "set", [data[:25], data[25:]], clips=7)
    found = open_shards(tmp_path / "set")
    agree(found[:])
    agree(found[[3, 55, 7]])
    agree(found.subset([50, 4, 9])[:])
    assert torch.equal(found.labels, data.labels) and found.factors == FACTORS
    with pytest.raises(InputError, match="labels"):
        write_shards(tmp_path / "two", [data[:25], VideoData(data.frames[25:])])


def test_labels_change_no_fingerprint():
    data = clips()
    assert data.fingerprint() == VideoData(data.frames).fingerprint()


# Labels that cannot be right

TABLES = st.sampled_from(["long", "short", "flat", "int32", "float", "beyond", "negative", "wide", "narrow", "missing"])
NAMES = st.sampled_from(["doubled", "empty", "character", "sum", "space", "no classes", "static", "list", "none"])


@few
@given(TABLES)
def test_a_wrong_table_is_refused(kind):
    good = clips()
    v = good.labels.clone()
    v = {
        "long": torch.cat([v, v]),
        "short": v[:-1],
        "flat": v[:, 0],
        "int32": v.int(),
        "float": v.float(),
        "beyond": v + torch.tensor([0, 1, 0]),
        "negative": v - torch.tensor([0, 0, 1]),
        "wide": torch.cat([v, v], 1),
        "narrow": v[:, :2],
        "missing": None,
    }[kind]
    with pytest.raises(InputError) as refused:
        check_labels(v, FACTORS, len(good))  # what VideoData asks
    assert str(refused.value).endswith(".") and "\n" not in str(refused.value)


@few
@given(NAMES)
def test_wrong_factors_are_refused(kind):
    good, (a, b, c) = clips(), FACTORS
    factors = {
        "doubled": (a, b, c._replace(name="hat")),
        "empty": (a, b, c._replace(name="")),
        "character": (a, b, c._replace(name="character")),
        "sum": (a, b, c._replace(name="hat+coat")),
        "space": (a, b, c._replace(name="my walk")),
        "no classes": (a, b, c._replace(classes=0)),
        "static": (a, b, c._replace(static="yes")),
        "list": [a, b, c],
        "none": (),
    }[kind]
    with pytest.raises(InputError) as refused:
        check_labels(good.labels, factors, len(good))
    assert str(refused.value).endswith(".") and "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["labels", "factor_names", "factor_classes", "factor_static"])
@pytest.mark.parametrize("wrong", ["short", "float", "gone"])
def test_a_file_with_wrong_labels_is_refused(tmp_path, name, wrong):
    data = clips()
    save_video_data(tmp_path / "a.npz", data)
    arrays = dict(np.load(tmp_path / "a.npz"))
    if wrong == "gone":
        del arrays[name]
    else:
        arrays[name] = arrays[name][:2] if wrong == "short" else np.zeros(arrays[name].shape)
    np.savez(tmp_path / "b.npz", **arrays)
    if wrong == "gone" and name in ("labels", "factor_names"):  # then nothing says that there are labels
        assert read_video_data(tmp_path / "b.npz").labels is None
        return
    with pytest.raises(InputError, match="b.npz"):
        read_video_data(tmp_path / "b.npz")


# Divisions and pairs


@few
@given(
    st.integers(0, 10**6), st.floats(0.0, 0.4), st.floats(0.0, 0.4), st.sampled_from(["character", "hat+walk", "coat"])
)
def test_no_combination_is_on_two_sides(seed, test, valid, names):
    data = clips(180)
    parts = split_apart(data, names, test, valid, seed)
    groups = [{*character(data, names)[part].tolist()} for part in parts]
    assert sorted(torch.cat(parts).tolist()) == list(range(180))
    assert all((part.diff() > 0).all() for part in parts)
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
    every = len(set.union(*groups))
    for share, group in ((test, groups[2]), (valid, groups[1])):
        assert len(group) == (max(1, round(share * every)) if share else 0)


def test_films_with_labels_are_divided_by_character_unless_asked_otherwise():
    data = clips()
    groups = lambda **kw: [{*character(part).tolist()} for part in divided(DataConfig(test=0.2, **kw), data)]
    by_character, by_clip = groups(), groups(apart="-")
    assert not by_character[0] & by_character[2] and by_clip[0] & by_clip[2]
    moving = replace(data, labels=data.labels[:, 2:], factors=FACTORS[2:])
    assert [len(p) for p in divided(DataConfig(), moving)] == [51, 3, 6]  # nobody is named: by clip
    with pytest.raises(InputError, match="shoe"):
        divided(DataConfig(apart="shoe"), data)


@few
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 99), st.integers(0, 99))
def test_partners_are_of_the_same_group_and_another_clip(group, seed, epoch):
    group = torch.tensor(group)
    partner = draw_partners(group, seed, epoch)
    assert torch.equal(group[partner], group)
    alone = group.bincount()[group] == 1
    assert torch.equal(partner == torch.arange(len(group)), alone)
    assert torch.equal(draw_partners(group, seed, epoch), partner)


def test_every_partner_is_as_likely():
    group = torch.tensor([0] * 6 + [1] * 3)
    drawn = torch.stack([draw_partners(group, 3, epoch) for epoch in range(4000)])
    for k in range(9):
        others = [j for j in range(9) if group[j] == group[k] and j != k]
        share = torch.tensor([(drawn[:, k] == j).double().mean() for j in others])
        error = (1 / len(others) * (1 - 1 / len(others)) / 4000) ** 0.5
        assert (share - 1 / len(others)).abs().max() < 5 * error


def test_a_pair_is_a_clip_and_its_partner():
    data = replace(clips(), mask=torch.rand(60, 4) > 0.3, controls=torch.randn(60, 4, 2))
    pairs, rows = paired(data, "hat", 5, 2), torch.tensor([9, 0, 31])
    b, own, other = take(pairs, rows), take(data, rows), take(data, pairs.partner[rows])
    for joined, first, second in zip(b, own, other):
        assert torch.equal(joined, torch.cat([first, second], 1))
    assert pairs.steps == 8 and torch.equal(pairs.mask[rows], b.mask) and torch.equal(pairs.controls[rows], b.u)


# Prices

MODELS = {
    "dsvae": lambda: DSVAE(DSVAEConfig(size=16, filters=4, features=8, reader_units=4, rnn_units=4, dim_a=2, dim_f=3)),
    "identity": lambda: IdentityVAE(IdentityConfig(**SIZES)),
    "vdsm": lambda: VDSM(VDSMConfig(dim_d=2, rnn_units=4, transition_units=4, freeze=False, **SIZES)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("free", [0.0, 2.0])
def test_prices_of_one_change_nothing(name, free):
    torch.manual_seed(0)
    model, x = MODELS[name](), take(clips(), torch.arange(6)).x
    config, noise = TrainConfig(free_bits=free), model.noise(6, 4)
    grads = []
    for betas in (None, torch.ones(len(model.latents))):
        model.zero_grad()
        loss = training_loss(model(x, None, None, noise), config, beta=0.7, betas=betas)
        loss.backward()
        grads.append([loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    for a, b in zip(*grads, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_price_is_that_of_its_own_latent(name):
    torch.manual_seed(0)
    model, x = MODELS[name](), take(clips(), torch.arange(6)).x
    terms = model(x, None, None, model.noise(6, 4))
    plain = training_loss(terms, TrainConfig(), beta=0.5)
    for k in range(len(model.latents)):
        prices = torch.ones(len(model.latents))
        prices[k] = 3.0
        more = 0.5 * 2.0 * terms.parts[:, k].sum() / terms.frames.sum()
        found = training_loss(terms, TrainConfig(), beta=0.5, betas=prices) - plain
        assert torch.allclose(found, more, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kw", [{}, {"samples": 3}, {"samples": 3, "bound": "iwae"}, {"pair": "character"}])
def test_a_step_takes_prices_of_the_moment(kw):
    prices = {"pose": Schedule("points", length=2, at=(0, 1), values=(8, 2))}
    config = TrainConfig(**QUICK, batch_size=6, betas=prices, **kw)
    trainer = make_trainer(IdentityVAE(IdentityConfig(**SIZES)), config)
    data = paired(clips(), kw["pair"]) if "pair" in kw else clips()
    for epoch, price in ((0.0, 8.0), (1.0, 4.0), (2.0, 2.0), (7.0, 2.0)):
        taken = train_step(trainer, take(data, torch.arange(6)), epoch, int(epoch))
        assert taken.finite and trainer.dials.betas.tolist() == [1.0, pytest.approx(price)]
        assert torch.allclose(
            taken.terms.parts.sum(-1), taken.terms.log_posterior - taken.terms.log_prior, rtol=1e-3, atol=1e-2
        )


@pytest.mark.parametrize("model, word", [(MODELS["identity"], "identity, pose"), (lambda: KVAE(KVAEConfig()), "apart")])
def test_prices_of_what_is_not_there_are_refused(model, word):
    with pytest.raises(InputError, match=word):
        make_trainer(model(), TrainConfig(**QUICK, betas={"walk": Schedule()}))


@few
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 50)), min_size=2, max_size=6, unique_by=lambda p: round(p[0], 3))
)
def test_points_are_met_and_not_left_between(points):
    points.sort()
    at, values = zip(*points)
    s = Schedule("points", length=7.0, at=at, values=values)
    check_schedule(s, "train.beta")
    for p, v in points:
        assert value(s, 7.0 * p, 0) == pytest.approx(v, rel=1e-6, abs=1e-9)
    for k, (low, high) in enumerate(zip(values, values[1:])):
        between = value(s, 7.0 * (at[k] + at[k + 1]) / 2, 0)
        assert min(low, high) * (1 - 1e-9) <= between <= max(low, high) * (1 + 1e-9)


# Two stages, and pairs, killed at any moment


class Ended(BaseException):
    "As if the process had been ended here."


def training_of(**kw) -> TrainConfig:
    return TrainConfig(**QUICK, epochs=3, batch_size=12, lr=0.003, **kw)


def whole_run(path: Path) -> VdsmRunConfig:
    model = VDSMConfig(dim_d=2, rnn_units=4, transition_units=4, **SIZES)
    data = DataConfig(path=str(path), steps=4, size=16, test=0.2, valid=0.2)
    return VdsmRunConfig(data, model, training_of(), frames=training_of(pair="character", decode_frames=3))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("films") / "films.npz"
    save_video_data(path, clips())
    return path


@pytest.fixture(scope="module")
def left_alone(file, tmp_path_factory):
    return fit(whole_run(file), tmp_path_factory.mktemp("whole"), quiet=True)


def equal_runs(a: Path, b: Path):
    "Raises unless all weights and moments of both stages are the same."
    for name in ("best", "last", "../frames/checkpoints/best", "../frames/checkpoints/last"):
        where = [run / "checkpoints" / f"{name}.safetensors" for run in (a, b)]
        assert same_checkpoint(*where), name
    told = [json.loads((run / "metrics.json").read_text()) for run in (a, b)]
    assert [t["status"] for t in told] == ["finished"] * 2
    scores = [[e["valid"] for e in t["history"]] for t in told]
    assert scores[0] == scores[1]


@pytest.mark.parametrize("after", [1, 2, 3, 4, 5])
def test_two_stages_go_on_from_every_epoch(file, left_alone, tmp_path, monkeypatch, after):
    finish, left = training.finish_epoch, [after]

    def ending(*args):
        progress = finish(*args)
        left[0] -= 1
        if not left[0]:
            raise Ended
        return progress

    monkeypatch.setattr(training, "finish_epoch", ending)
    with pytest.raises(Ended):
        fit(whole_run(file), tmp_path, quiet=True)
    monkeypatch.undo()
    (run,) = tmp_path.iterdir()
    equal_runs(fit(resume=run, quiet=True), left_alone)


@pytest.mark.parametrize("moment", ["take_over", "write_first", "say_start", "train_all"])
def test_two_stages_go_on_from_between(file, left_alone, tmp_path, monkeypatch, moment):
    there, calls = getattr(training, moment), [0]
    before = 0 if moment == "take_over" else 1  # the first stage calls the others as well

    def ending(*args, **kw):
        calls[0] += 1
        if calls[0] > before:
            raise Ended
        return there(*args, **kw)

    monkeypatch.setattr(training, moment, ending)
    with pytest.raises(Ended):
        fit(whole_run(file), tmp_path, quiet=True)
    monkeypatch.undo()
    (run,) = tmp_path.iterdir()
    equal_runs(fit(resume=run, quiet=True), left_alone)


def test_a_killed_process_goes_on_by_the_command(file, left_alone, tmp_path):
    code = (
        "import sys; from kvae_nb.training.runs import *; from kvae_nb.training.loop import fit; "
        "fit(read_config(sys.argv[1]), sys.argv[2], quiet=True)"
    )
    words = [sys.executable, "-c", code, str(left_alone / "config.yaml"), str(tmp_path)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE)
    deadline = time.time() + 300
    while not list(tmp_path.glob("*/frames/checkpoints/last.safetensors")) and time.time() < deadline:
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (run,) = tmp_path.iterdir()
    assert main(["train", "--resume", str(run)]) in (0, None)
    equal_runs(run, left_alone)


def test_the_second_stage_leaves_the_frames_as_they_are(left_alone):
    kept = load_run(left_alone / "frames").model.state_dict()
    taken = load_run(left_alone).model.state_dict()
    assert all(torch.equal(v, taken[k]) for k, v in kept.items())


def test_pairs_belong_to_the_first_stage(file, left_alone, tmp_path):
    run, asked = whole_run(file), whole_run(file)
    run = replace(asked, train=replace(asked.train, pair="character"), frames=replace(asked.frames, pair=""))
    other = fit(run, tmp_path, quiet=True)
    assert read_config(other / "config.yaml") == read_config(left_alone / "config.yaml")
    equal_runs(other, left_alone)


def test_films_in_memory_keep_their_labels(left_alone, tmp_path):
    config = replace(whole_run(Path("")), data=DataConfig(steps=4, size=16, test=0.2, valid=0.2))
    run = fit(config, tmp_path, data=clips(), quiet=True)
    equal_runs(run, left_alone)
    for folder in (run, run / "frames"):  # both find the films again
        agree(run_data(load_run(folder)).test)


def test_other_labels_are_other_data(file, left_alone, tmp_path):
    data = clips()
    for changed in (replace(data, labels=(data.labels + 1) % torch.tensor([3, 4, 5])), VideoData(data.frames)):
        save_video_data(tmp_path / "other.npz", changed)
        with pytest.raises(InputError, match="have"):
            fit(resume=left_alone, changes={"data.path": str(tmp_path / "other.npz"), "train.epochs": 4}, quiet=True)


def test_a_start_takes_the_place_of_the_first_stage(file, left_alone, tmp_path):
    run = fit(replace(whole_run(file), start=str(left_alone / "frames")), tmp_path, quiet=True)
    assert not (run / "frames").exists()
    for name in ("best", "last"):
        where = [r / "checkpoints" / f"{name}.safetensors" for r in (run, left_alone)]
        assert same_checkpoint(*where)


@pytest.mark.parametrize(
    "run, words",
    [
        (lambda r: replace(r, frames=replace(r.frames, lr=-1.0)), "train.lr"),
        (lambda r: replace(r, frames=replace(r.frames, pair="shoe")), "shoe"),
        (lambda r: replace(r, data=replace(r.data, apart="shoe")), "shoe"),
        (lambda r: replace(r, start="nowhere"), "nowhere"),
        (lambda r: replace(r, train=replace(r.train, betas={"hat": Schedule()})), "hat"),
    ],
)
def test_what_cannot_be_trained_leaves_no_folder(file, tmp_path, run, words):
    with pytest.raises(InputError, match=words):
        fit(run(whole_run(file)), tmp_path / "runs", quiet=True)
    assert not (tmp_path / "runs").exists()


def test_pairs_need_labels(tmp_path):
    for config in (RunConfig(DataConfig(sequences=31, steps=4, size=16), KVAEConfig(size=16, filters=4, units=8)),):
        with pytest.raises(InputError, match="no labels"):
            fit(replace(config, train=training_of(pair="character")), tmp_path / "runs", quiet=True)


@pytest.mark.parametrize("lr", ["0.0008", "1e-4"])
def test_a_lower_rate_on_resume_is_written_down(file, tmp_path, lr):
    data = DataConfig(path=str(file), steps=4, size=16, test=0.2, valid=0.2)
    run = fit(IdentityRunConfig(data, IdentityConfig(**SIZES), training_of()), tmp_path, quiet=True)
    assert main(["train", "--resume", str(run), "--train.lr", lr, "--train.epochs", "4"]) in (0, None)
    assert read_config(run / "config.yaml").train.lr == float(lr)
    history = json.loads((run / "metrics.json").read_text())["history"]
    assert [e["lr"] for e in history] == pytest.approx([0.003] * 3 + [float(lr)])


@pytest.mark.parametrize(
    "text, words",
    [
        ("train: {betas: {pose: {kind: points, at: [0, 1], values: [30, 1], length: 4}}}", None),
        ("train: {betas: {pose: 0.5, identity: 2}}", None),
        ("train: {betas: {pose: [1, 2]}}", "valid configuration"),
        ("train: {betas: {pose: {kind: dots}}}", "valid configuration"),
        ("train: {betas: 3}", "valid configuration"),
    ],
)
def test_prices_are_read_from_a_file(tmp_path, text, words):
    path = tmp_path / "config.yaml"
    path.write_text("kind: identity\n" + text)
    if words:
        with pytest.raises(InputError, match=words):
            read_config(path)
    else:
        assert all(isinstance(s, Schedule) for s in read_config(path).train.betas.values())


def test_a_division_leaves_somebody_to_train_on():
    labels = torch.arange(6)[:, None]
    data = VideoData(torch.zeros(6, 2, 3, 8, 8, dtype=torch.uint8), labels=labels, factors=(Factor("who", 6, True),))
    with pytest.raises(InputError, match="at least one"):
        split_apart(data, test=0.5, valid=0.5)
    assert len(split_apart(data, test=0.5, valid=1 / 3)[0]) == 1
