"""What can go wrong with sequences, notes, sound, text and films of someone, tried often, as trust.py tries it with
films. Counts go to results/trust_kinds.json.

    python experiments/trust_kinds.py                  (everything)
    python experiments/trust_kinds.py files hostile    (some parts; the others stay as they are in the result)

files     damaged files for every reader of these kinds, and for checkpoints and weights of these models
hostile   files made to do harm: arrays and pickles that would run something, archives that unpack to far more than
          they are, headers that promise terabytes, YAML with tags and references to itself, safetensors whose table
          points elsewhere; all have to be refused within 20 s and 1 GB of memory, and nothing may have run
kills     trainings of an SRNN, of a VDSM in its two stages and of a KVAE with particles, ended in turn by SIGKILL and
          SIGTERM at random moments and resumed each time
disk      no space left while checkpoints of an SRNN and a VDSM, and what the verbs make, are written
twins     two trainings of each started in the same second
worlds    20 seeds × games, text, swings and sprites: numbers that were not finite, steps skipped
"""

import json
import os
import random
import resource
import shutil
import signal
import struct
import sys
import types
import wave
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import trust
from safetensors.torch import save

from kvae_nb.data.midi import write_midi
from kvae_nb.data.opening import DataConfig, labelled_films, open_data, read_video_data, save_video_data
from kvae_nb.data.sequences import load_sequences
from kvae_nb.data.sheets import read_sheets, save_sheets
from kvae_nb.data.someone import read_mug
from kvae_nb.data.sources import SequenceDataConfig, open_sequences
from kvae_nb.models.kvae import KVAEConfig
from kvae_nb.models.sequence_parts import SequenceConfig
from kvae_nb.models.vdsm import VDSMConfig
from kvae_nb.training.checkpoints import read_checkpoint
from kvae_nb.training.config import TrainConfig
from kvae_nb.training.identity_runs import VdsmRunConfig
from kvae_nb.training.loop import fit
from kvae_nb.training.pretrained import WEIGHTS, read_pretrained
from kvae_nb.training.pretrained_sequences import load_sequence_model
from kvae_nb.training.runs import RunConfig, read_config
from kvae_nb.training.sequence_runs import SrnnRunConfig
from kvae_nb.worlds.sprites import drawn_sheets

RESULT = Path(__file__).parent / "results" / "trust_kinds.json"
QUICK = TrainConfig(epochs=1, batch_size=8, device="cpu", threads=1, join={}, picture_every=0)
SMALL = dict(size=16, channels=3, filters=4, units=8, dim_f=3, dim_a=2, features=8, reader_units=6)
MEMORY = 1_000_000_000  # bytes that a hostile file may make us ask for


# The trainings that are tried


def sequences_run(epochs: int = 1, **data) -> SrnnRunConfig:
    "A training of an SRNN on games, of seconds."
    found = SequenceDataConfig(**({"source": "game", "sequences": 40, "test": 0.2, "valid": 0.2} | data))
    model = SequenceConfig(dim_z=2, rnn_units=(6,), encoder=(6,), decoder=(6,), latent_layers=(6,))
    return SrnnRunConfig(data=found, model=model, train=replace(QUICK, epochs=epochs))


def someone_run(path: Path, epochs: int = 1) -> VdsmRunConfig:
    "A training of a VDSM in two stages, of seconds."
    data = DataConfig(path=str(path), steps=8, size=16, test=0.2, valid=0.2)
    model = VDSMConfig(dim_d=2, rnn_units=4, transition_units=4, **{k: v for k, v in SMALL.items() if k in VDSM_FIELDS})
    train = replace(QUICK, epochs=epochs)
    return VdsmRunConfig(data, model, train, frames=replace(train, pair="character", decode_frames=3))


VDSM_FIELDS = set(VDSMConfig.__dataclass_fields__)


def particles_run(epochs: int = 1) -> RunConfig:
    "A training of a KVAE on films with hidden frames by particles, of seconds."
    model = KVAEConfig(size=16, filters=4, alpha_units=8, particles=4)
    return RunConfig(DataConfig(sequences=24, steps=6, size=16), model, replace(QUICK, epochs=epochs, drop=0.3))


