"""Two processes are one: the same weights within rounding, one run folder, one sentence when refused, and either can go
on where the other stopped.

This file is also the program that torchrun starts in every process: `worker` below."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import kvae_nb.training.loop as training
from kvae_nb.app.command import main
from kvae_nb.core.errors import InputError
from kvae_nb.data.films import from_simulation
from kvae_nb.data.opening import DataConfig
from kvae_nb.data.shards import write_shards
from kvae_nb.models.kvae import KVAE, KVAEConfig
from kvae_nb.training.annealing import Schedule
from kvae_nb.training.checkpoints import read_checkpoint
from kvae_nb.training.config import TrainConfig
from kvae_nb.training.loop import fit
from kvae_nb.training.runs import KINDS, RunConfig, read_config, write_config
from kvae_nb.worlds.balls import simulate

EPOCHS = 3
PARTIAL = dict(
    drop=0.4, decode_frames=3, join={"alpha": 1}, beta=Schedule("linear", start=0.2, length=2.0), free_bits=0.1
)  # frames hidden, frames not decoded, a part that waits, a price that rises, nats that are free


def small(data=DataConfig(sequences=40, steps=8, size=16), **train) -> RunConfig:
    "A run of three epochs of four steps; 7 sequences in a step, so that one process has 4 of them and the other 3."
    basic = dict(epochs=EPOCHS, batch_size=7, join={}, device="cpu", threads=1, picture_every=0, valid_sequences=4)
    return RunConfig(
        data=data,
        model=KVAEConfig(size=16, filters=4, alpha="mlp", alpha_units=8),
        train=TrainConfig(**{**basic, **train}),
    )


def with_masks(folder: Path) -> str:
    "A folder of shards with masks, of which most hide something, and controls: what a step has to cut into rows."
    data = from_simulation(simulate("box", 40, 8, 1, 16))
    mask = torch.rand(40, 8, generator=torch.Generator().manual_seed(0)) > 0.3
    write_shards(folder / "masked", [replace(data, mask=mask, controls=data.state[..., 2:] / 16)], clips=15)
    return str(folder / "masked")


def cases(folder: Path) -> dict[str, RunConfig]:
    return {
        "partial": small(**PARTIAL),
        "masked": small(DataConfig(path=str(folder / "masked"), steps=8, size=16), drop=0.2),
    }


def refusals(folder: Path) -> dict:
    "What cannot be trained, noticed by all processes before they meet, by all after it, or by the first alone."
    return {
        "data": lambda: fit(small(DataConfig(path=str(folder / "nothing.npz"))), folder / "never"),
        "precision": lambda: fit(small(precision="fp16"), folder / "never"),
        "part": lambda: fit(small(join={"engine": 1}), folder / "never"),
        "batch": lambda: fit(small(batch_size=1), folder / "never"),
        "sequences": lambda: fit(small(DataConfig(sequences=3, steps=8, size=16)), folder / "never"),
        "folder": lambda: fit(small(), folder / "file"),
        "place": lambda: fit(small(), folder / "file" / "runs"),
        "other data": lambda: fit(resume=folder / "changed", quiet=True),
    }


class Stop(Exception):
    "The end of a run that was not meant to end."


@contextlib.contextmanager
def ends_after(epoch: int, how):
    "Calls `how` when this epoch is on the disk."
    finish = training.finish_epoch

    def finish_and_end(trainer, run, progress, entry, reporter):
        progress = finish(trainer, run, progress, entry, reporter)
        if progress.epoch == epoch:
            how(trainer)
        return progress

    training.finish_epoch = finish_and_end
    try:
        yield
    finally:
        training.finish_epoch = finish


def stop(trainer):
    raise Stop


def kill_the_second(trainer):
    if trainer.accelerator.process_index == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def builds(make):
    "From now on the Kalman VAEs of this process are built by `make`."
    KINDS["kvae"] = KINDS["kvae"]._replace(model=make)


def first_is_dead(config) -> KVAE:
    "A model whose decoder draws one image whatever it is told; the next one is alive."
    builds(KVAE)
    model = KVAE(config)
    torch.nn.init.constant_(model.decoder.up[2].bias, -100.0)
    return model


def refused(function) -> str:
    try:
        function()
    except (InputError, OSError) as error:
        return str(error)
    return "not refused"


def worker(folder: Path):
    "What each of the two processes does; the second dies in the end."
    found = {"runs": {name: str(fit(config, folder / "two", quiet=True)) for name, config in cases(folder).items()}}
    found["world"], rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    fit(resume=folder / "stopped", quiet=True)
    found["refusals"] = {name: refused(function) for name, function in refusals(folder).items()}
    with contextlib.redirect_stderr(io.StringIO()) as shown:
        found["code"] = main(
            [
                "train",
                "--data.steps=8",
                "--data.size=16",
                "--data.sequences=40",
                "--train.device=cpu",
                f"--out={folder / 'file'}",
            ]
        )
    found["said"] = shown.getvalue()
    training.LOOK, training.GRACE = 4, 8
    builds(first_is_dead)
    found["runs"]["dead"] = str(fit(small(), folder / "two", quiet=True))
    (folder / f"process_{rank}.json").write_text(json.dumps(found))
    with ends_after(2, kill_the_second):
        fit(small(**PARTIAL), folder / "killed", quiet=True)


def torchrun(*words) -> subprocess.Popen:
    "Two processes with gloo on this machine."
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *map(str, words)]
    return subprocess.Popen(
        launch, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def ended(process: subprocess.Popen) -> tuple[int, str]:
    "Exit code and output. A launch that hangs is ended, and fails."
    try:
        out = process.communicate(timeout=120)[0]
        return process.returncode, out
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun then ends what it has started
        pytest.fail("hangs: " + process.communicate(timeout=60)[0])


def weights(run) -> dict[str, torch.Tensor]:
    return {
        k: v
        for k, v in read_checkpoint(Path(run) / "checkpoints/last.safetensors")[0].items()
        if k.startswith("model.")
    }


def bounds(run) -> torch.Tensor:
    "What the run has noted after each epoch, in nats per frame."
    history = json.loads((Path(run) / "metrics.json").read_text())["history"]
    return torch.tensor(
        [
            [e[s][k] for s in ("train", "valid") for k in ("elbo", "log_likelihood", "log_prior", "log_posterior")]
            for e in history
        ]
    )


def apart(a, b) -> float:
    "The root mean square difference of the weights of two runs."
    x, y = weights(a), weights(b)
    return torch.cat([(x[k] - y[k]).flatten() for k in x]).square().mean().sqrt().item()


class Nudged(KVAE):
    "The same model, each weight moved by the relative spacing of float32."

    def __init__(self, config):
        super().__init__(config)
        signs = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in self.parameters():
                p.mul_(1 + (torch.randint(2, p.shape, generator=signs) * 2 - 1) * torch.finfo(p.dtype).eps)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "A folder in which everything has happened: here in one process, and at the same time in two."
    folder = tmp_path_factory.mktemp("scaling")
    with_masks(folder)
    (folder / "file").write_text("")
    with ends_after(2, stop), pytest.raises(Stop):
        fit(small(**PARTIAL), folder / "new", quiet=True)
    next((folder / "new").iterdir()).rename(folder / "stopped")
    (folder / "changed").mkdir()
    (folder / "changed/data.txt").write_text("the fingerprint of other data\n")
    write_config(small(), folder / "changed/config.yaml")
    two = torchrun(__file__, folder)
    one = {name: fit(config, folder / "one", quiet=True) for name, config in cases(folder).items()}
    builds(Nudged)
    nudged = fit(small(**PARTIAL), folder / "nudged", quiet=True)
    builds(KVAE)
    code, out = ended(two)
    assert sorted(folder.glob("process_*.json")) == [folder / "process_0.json", folder / "process_1.json"], out
    found = [json.loads((folder / f"process_{r}.json").read_text()) for r in (0, 1)]
    return {"folder": folder, "one": one, "nudged": nudged, "two": found[0]["runs"], "found": found, "code": code}


def same(run, other, home):
    """Asserts that two runs differ by rounding alone.

    The weights by no more than four times what one nudge of each weight by eps = 2^-23 at the start makes of them in
    the end (in the run called partial): a sum of gradients in another order is such a nudge in every step. (Dividing
    the loss by the wrong number of frames moves them more than ten thousand times as far.) The bounds, sums of some
    hundred numbers of up to 256, each rounded to a relative eps, by no more than eight spacings of the largest.
    """
    assert apart(run, other) <= 4 * apart(home["one"]["partial"], home["nudged"])
    x, y = bounds(run), bounds(other)
    assert (x - y).abs().max() <= 8 * torch.finfo(torch.float32).eps * x.abs().max()


def test_there_were_two_processes(home):
    assert [f["world"] for f in home["found"]] == [2, 2]
    assert home["found"][0]["runs"] == home["found"][1]["runs"]


@pytest.mark.parametrize("name", ["partial", "masked"])
def test_two_processes_train_the_model_that_one_trains(home, name):
    same(home["one"][name], home["two"][name], home)


def test_everything_is_written_once(home):
    assert {str(p) for p in (home["folder"] / "two").iterdir()} == set(home["two"].values())
    for name, config in cases(home["folder"]).items():
        run = Path(home["two"][name])
        files = sorted(
            p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file() and not p.name.startswith("events.")
        )
        assert files == [
            "checkpoints/best.safetensors",
            "checkpoints/last.safetensors",
            "config.yaml",
            "data.txt",
            "history.csv",
            "lock",
            "log.txt",
            "metrics.json",
            "started.json",
        ]
        assert len(list(run.glob("events.*"))) == 1
        assert read_config(run / "config.yaml") == read_config(home["one"][name] / "config.yaml")
        log = [line for line in (run / "log.txt").read_text().splitlines() if f"/{EPOCHS}:" in line]
        assert [f"epoch {e}/{EPOCHS}" in line for e, line in enumerate(log, 1)] == [True] * EPOCHS
        assert json.loads((run / "metrics.json").read_text())["step"] == 4 * EPOCHS


@pytest.mark.parametrize(
    "name, words",
    [
        ("data", "does not exist"),
        ("precision", "fp16 needs a GPU"),
        ("part", "'engine'"),
        ("batch", "batch_size is 1"),
        ("sequences", "1 training sequence"),
        ("folder", "is a file"),
        ("place", "Not a directory"),
        ("other data", "have changed since"),
    ],
)
def test_what_one_process_refuses_all_refuse(home, name, words):
    said = [f["refusals"][name] for f in home["found"]]
    assert said[0] == said[1] and words in said[0] and not (home["folder"] / "never").exists()


def test_the_command_ends_with_one_sentence_in_all_processes(home):
    for f in home["found"]:
        assert (
            f["code"] == 2
            and f["said"] == f"kvae: {home['folder'] / 'file'} is a file; give a folder in which runs can be kept.\n"
        )


def test_processes_agree_on_a_dead_start(home):
    run = Path(home["two"]["dead"])
    metrics = json.loads((run / "metrics.json").read_text())
    assert (metrics["attempt"], metrics["epoch"], metrics["dead"]) == (1, EPOCHS, False)
    assert (run / "log.txt").read_text().count("DEAD START") == 1


def test_a_run_of_one_process_goes_on_in_two(home):
    same(home["one"]["partial"], home["folder"] / "stopped", home)


def test_a_run_of_two_processes_goes_on_in_one(home):
    "One of the two was killed after two epochs, and torchrun has ended the other."
    run = next((home["folder"] / "killed").iterdir())
    assert home["code"] != 0 and json.loads((run / "metrics.json").read_text())["epoch"] == 2
    fit(resume=run, quiet=True)
    same(home["one"]["partial"], run, home)


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
