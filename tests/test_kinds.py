"""A kind of model whose data are no films: seven numbers a step. It trains, is killed, goes on, and is not mistaken."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import kvae_nb.training.loop as training
from kvae_nb.app.command import main
from kvae_nb.core.errors import InputError
from kvae_nb.data.films import Batch, DataSet, from_simulation
from kvae_nb.evaluation.report import evaluate
from kvae_nb.models.protocol import ElboTerms, Generated, Posterior
from kvae_nb.training.checkpoints import same_checkpoint
from kvae_nb.training.config import TrainConfig
from kvae_nb.training.kinds import DataSettings, Kind, RunConfig, kind_of, preset, unit_of
from kvae_nb.training.loop import fit
from kvae_nb.training.runs import load_run, read_config, run_data
from kvae_nb.worlds.balls import simulate

WIDTH = 7  # numbers in a step


@dataclass(frozen=True)
class Numbers:
    "Sequences of seven numbers a step: what a data set must have, and nothing else."

    x: Tensor
    mask: Tensor | None = None
    controls: Tensor | None = None
    part: Tensor | None = None
    overlap: int = 0
    note: str = ""

    @property
    def steps(self) -> int:
        return self.x.shape[1]

    @property
    def device(self) -> torch.device:
        return self.x.device

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index) -> "Numbers":
        index = slice(index, index + 1) if isinstance(index, int) else index
        return self.map(lambda v: v[index])

    def subset(self, index) -> "Numbers":
        return self[index]

    def map(self, fn) -> "Numbers":
        return replace(self, **{k: fn(v) for k in ("x", "mask", "controls") if (v := getattr(self, k)) is not None})

    def to(self, device) -> "Numbers":
        return self.map(lambda v: v.to(device))

    def batch(self, rows) -> Batch:
        part = self[rows]
        return Batch(part.x, part.mask, part.controls)

    def fingerprint(self) -> str:
        return f"{self.x.double().sum().item():.6f}"

    def described(self) -> str:
        return f"{len(self)} sequences of {self.steps} steps of {WIDTH} numbers"


@dataclass(frozen=True)
class NumbersConfig:
    "Waves of random phase."

    path: str = ""
    "a file of torch; empty: new ones"
    sequences: int = 40
    "how many"
    steps: int = 6
    "how long"
    test: float = 0.1
    "fraction kept for the test"
    valid: float = 0.1
    "fraction kept for choosing a checkpoint"
    split_seed: int = 0
    "decides which sequence goes where"


def open_numbers(config: NumbersConfig) -> Numbers:
    "Read, or made."
    if config.path:
        return Numbers(torch.load(config.path, weights_only=True))
    g = torch.Generator().manual_seed(1)
    phase, t = torch.rand(config.sequences, 1, WIDTH, generator=g) * 6, torch.arange(float(config.steps))[None, :, None]
    return Numbers((t + phase).sin(), torch.rand(config.sequences, config.steps, generator=g) > 0.2)


def keep_numbers(data: object, config: NumbersConfig, folder: Path) -> tuple[NumbersConfig, Numbers]:
    "An array in memory, written into the folder."
    torch.save(torch.as_tensor(data), Path(folder) / "data.npz")
    return replace(config, path="data.npz"), open_numbers(replace(config, path=str(Path(folder) / "data.npz")))


@dataclass(frozen=True)
class MapConfig:
    "Sizes."

    dim_a: int = 2
    "numbers in a"
    numbers: int = 0
    "numbers in a step; 0: as the data have"


class Map(nn.Module):
    "Every step by itself: a linear encoder, a linear decoder, a standard normal prior."

    def __init__(self, config: MapConfig):
        super().__init__()
        self.config = config
        self.encoder, self.decoder = nn.Linear(config.numbers, config.dim_a), nn.Linear(config.dim_a, config.numbers)

    def forward(self, x, mask=None, u=None, noise=None) -> ElboTerms:
        return self.elbo(x, mask, u, noise)

    def elbo(self, x, mask=None, u=None, noise=None) -> ElboTerms:
        noise = self.noise(*x.shape[:2]) if noise is None else noise
        mask = torch.ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
        q = self.posterior(torch.where(mask[..., None], x, 0.0))
        a = q.sample(noise[0])
        one = Posterior(self.decode(a), torch.full_like(x, 0.1))
        prior = Posterior(torch.zeros_like(a), torch.ones_like(a))
        terms = (one.log_prob(torch.where(mask[..., None], x, 0.0)), prior.log_prob(a), q.log_prob(a))
        return ElboTerms(*((v * mask).sum(1) for v in terms), mask.sum(1).float())

    def noise(self, batch, steps, decode=0, temperature=0.0) -> tuple:
        return (torch.randn(batch, steps, self.config.dim_a),)

    def posterior(self, x) -> Posterior:
        return Posterior(mean := self.encoder(x), torch.full_like(mean, 0.2))

    def encode(self, x) -> Tensor:
        return self.posterior(x).mean

    def decode(self, a) -> Tensor:
        return self.decoder(a)

    def impute(self, x, mask=None, u=None):
        raise NotImplementedError

    def generate(self, steps, count=1, u=None, x=None, generator=None, noise=True) -> Generated:
        raise NotImplementedError

    def parts(self) -> dict[str, list[nn.Parameter]]:
        return {name: list(getattr(self, name).parameters()) for name in ("encoder", "decoder")}


QUICK = TrainConfig(
    epochs=4, batch_size=8, join={}, device="cpu", threads=1, picture_every=2, reconstruction_weight=1.0, lr=0.01
)


@dataclass(frozen=True)
class MapRun(RunConfig):
    "A whole run."

    data: NumbersConfig = NumbersConfig()
    "the numbers"
    model: MapConfig = MapConfig()
    "the model"
    train: TrainConfig = QUICK
    "the training"
    kind: str = "test_kinds:NUMBERS"
    "which kind of model"


def fit_sizes(config: MapRun, data: Numbers) -> MapRun:
    "The number of numbers."
    return replace(config, model=replace(config.model, numbers=data.x.shape[-1]))


NUMBERS = Kind(
    Map,
    MapRun,
    {"waves": MapRun()},
    open=open_numbers,
    keep=keep_numbers,
    fit_config=fit_sizes,
    measure=None,
    draw=None,
    alive=None,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "A run of four epochs that was left alone."
    return fit(MapRun(), tmp_path_factory.mktemp("whole"), quiet=True)


def history(run) -> list[dict]:
    return json.loads((run / "metrics.json").read_text())["history"]


def test_it_is_what_training_asks_for():
    data = open_numbers(NumbersConfig())
    assert isinstance(data, DataSet) and isinstance(NumbersConfig(), DataSettings) and unit_of(data) == "step"
    assert isinstance(from_simulation(simulate("box", 3, 4, size=16)), DataSet)


def test_it_trains_and_says_steps(whole):
    bounds = [e["valid"]["elbo"] for e in history(whole)]
    assert bounds[-1] > bounds[0] + 0.5
    log = (whole / "log.txt").read_text()
    assert "32 training sequences of 6 steps" in log and "40 sequences of 6 steps of 7 numbers" in log
    assert "nats per step" in log and "frame" not in log


def test_it_is_opened_again_with_its_data(whole):
    run = load_run(whole)
    assert type(run.model) is Map and run.config == read_config(whole / "config.yaml") and run.config.model.numbers == 7
    assert [len(part) for part in run_data(run)] == [32, 4, 4]


CHILD = """
import os, signal, sys
import kvae_nb.training.loop as training
from test_kinds import MapRun
finish = training.finish_epoch
def finish_and_die(trainer, run, progress, *rest):
    progress = finish(trainer, run, progress, *rest)
    if progress.epoch == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return progress