def sprites_file(there: Path, clips: int = 60) -> Path:
    "A file of drawn sprites with labels."
    save_video_data(there / "sprites.npz", labelled_films("sprites", clips, size=32))
    return there / "sprites.npz"


def trainings(there: Path, epochs: int) -> dict:
    "The three by name."
    named = {"srnn": sequences_run(epochs), "particles": particles_run(epochs)}
    return named | {"vdsm": someone_run(sprites_file(there), epochs)}


# Damaged files


def objects(items: list) -> np.ndarray:
    "An array of objects."
    out = np.empty(len(items), object)
    out[:] = items
    return out


def labels_of_notes() -> list:
    "What stands beside a recording in musicnet.npz: a tree of intervals, by the names that its package has."
    made = types.ModuleType("intervaltree.intervaltree")
    made.IntervalTree = type("IntervalTree", (list,), {"__module__": made.__name__})
    made.IntervalTree.__reduce__ = lambda self: (made.IntervalTree, (list(map(tuple, self)),))
    sys.modules |= {
        "intervaltree": made,
        made.__name__: made,
    }  # so that pickle finds it when it writes; the reader must not need it
    return made.IntervalTree([(0, 900, (1, 69)), (900, 2000, (1, 71))])


def write_music(there: Path):
    "A roll, chords, recordings, a text, numbers."
    rng = np.random.default_rng(0)
    roll = rng.random((24, 88)) < 0.05
    write_midi(there / "notes.mid", roll, grid=4)
    chords = {part: [[[60, 64], [62], [65, 67, 69]] * 3] * 3 for part in ("train", "valid", "test")}
    (there / "chords.json").write_text(json.dumps(chords))
    with wave.open(str(there / "sound.wav"), "wb") as f:
        f.setparams((1, 2, 8000, 0, "NONE", ""))
        f.writeframes(rng.integers(-9999, 9999, 4000, dtype="<i2").tobytes())
    tone = rng.normal(0, 0.2, 3000).astype(np.float32)
    np.savez(there / "musicnet.npz", **{"7": objects([tone, labels_of_notes()])})
    for name in ("intervaltree", "intervaltree.intervaltree"):
        del sys.modules[name]
    (there / "text.txt").write_text("What can be read can be damaged: äöü, ∑, 漢字.\n" * 40, encoding="utf-8")
    np.savez(there / "plain.npz", x=rng.normal(size=(6, 9, 2)), lengths=np.full(6, 9), mask=np.ones((6, 9), bool))
    open_sequences(SequenceDataConfig(sequences=12)).save(there / "games.npz")


def write_someone(there: Path):
    "Films with labels, sheets, folders of clips, faces."
    films = labelled_films("sprites", 6, size=64)
    save_video_data(there / "labelled.npz", films)
    save_sheets(there / "sheets.npz", drawn_sheets())
    (there / "sprite").mkdir()
    for k, film in enumerate(films.frames[:3], 1):
        item = dict(body=0, pant=1, shirt=2, hair=3, action=k, sprite=film.float() / 127.5 - 1)
        torch.save(item, there / "sprite" / f"{k}.sprite")
    (there / "faces").mkdir()
    shots = [np.full((12, 16, 16, 3), 40 * k, np.uint8) for k in range(3)]
    np.savez(there / "faces" / "MUG.npz", objects(shots))
    np.savez(there / "faces" / "labels.npz", np.array([(3, 5), (1, 2), (51, 4)]))


def music(there: Path) -> dict:
    "Sound files of sequences, as kind -> (files, reader)."
    write_music(there)
    source = lambda name, **more: lambda p: open_sequences(SequenceDataConfig(source=name, path=str(p), **more))
    return {
        "notes.mid": (["notes.mid"], source("midi")),
        "chords.json": (["chords.json"], source("rolls")),
        "sound.wav": (["sound.wav"], source("audio", rate=8000)),
        "musicnet.npz": (["musicnet.npz"], source("audio")),
        "text.txt": (["text.txt"], source("text")),
        "plain.npz": (["plain.npz"], source("file")),
        "games.npz": (["games.npz"], load_sequences),
    }


