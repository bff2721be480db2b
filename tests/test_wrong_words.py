"""Commands as they are mistyped: one sentence in words that can be typed, exit code 2, nothing written."""

import re
from pathlib import Path

import numpy as np
import pytest

from kvae_nb.app.command import main

INSIDE = re.compile(r"Traceback|Parser key|<class|typing\.|NoneType|subtypes|unrecognized|\n")

WRONG = {
    "trian --preset demo": "there is no verb 'trian'",
    "--verison": "there is no verb '--verison'",
    "simulate": "--out is missing",
    "simulate --out": "a value is missing after --out",
    "simulate --size 32x32 --out y.npz": "--size is '32x32', but must be a whole number",
    "simulate --radius big --out y.npz": "--radius is 'big', but must be a number",
    "simulate --balls 100 --out y.npz": "use fewer or smaller balls",
    "simulate --out y.npz --force 3": "no option stands before '3'",
    "simulate y.npz": "no option stands before 'y.npz'",
    "train clips.npz": "no option stands before 'clips.npz'; if these are the videos, write --data clips.npz",
    "train --preset demo nosuch.mp4": "no option stands before 'nosuch.mp4'",
    "train --data nosuch.mp4": "nosuch.mp4 does not exist",
    "train --data notes.txt": "not a kind of file that can be read",
    "train --data damaged.mp4": "damaged.mp4 cannot be decoded",
    "train --epoch 3": "there is no option --epoch, but there is --train.epochs",
    "train --lr 3": "there is no option --lr, but there is --train.lr",
    "train --batch-size 8": "there is no option --batch-size, but there is --train.batch_size",
    "train --train.batchsize 8": "there is no option --train.batchsize, but there is --train.batch_size",
    "train --train.wings 2": "there is no option --train.wings (see",
    "train --epochs many": "train.epochs is 'many', but must be a whole number",
    "train --train.lr fast": "train.lr is 'fast', but must be a number",
    "train --model.network cnn": "model.network is 'cnn', but must be conv, points or mlp",
    "train --data.times maybe": "data.times is 'maybe', but must be true, false or null",
    "train --train.beta zigzag": "--train.beta is 'zigzag', but must be a number or a file of fields",
    "train --config nosuch.yaml": "must be a file of fields that can be read",
    "train --config notes.txt": "the file of --config holds 'hello'",
    "train --config wrong.yaml": "there is no option --trane.epochs, but there is --train.epochs",
    "train --preset dmeo": "there is no preset 'dmeo'",
    "train --model nosuch": "there is no kind of model 'nosuch'",
    "evaluate nosuch": "there is no run folder 'nosuch'",
    "evaluate --gaps 3": "there is no option --gaps, but there is --measure.gaps",
    "evaluate box --measure.gaps x": "measure.gaps is 'x', but must be a list such as [3,7]",
    "evaluate box clips.npz": "if these are the videos, write --data clips.npz",
    "evaluate box --checkpoint lst": "--checkpoint is 'lst'",
    "impute boxx --gap 4:8 --out y.npz": "there is no run folder 'boxx'",
    "impute nosuch.mp4 --gap 4:8 --out y.mp4": "nosuch.mp4 does not exist",
    "impute damaged.mp4 40:47 --out y.mp4": "no option stands before '40:47'",
    "impute box --gaps 4:8 --out y.npz": "there is no option --gaps, but there is --gap",
    "impute box --drop 2 --data sample --out y.npz": "--drop is 2.0, but must lie between 0 and 1",
    "impute box --particles 1.5 --out y.npz": "--particles is '1.5', but must be a whole number",
    "generate box": "--out is missing",
    "generate box --count -1 --out y": "--count is -1",
    "generate box --force=3 --out y": "--force takes no value",
    "swap sprites --count many --out y": "--count is 'many', but must be a whole number",
    "play": "the run is missing",
    "play nosuch": "nosuch is not a run folder",
    "board nosuch": "nosuch is not a run folder",
    "board --port abc": "--port is 'abc', but must be a whole number",
}


@pytest.fixture
def room(tmp_path, monkeypatch):
    "A folder with what the commands name."
    Path(tmp_path, "notes.txt").write_text("hello")
    Path(tmp_path, "damaged.mp4").write_bytes(b"no film")
    Path(tmp_path, "wrong.yaml").write_text("trane:\n  epochs: 3\n")
    np.savez(tmp_path / "clips.npz", images=np.zeros((4, 6, 16, 16), np.uint8))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("line", WRONG)
def test_it_is_said_in_words_that_can_be_typed(room, capsys, line):
    there = sorted(room.iterdir())
    assert main(line.split()) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("kvae: ") and said.endswith(".") and WRONG[line] in said, said
    assert not INSIDE.search(said) and sorted(room.iterdir()) == there, said
