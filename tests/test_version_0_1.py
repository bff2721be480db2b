"""Runs that version 0.1 has trained are opened, measured and continued.

`version_0_1/` holds three small ones as version 0.1.0 left them, and `answers.npz` what that version filled in: frames
and pseudo-observations of the films of `films()`.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from kvae_nb.app.command import main
from kvae_nb.core.errors import InputError
from kvae_nb.training.checkpoints import read_checkpoint, read_tensors, save_tensors
from kvae_nb.training.loop import fit
from kvae_nb.training.pretrained import load_pretrained
from kvae_nb.training.runs import load_run, run_data

OLD = Path(__file__).parent / "version_0_1"
KINDS = ("kvae", "skvae", "rnn")


def films():
    "The films that version 0.1 was asked about, and which of their frames it saw."
    x = torch.from_numpy((np.random.default_rng(0).random((2, 6, 1, 8, 8)) > 0.5).astype(np.float32))
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[:, 2:4] = False
    return x, mask


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_filled_in_is_filled_in_again(kind):
    model, (x, mask) = load_run(OLD / kind).model, films()
    with torch.no_grad():
        found = model.impute(x, mask, **({} if kind == "rnn" else {"particles": 0}))
    with np.load(OLD / "answers.npz") as answers:
        names = [n for n in ("filtered", "smoothed") if f"{kind}_{n}" in answers]
        for name in names:
            was, beliefs = torch.from_numpy(answers[f"{kind}_{name}"]), getattr(found, name)
            assert_close(torch.cat([beliefs.frames.flatten(2), beliefs.a.mean], -1), was, rtol=1e-5, atol=1e-6)
            assert was.std((0, 1)).max() > 2e-4  # the answers differ from frame to frame by far more than this
    assert names == ["filtered", "smoothed"]


@pytest.mark.parametrize("kind", KINDS)
def test_its_data_are_found_and_a_training_goes_on(tmp_path, kind):
    run = tmp_path / kind
    shutil.copytree(OLD / kind, run)
    assert len(run_data(load_run(run)).test) == 2
    before = read_checkpoint(run / "checkpoints" / "last.safetensors")
    assert fit(resume=run, changes={"train.epochs": 4}, quiet=True) == run
    after = read_checkpoint(run / "checkpoints" / "last.safetensors")
    assert (before[1].epoch, after[1].epoch) == (3, 4) and after[1].history[:3] == before[1].history
    assert not torch.equal(before[0]["model.encoder.mean.weight"], after[0]["model.encoder.mean.weight"])


def test_what_came_before_is_refused_by_a_sentence_that_says_what_to_do(tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(OLD / "kvae", run)
    path = run / "checkpoints" / "best.safetensors"
    tensors, meta = read_tensors(path, "kvae_nb checkpoint 3")
    save_tensors(path, tensors, {"format": "kvae_nb checkpoint 2", "progress": meta["progress"]})
    with pytest.raises(InputError, match="checkpoint 2.*train again or use the version that wrote it"):
        load_run(run)
    assert main(["generate", str(run), "--out", str(tmp_path / "d")]) == 2
    assert "checkpoint 2" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["box", "box_switching", "pendulum", "simulated_gravity"])
def test_weights_packed_by_it_answer_as_stored(name):
    meta = read_tensors(Path(__file__).parents[1] / "kvae_nb" / "weights" / f"{name}.safetensors", "kvae_nb weights 1")[
        1
    ]
    assert meta["package"] == "0.1.0" and load_pretrained(name).model is not None