def someone(there: Path) -> dict:
    "The same of films of someone, checkpoints and weights."
    write_someone(there)
    run = fit(sequences_run(), there / "runs", quiet=True)
    shutil.copy(run / "checkpoints" / "last.safetensors", there / "sequences.safetensors")
    run = fit(someone_run(sprites_file(there)), there / "runs", quiet=True)
    shutil.copy(run / "checkpoints" / "last.safetensors", there / "stages.safetensors")
    shutil.rmtree(there / "runs")
    shutil.copy(WEIGHTS / "sequences" / "game.safetensors", there / "game.safetensors")
    shutil.copy(WEIGHTS / "sprites_dsvae.safetensors", there / "looks.safetensors")
    video = lambda path: read_video_data(path, None, 32, 3)
    return {
        "labelled.npz": (["labelled.npz"], video),
        "sheets.npz": (["sheets.npz"], read_sheets),
        "sprite": ([f"sprite/{k}.sprite" for k in (1, 2, 3)], lambda p: open_data(DataConfig(str(p), steps=8))),
        "faces": (["faces/MUG.npz", "faces/labels.npz"], lambda p: read_mug(p / "MUG.npz", steps=5, size=16)),
        "sequences.safetensors": (["sequences.safetensors"], read_checkpoint),
        "stages.safetensors": (["stages.safetensors"], read_checkpoint),
        "game.safetensors": (["game.safetensors"], load_sequence_model),
        "looks.safetensors": (["looks.safetensors"], read_pretrained),
    }


def files(args, there: Path) -> dict:
    "Damaged files for every reader."
    return trust.damaged_files(music(there) | someone(there), args, there)


# Hostile files


class Harm:
    "Leaves a mark when it is unpickled."

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def member(path: Path, name: str, raw: bytes, packed: bool = False) -> Path:
    "An archive with one member."
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        archive.writestr(name, raw)
    return path


def head(shape: str, kind: str = "|u1") -> bytes:
    "The beginning of an .npy file that promises this shape."
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def arrays(there: Path, mark: Path) -> dict:
    "Archives of arrays."
    zeros = np.zeros((1, 1 << 30), np.uint8)  # a gigabyte, which packs into a megabyte
    np.savez(there / "objects.npz", images=objects([Harm(mark), 1]), x=objects([Harm(mark), 1]))
    np.save(there / "objects.npy", objects([Harm(mark)]), allow_pickle=True)
    bomb = head("(1024, 1024, 32, 32)") + zeros.tobytes()
    del zeros
    return {
        "pickled objects": there / "objects.npz",
        "pickled objects, .npy": there / "objects.npy",
        "packed a thousandfold": member(there / "bomb.npz", "images.npy", bomb, True),
        "terabytes promised": member(there / "huge.npz", "images.npy", head("(1000000, 1000, 32, 32)") + b"1"),
        "a negative axis": member(there / "less.npz", "images.npy", head("(-4, 20, 32, 32)") + b"1"),
        "an axis that is code": member(there / "code.npz", "images.npy", head("__import__('os').system('id')")),
        "a name that leads out": member(there / "out.npz", "../../images.npy", head("(1, 2, 8, 8)") + bytes(128)),
        "a type of objects": member(there / "type.npz", "images.npy", head("(2,)", "|O") + b"cos\nsystem\n."),
        "a pickle as it is": _written(there / "pickle.npz", b"cos\nsystem\n(S'touch " + str(mark).encode() + b"'\ntR."),
    }


def _written(path: Path, raw: bytes) -> Path:
    "The path, with these bytes in it."
    path.write_bytes(raw)
    return path


def configurations(there: Path, mark: Path) -> dict:
    "YAML files."
    laughs = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{chr(98 + k)}: &{chr(98 + k)} [{', '.join(['*' + chr(97 + k)] * 9)}]\n" for k in range(12)
    )
    texts = {
        "a tag that runs": f"!!python/object/apply:pathlib.Path.touch [{mark}]",
        "a tag inside": f"model: !!python/object/apply:os.system ['touch {mark}']",
        "an object": "!!python/object:kvae_nb.training.runs.RunConfig {}",
        "a module": "kind: os:system",
        "billions of laughs": laughs,
        "a reference to itself": "model: &m {size: *m}",
        "ten thousand brackets": "model: " + "[" * 10_000,
        "a megabyte of zeros": "model: {size: 1" + "0" * 1_000_000 + "}",
        "bytes that are no text": "\udcff\udcfe",
        "two documents": "kind: kvae\n---\nkind: rnn",
        "one key twice": "kind: kvae\nkind: os:system",
    }
    found = {}
    for k, (name, text) in enumerate(texts.items()):
        found[name] = _written(there / f"{k}.yaml", text.encode("utf-8", "surrogateescape"))
    return found


