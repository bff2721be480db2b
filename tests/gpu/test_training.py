"""On a CUDA device: recorded steps are the ordinary ones, bit for bit; half precision, checkpoints, memory."""

import json
import warnings
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch

import kvae_nb.training.loop as loop
from kvae_nb.data.films import VideoData, take
from kvae_nb.data.opening import DataConfig
from kvae_nb.models.kvae import KVAE, KVAEConfig
from kvae_nb.training.annealing import Schedule
from kvae_nb.training.checkpoints import read_checkpoint
from kvae_nb.training.config import TrainConfig
from kvae_nb.training.loop import fit
from kvae_nb.training.runs import RunConfig
from kvae_nb.training.step import Replayed, make_trainer, replayable, train_step

TINY = KVAEConfig(size=16, filters=4, alpha_units=8)
STEPS = 50


@pytest.fixture(autouse=True)
def repeatable():
    "cuDNN may choose among algorithms that add in different orders; bit-equal steps need one that does not change."
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    yield
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before


def films(n=64, steps=8):
    g = torch.Generator().manual_seed(0)
    return VideoData((torch.rand(n, steps, 1, 16, 16, generator=g) > 0.8).to(torch.uint8) * 255)


def trainer_of(config):
    torch.manual_seed(0)
    return make_trainer(KVAE(TINY), config)


def state(trainer):
    "Weights, moments and the scale of gradients."
    kept = [*trainer.bare.parameters(), *(v for s in trainer.optimiser.state.values() for v in s.values())]
    scaler = trainer.accelerator.scaler
    return [v.detach().cpu() for v in kept] + ([torch.tensor(scaler.get_scale())] if scaler else [])


def run_both(config, steps=STEPS):
    "Two trainings of the same model: ordinary steps, and recorded ones; step 30 is not finite."
    found, skipped = [], []
    for recorded in (False, True):
        trainer = trainer_of(config)
        data = films().to(trainer.accelerator.device)
        assert replayable(trainer, data)
        replayed = Replayed(trainer, data)
        for k in range(steps):
            rows = (torch.arange(16, device="cuda") + 5 * k) % 64
            with patch("kvae_nb.training.step.pace", broken_at(30, k)):
                epoch = k / 10
                taken = replayed(rows, epoch, k) if recorded else train_step(trainer, take(data, rows), epoch, k)
            if not taken.finite.item():
                skipped.append(k)
        if recorded:
            assert replayed.left is None  # it was recorded, and replayed
        found.append(state(trainer))
    return found, skipped


def broken_at(bad: int, step: int):
    "The schedules, with a β that is no number in one step."
    from kvae_nb.training.step import pace

    return lambda config, epoch, k: (
        pace(config, epoch, k)._replace(beta=float("nan")) if step == bad else pace(config, epoch, k)
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_recorded_steps_are_the_ordinary_ones(precision):
    rising = Schedule("linear", start=0.2, length=3.0)
    config = TrainConfig(
        device="cuda", join={"alpha": 2}, decode_frames=3, drop=0.2, schedule="cosine", epochs=6, beta=rising,
        precision=precision,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        (plain, recorded), skipped = run_both(config)
    assert all(torch.equal(x, y) for x, y in zip(plain, recorded)) and len(plain) == len(recorded)
    assert 30 in skipped and skipped[: len(skipped) // 2] == skipped[len(skipped) // 2 :]


def test_an_ordinary_step_on_a_gpu_warns_of_nothing():
    trainer = trainer_of(TrainConfig(device="cuda", join={}, graph=False))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for k in range(3):
            train_step(trainer, take(films().to("cuda"), torch.arange(16, device="cuda")), 0.0, k)


def small(**train) -> RunConfig:
    basic = dict(epochs=2, batch_size=16, join={"alpha": 1}, picture_every=0, valid_sequences=8, device="cuda")
    data = DataConfig(sequences=80, steps=8, size=16)
    return RunConfig(data=data, model=TINY, train=TrainConfig(**{**basic, **train}))


def weights_of(run):
    return {k: v for k, v in read_checkpoint(run / "checkpoints" / "last.safetensors")[0].items()}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("graph", [False, True])
def test_a_run_goes_on_where_it_stopped(tmp_path, precision, graph):
    whole = fit(small(precision=precision, graph=graph), tmp_path / "whole", quiet=True)
    half = fit(small(precision=precision, graph=graph, epochs=1), tmp_path / "half", quiet=True)
    fit(resume=half, quiet=True, changes={"train.epochs": 2})
    one, two = weights_of(whole), weights_of(half)
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    assert any(k.startswith("scaler.") for k in one) == (precision == "fp16")
    metrics = json.loads((half / "metrics.json").read_text())
    assert metrics["epoch"] == 2 and metrics["step"] == 2 * (metrics["step"] // 2)


def test_an_explicit_device(tmp_path):
    run = fit(small(device="cuda:0", epochs=1), tmp_path, quiet=True)
    assert "on cuda" in (run / "log.txt").read_text()


@pytest.mark.parametrize("reason", ["too large", "no room"])
def test_data_that_do_not_fit_stay_on_the_cpu(tmp_path, reason):
    "The same training, step by step, with the data on the CPU."
    fitting = fit(small(epochs=1, graph=False), tmp_path / "fitting", quiet=True)

    def full(self, where):
        if str(where).startswith("cuda") and len(self) > 16:
            raise torch.OutOfMemoryError("full")
        return plain_to(self, where)

    plain_to = VideoData.to
    with patch.object(loop, "ROOM", 0.0) if reason == "too large" else patch.object(VideoData, "to", full):
        staying = fit(small(epochs=1), tmp_path / "staying", quiet=True)
    assert "stay on the CPU" in (staying / "log.txt").read_text()
    one, two = weights_of(fitting), weights_of(staying)
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_impute_and_generate_on_a_gpu():
    model = KVAE(TINY).to("cuda").eval()
    x = films(4).frames.float().to("cuda") / 255
    mask = torch.ones(4, 8, dtype=torch.bool, device="cuda")
    mask[:, 3:5] = False
    for particles in (0, 8):
        assert model.impute(x, mask, particles=particles).smoothed.frames.is_cuda
    assert model.generate(5, 2).frames.shape == (2, 5, 1, 16, 16)
    assert replace(films(4), mask=mask.cpu()).to("cuda").batch(torch.arange(2, device="cuda")).mask.is_cuda
