"""Each kind of model still says what it has said: a few training steps from a fixed seed, then its answers, beside the
numbers in tests/stability.

After a change that is meant to change them, `make stability` (which runs this file) stores the new ones, and git shows
by how much they moved. `pytest --no-stability` leaves the comparison out.
"""

import json
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from kvae_nb.core.runtime import tune_cpu
from kvae_nb.data.films import mask_gap, take
from kvae_nb.data.opening import DataConfig, open_data
from kvae_nb.models.protocol import asked_particles
from kvae_nb.training.config import TrainConfig
from kvae_nb.training.records import summary, validate
from kvae_nb.training.runs import KINDS, RunConfig, build_model
from kvae_nb.training.step import make_trainer, train_step

STORED = Path(__file__).parent / "stability"
STEPS = 6
EPS = torch.finfo(torch.float32).eps
pytestmark = pytest.mark.stability


def tiny(kind: str) -> RunConfig:
    """The kind's default model, made small, and a training in which frames are hidden, not all are decoded, and
    every part takes part.
    """
    config = KINDS[kind].run()
    known = {f.name for f in fields(config.model)}
    small = {k: v for k, v in dict(size=16, filters=4, units=16, alpha_units=8, rnn_units=8).items() if k in known}
    train = TrainConfig(batch_size=8, join={}, drop=0.2, decode_frames=3, device="cpu", valid_sequences=8)
    return replace(
        config,
        data=DataConfig(sequences=STEPS * 8, steps=8, size=16),
        model=replace(config.model, **small),
        train=train,
    )


def nudge(model: torch.nn.Module, seed: int):
    "Moves each weight up or down by the relative spacing of float32."
    signs = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1 + (torch.randint(2, p.shape, generator=signs) * 2 - 1) * EPS)


@torch.no_grad()
def answers(model: torch.nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    "What the model says about four frames hidden in two sequences, and how it goes on with them."
    out = model.impute(x, mask_gap(len(x), x.shape[1], 3, 4), **asked_particles(model, 0))
    dream = model.generate(4, x=x, generator=torch.Generator().manual_seed(0))
    found = {"weights": out.weights, "generated a": dream.a, "posterior variance": model.posterior(x).var}
    for name, b in (("smoothed", out.smoothed), ("filtered", out.filtered)):
        found |= {
            f"{name} a": b.a.mean,
            f"{name} z": b.z.mean,
            f"{name} variance of z": b.z.cov.diagonal(dim1=-2, dim2=-1),
            f"{name} light": b.frames.mean((-3, -2, -1)),
        }
    return found


def numbers(kind: str, nudged: int | None = None) -> dict[str, torch.Tensor]:
    "Everything that is compared, by name; nudged: after this nudge of the first weights."
    tune_cpu()
    config = tiny(kind)
    data, trainer = open_data(config.data), make_trainer(build_model(config), config.train)
    if nudged is not None:
        nudge(trainer.bare, nudged)
    rows = torch.arange(len(data)).split(config.train.batch_size)
    steps = [summary(train_step(trainer, take(data, r), k / STEPS, k).terms) for k, r in enumerate(rows)]
    bound = summary(validate(trainer.bare, data, config.train))
    scalars = {"training": [list(s.values()) for s in steps], "bound": list(bound.values())}
    return {
        **{k: torch.tensor(v) for k, v in scalars.items()},
        **answers(trainer.bare.eval(), take(data, torch.arange(2)).x),
    }


def store(kind: str):
    "Writes the numbers of a kind, a line for each name."
    found = {k: json.dumps([float(f"{v:.7g}") for v in x.flatten().tolist()]) for k, x in numbers(kind).items()}
    lines = ",\n".join(f' "{k}": {v}' for k, v in found.items())
    (STORED / f"{kind}.json").write_text(
        '{\n "command": "make stability",\n "torch": "' + torch.__version__ + '",\n' + lines + "\n}\n", encoding="utf-8"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_says_what_it_has_said(kind):
    """Equal within rounding, float32 having a relative spacing of eps = 2^-23.

    Another processor or another number of threads adds in another order, so that every operation may round differently;
    six steps of Adam carry that on. How far, the model itself tells: each of its first weights is moved by eps, three
    times with random signs, and the largest change of each answer is taken. Rounding happens in every operation of
    every step and not once, hence 16 times that, and eight spacings of the largest number, for those that the nudge
    does not reach. (Two threads, or convolutions without oneDNN, moved a Kalman VAE by no more than one nudge or one
    spacing; a learning rate of .00701 in the place of .007 by 400 nudges, Q = .0801 in the place of .08 by 30.)
    """
    path = STORED / f"{kind}.json"
    assert path.exists(), f"there are no stored numbers of {kind}; `make stability` writes them"
    stored, found, nudges = (
        json.loads(path.read_text(encoding="utf-8")),
        numbers(kind),
        [numbers(kind, seed) for seed in range(3)],
    )
    assert stored.keys() - {"command", "torch"} == found.keys()
    for name, x in found.items():
        expected = torch.tensor(stored[name]).view_as(x)
        rounding = max((n[name] - x).abs().max() for n in nudges)
        allowed = 16 * rounding + 8 * EPS * expected.abs().max()
        moved = (x - expected).abs().max()
        assert moved <= allowed, (
            f"{kind}: {name} moved by {moved:.2g}, of which rounding explains {allowed:.2g}; if that is "
            "meant, store it with `make stability`"
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    STORED.mkdir(exist_ok=True)
    for name in sys.argv[1:] or KINDS:
        store(name)
        print(f"stored {STORED / name}.json")