training.finish_epoch = finish_and_die
training.fit(MapRun(), sys.argv[1], quiet=True)
"""


def test_killed_and_resumed_it_ends_bit_for_bit_where_it_would_have_ended(whole, tmp_path):
    here, path = str(Path(__file__).parent), os.pathsep.join(filter(None, [*sys.path]))
    env = os.environ | {"PYTHONPATH": f"{here}{os.pathsep}{path}", "MPLBACKEND": "Agg"}
    died = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path / "runs")], env=env)
    assert died.returncode == -signal.SIGKILL
    (broken,) = (tmp_path / "runs").iterdir()
    assert len(history(broken)) == 2
    fit(resume=broken, quiet=True)
    for name in ("last", "best"):
        assert same_checkpoint(whole / f"checkpoints/{name}.safetensors", broken / f"checkpoints/{name}.safetensors")


def test_stopped_in_this_process_it_goes_on_as_well(whole, tmp_path, monkeypatch):
    finish, done = training.finish_epoch, []

    def finish_and_stop(*given):
        progress = finish(*given)
        if progress.epoch == 3 and not done:
            done.append(signal.raise_signal(signal.SIGINT))
        return progress

    monkeypatch.setattr(training, "finish_epoch", finish_and_stop)
    with pytest.raises(KeyboardInterrupt):
        fit(MapRun(), tmp_path, quiet=True)
    (broken,) = tmp_path.iterdir()
    fit(resume=broken, quiet=True)
    assert same_checkpoint(whole / "checkpoints/last.safetensors", broken / "checkpoints/last.safetensors")


def test_arrays_in_memory_are_kept_with_the_run(tmp_path):
    array = torch.randn(30, 5, 9)
    run = fit(MapRun(train=replace(QUICK, epochs=1)), tmp_path, data=array, quiet=True)
    found = load_run(run)
    assert found.config.model.numbers == 9 and found.config.data.path == "data.npz"
    assert torch.equal(torch.cat([p.x for p in run_data(found)]).sum(), array.sum()) or len(run_data(found).train) == 24
    fit(resume=run, changes={"train.epochs": 2}, quiet=True)
    assert len(history(run)) == 2


def test_changed_data_are_noticed(tmp_path):
    run = fit(MapRun(train=replace(QUICK, epochs=1)), tmp_path, data=torch.randn(30, 5, 7), quiet=True)
    torch.save(torch.randn(30, 5, 7), run / "data.npz")
    with pytest.raises(InputError, match="measure on other data"):
        run_data(load_run(run))


def one_sentence(text: str) -> bool:
    return text.count("\n") == 1 and text.startswith("kvae: ") and text.endswith(".\n") and len(text) < 400


@pytest.mark.parametrize("verb", ["evaluate", "impute --gap 2:4 --out filled.npz", "generate --out songs"])
def test_verbs_for_films_refuse_it_in_one_sentence(whole, tmp_path, monkeypatch, capsys, verb):
    monkeypatch.chdir(tmp_path)
    name, *rest = verb.split()
    assert main([name, str(whole), *rest]) == 2
    out, err = capsys.readouterr()
    assert one_sentence(err) and "the kind test_kinds:NUMBERS" in err and not list(tmp_path.iterdir())


def test_the_evaluation_of_films_refuses_its_data(whole):
    run = load_run(whole)
    with pytest.raises(InputError, match="is about films") as error:
        evaluate(run.model, run_data(run).test)
    assert str(error.value).endswith(".") and "Numbers" in str(error.value)


def test_the_command_trains_it_by_its_import_path(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = "train --model test_kinds:NUMBERS --data.sequences 30 --epochs 1 --train.threads 1"
    assert main(line.split()) == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert load_run(run).config.data.sequences == 30
    assert preset(kind="test_kinds:NUMBERS") == MapRun() and kind_of("test_kinds:NUMBERS").presets == NUMBERS.presets


def test_weights_of_another_kind_of_data_are_refused(whole, tmp_path):
    with pytest.raises(InputError, match="start from preset"):
        fit(RunConfig(), tmp_path, init=whole, quiet=True)