def tensors(there: Path) -> dict:
    "Files of weights."
    table = lambda text, data=b"": struct.pack("<Q", len(text)) + text + data
    one = lambda shape, at: json.dumps({"model.w": {"dtype": "F32", "shape": shape, "data_offsets": at}}).encode()
    whole = save({"model.w": torch.zeros(3)}, {"format": "kvae_nb checkpoint 3", "progress": "{}"})
    raws = {
        "a table of 2⁶³ bytes": struct.pack("<Q", 1 << 63) + b"{}",
        "no table": table(b""),
        "a table that is no JSON": table(b"{" * 100),
        "a deep table": table(b"[" * 100_000),
        "beyond the end": table(one([1 << 40], [0, 1 << 42])),
        "a negative shape": table(one([-1], [0, 4]), bytes(4)),
        "two ends exchanged": table(one([1], [4, 0]), bytes(4)),
        "no checksum": whole,
        "a pickle": b"\x80\x04cos\nsystem\n.",
    }
    return {name: _written(there / f"{k}.safetensors", raw) for k, (name, raw) in enumerate(raws.items())}


def sounds(there: Path) -> dict:
    "Recordings and notes whose headers promise what is not there."
    chunk = lambda name, size, data: name + struct.pack("<I", size) + data
    form = struct.pack("<HHIIHH", 1, 1, 8000, 16000, 2, 16)
    wav = lambda body: b"RIFF" + struct.pack("<I", 0xFFFFFFFF) + b"WAVE" + body
    fmt = chunk(b"fmt ", 16, form)
    no_rate = chunk(b"fmt ", 16, struct.pack("<HHIIHH", 1, 0, 0, 0, 0, 0))
    midi = lambda tracks, body: b"MThd" + struct.pack(">IHHH", 6, 1, tracks, 96) + body
    open_notes = b"MTrk" + struct.pack(">I", 3_000_000) + b"\x00\x3c\x40" * 1_000_000
    late = b"\xff\xff\xff\x7f\x90\x3c\x40" * 2000  # notes that begin after hundreds of years
    raws = {
        "four gigabytes promised": ("a.wav", wav(fmt + chunk(b"data", 0xFFFFFFF0, b"1234"))),
        "no channel, no rate": ("b.wav", wav(no_rate + chunk(b"data", 4, b"1234"))),
        "65535 tracks": ("a.mid", midi(65535, b"MTrk" + struct.pack(">I", 0xFFFFFFFF))),
        "notes after centuries": ("b.mid", midi(1, b"MTrk" + struct.pack(">I", len(late)) + late)),
        "a million open notes": (
            "c.mid",
            midi(1, open_notes),
        ),
    }
    return {name: _written(there / file, raw) for name, (file, raw) in raws.items()}


def hostile(args, there: Path) -> dict:
    "Files that were made to do harm."
    mark, found, faults = there / "marked", {}, []
    source = lambda p: open_sequences(SequenceDataConfig(source="midi" if p.suffix == ".mid" else "audio", path=str(p)))
    readers = {
        "arrays as films": (arrays(there, mark), lambda p: read_video_data(p, None, 32, 1)),
        "arrays as sequences": (arrays(there, mark), lambda p: open_sequences(SequenceDataConfig("file", str(p)))),
        "arrays as faces": (arrays(there, mark), lambda p: read_mug(p, steps=5, size=16)),
        "YAML": (configurations(there, mark), read_config),
        "checkpoints": (tensors(there), read_checkpoint),
        "weights": (tensors(there), read_pretrained),
        "weights of sequences": (tensors(there), load_sequence_model),
        "sound and notes": (sounds(there), source),
    }
    for kind, (made, read) in readers.items():
        count = Counter()
        for name, path in made.items():
            (what, text), grown = measured(read, path)
            what = "ran" if mark.exists() else "took too much memory" if grown > MEMORY else what
            count[what] += 1
            if what not in ("refused", "read"):
                faults.append(f"{kind}, {name}: {what}: {text[:300]}")
            if what == "read":
                count[f"read: {name}"] += 1
        found[kind] = dict(count)
    return {"counts": found, "faults": faults}


def measured(read, path: Path) -> tuple[tuple[str, str], int]:
    "What became of reading it in a process of its own, and how many bytes that process had grown by."
    inside, outside = os.pipe()

    def go():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = trust.outcome(lambda: read(path))
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        os.write(outside, json.dumps([found, grown]).encode()[:4000])

    code = trust.ended(trust.child(go))
    os.close(outside)
    with open(inside, "rb") as pipe:
        said = pipe.read()
    return json.loads(said) if said else (("ended the process", f"exit code {code}"), 0)


# Endings, full disks, twins, seeds


def kills(args, there: Path) -> dict:
    "Trainings ended by SIGKILL and SIGTERM in turn, and resumed."
    found = {}
    for name, config in trainings(there, args.epochs).items():
        (there / name).mkdir()
        found[name] = trust.killed(config, args, there / name, (signal.SIGKILL, signal.SIGTERM))
    return found


def disk(args, there: Path) -> dict:
    "No space for checkpoints, and for what the verbs make."
    found = {}
    for name, config in trainings(there, 1).items():
        (there / name).mkdir()
        found[name] = trust.filled(config, args, there / name)
    srnn = next((there / "srnn" / "runs").iterdir())
    vdsm = next((there / "vdsm" / "runs").iterdir())
    verbs = {
        "generate films": ("generate box --steps 12 --count 4 --out", "dreams", 9000),
        "impute": ("impute box --data sample --gap 4:8 --out", "filled.npz", 30_000),
        "generate sequences": (f"generate {srnn} --steps 50 --count 8 --out", "games", 2000),
        "swap": (f"swap {vdsm} --count 3 --out", "swaps", 9000),
        "simulate": ("simulate --world gravity --sequences 20 --out", "films.npz", 4000),
    }
    rng = random.Random(args.seed)
    for name, (words, out, size) in verbs.items():
        found[name], target = Counter(), there / out
        for _ in range(max(1, args.disks // 2)):
            limit = rng.randrange(20, size)
            code, text = trust.without_space(limit, [*words.split(), str(target)], there / "said")
            left = [p for p in [target, *target.rglob("*")] if p.is_file()]
            whole = all(p.stat().st_size < limit for p in left) and not [*there.glob(f".{out}*")]
            found[name][f"exit code {code}"] += 1
            found[name][trust.said(text)] += 1
            found[name]["nothing half written"] += whole
            shutil.rmtree(target, ignore_errors=True)
            target.unlink(missing_ok=True)
        found[name] = dict(found[name])
    return found


def twins(args, there: Path) -> dict:
    "Two trainings of each in the same second."
    found = {}
    for name, config in trainings(there, 1).items():
        (there / name).mkdir()
        found[name] = trust.twice(config, there / name, 3)
    return found


def worlds(args, there: Path) -> dict:
    "Small trainings with many seeds."
    (there / "text.txt").write_text("the cat sat on the mat; the dog ran in the fog.\n" * 40)
    made = {
        "games": lambda seed: sequences_run(2, simulate_seed=seed),
        "text": lambda seed: sequences_run(2, source="text", path=str(there / "text.txt"), steps=20),
        "strings": lambda seed: sequences_run(2, source="strings", sequences=12, samples=50, simulate_seed=seed),
        "sprites": lambda seed: someone_run(sprites_file(there), 2),
        "films by particles": lambda seed: particles_run(2),
    }
    return trust.many_seeds(made, args, there)


PARTS = {f.__name__: f for f in (files, hostile, kills, disk, twins, worlds)}


if __name__ == "__main__":
    trust.tried(PARTS, trust.asked(PARTS, RESULT, __doc__.splitlines()[0], count=200, kills=20, epochs=8, disks=10))
