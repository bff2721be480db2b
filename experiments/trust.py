"""What can go wrong, tried often: damaged files, a training killed at any moment, a full disk, many seeds. Counts go to
results/trust.json.

    python experiments/trust.py                     (everything; about half an hour on one CPU core)
    python experiments/trust.py files kills         (some parts; the others stay as they are in the result)

files     thousands of damaged files for every reader: refused in one sentence (`InputError`), or read, if the damage
          does not matter; never another error, never longer than 20 s of processor time, and nothing written beside
          them
configs   the same with configurations; what is accepted must also build a model or be refused by it
kills     a training killed with SIGKILL at 50 random moments and resumed each time: its last checkpoint must be that
          of a training left alone, bit for bit
disk      no space left (a limit on the size of files, as a full disk would act) while a checkpoint is saved: the old
          one stays whole, one sentence
twins     two trainings started in the same second: two folders, both complete
versions  checkpoints of another format
worlds    20 seeds × 4 worlds of small trainings: how many numbers were not finite, how many steps skipped

trust_kinds.py does the same for sequences, films of someone, sound and notes.
"""

import argparse
import io
import json
import os
import platform
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save_file  # a file without any entries

from kvae_nb.app.command import main as kvae
from kvae_nb.core.errors import InputError
from kvae_nb.core.files import atomic_write
from kvae_nb.data.films import from_simulation
from kvae_nb.data.opening import DataConfig, read_video_data, save_video_data
from kvae_nb.data.shards import open_shards, write_shards
from kvae_nb.models.kvae import KVAEConfig
from kvae_nb.training.checkpoints import FORMAT, read_checkpoint, same_checkpoint, save_tensors
from kvae_nb.training.config import TrainConfig, check_training
from kvae_nb.training.kinds import kind_names, kind_of
from kvae_nb.training.loop import fit
from kvae_nb.training.pretrained import WEIGHTS, read_pretrained
from kvae_nb.training.runs import RunConfig, build_model, load_run, read_config, write_config
from kvae_nb.worlds.balls import WORLDS, simulate

RESULT = Path(__file__).parent / "results" / "trust.json"
LIMIT = 20  # seconds of processor time for one file
SMALL = KVAEConfig(size=16, filters=4, alpha_units=8, learn_noise=True)


def damage(raw: bytes, rng: random.Random) -> bytes:
    "The bytes with one of several kinds of damage."
    n, at = len(raw), rng.randrange(len(raw) + 1)
    some = bytes(rng.randrange(256) for _ in range(rng.choice((1, 4, 64))))
    kind = rng.randrange(7)
    if kind == 0:  # cut off
        return raw[:at]
    if kind == 1:  # single bits, most of them near the beginning, where headers are
        out = bytearray(raw)
        for _ in range(rng.choice((1, 3, 30))):
            out[min(n - 1, int(rng.random() ** 3 * n))] ^= 1 << rng.randrange(8)
        return bytes(out)
    if kind == 2:  # something written over it
        return raw[:at] + some + raw[at + len(some) :]
    if kind == 3:  # something put in
        return raw[:at] + some + raw[at:]
    if kind == 4:  # a piece lost
        return raw[:at] + raw[at + rng.randrange(1, 1 + n // 2) :]
    if kind == 5:  # zeros, as after a crash of the machine
        return raw[:at] + bytes(max(0, n - at))
    other = rng.randrange(n)  # a piece from elsewhere
    return raw[:at] + raw[other : other + 200] + raw[at + 200 :]


class Late(BaseException):
    "It took too long."


@contextmanager
def limited(seconds: int):
    """Raises `Late` in the block after so many seconds of processor time, or ten times as many by the clock: the
    machine may be busy with other things.
    """

    def stop(*_):
        raise Late

    before = [(name, signal.signal(name, stop)) for name in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.alarm(10 * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for name, handler in before:
            signal.signal(name, handler)


def outcome(do) -> tuple[str, str]:
    "What became of it: refused, read, or a fault, with the message."
    try:
        with limited(LIMIT), redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            do()
    except InputError as error:
        text = str(error)
        return (
            ("refused", text)
            if text and "\n" not in text and len(text) < 1200 and text.endswith((".", ")"))
            else ("not one sentence", text)
        )
    except Late:
        return "too late", ""
    except Exception as error:
        return "another error", f"{type(error).__name__}: {error}"
    return "read", ""


def listing(folder: Path) -> dict:
    "Every file beneath, with its size."
    return {str(p.relative_to(folder)): p.stat().st_size for p in folder.rglob("*") if p.is_file()}


def tally(cases, there: Path) -> dict:
    "Counts of the outcomes of these (kind, what is damaged, read), and examples of faults."
    found, faults = {}, []
    for name, write, read in cases:
        write()
        before = listing(there)
        what, text = outcome(read)
        if listing(there) != before:
            what, text = "wrote something", str(listing(there).keys() ^ before.keys())
        found.setdefault(name, Counter())[what] += 1
        if what not in ("refused", "read") and len(faults) < 40:
            faults.append(f"{name}: {what}: {text[:300]}")
    return {"counts": {k: dict(v) for k, v in found.items()}, "faults": faults}


def samples(there: Path) -> dict:
    "One sound file of each kind, as (files, reader)."
    data = from_simulation(simulate("box", 4, 6, seed=1, size=16))
    save_video_data(there / "clips.npz", data)
    np.save(there / "clips.npy", data.frames[:, :, 0].numpy())
    write_shards(there / "shards", [data], clips=2)
    import imageio.v3 as iio

    frames = data.frames.flatten(0, 1)[:, 0].numpy()
    (there / "images").mkdir()
    for k, frame in enumerate(frames[:3]):
        iio.imwrite(there / "images" / f"{k}.png", frame)
    iio.imwrite(there / "film.gif", frames)
    iio.imwrite(
        there / "film.mp4", np.repeat(np.repeat(frames, 2, 1), 2, 2)[..., None].repeat(3, -1), plugin="FFMPEG", fps=10
    )
    config = RunConfig(
        data=DataConfig(sequences=8, steps=5, size=16, test=0.25, valid=0.25),
        model=SMALL,
        train=TrainConfig(epochs=1, batch_size=4, device="cpu", threads=1),
    )
    run = fit(config, there / "runs", quiet=True)
    shutil.copy(run / "checkpoints" / "last.safetensors", there / "checkpoint.safetensors")
    shutil.rmtree(there / "runs")
    (there / "weights.safetensors").write_bytes((WEIGHTS / "box.safetensors").read_bytes())
    video = lambda path: read_video_data(path, None, 16, 1)
    return {
        "clips.npz": (["clips.npz"], video),
        "clips.npy": (["clips.npy"], video),
        "film.gif": (["film.gif"], video),
        "film.mp4": (["film.mp4"], video),
        "images": ([f"images/{k}.png" for k in range(3)], video),
        "shards": (
            sorted(str(p.relative_to(there)) for p in (there / "shards").iterdir()),
            lambda p: open_shards(p)[:],
        ),
        "checkpoint.safetensors": (["checkpoint.safetensors"], read_checkpoint),
        "weights.safetensors": (["weights.safetensors"], read_pretrained),
    }


def damaged_files(kinds: dict, args, there: Path) -> dict:
    "Counts for files of these kinds (name -> files, reader), one of which is damaged at a time."
    rng = random.Random(args.seed)
    sound = {name: (there / name).read_bytes() for names, _ in kinds.values() for name in names}
    share = {"film.mp4": 0.1}  # each of these starts another program
    for kind, (_, read) in kinds.items():
        read(there / kind)  # undamaged it is read, or the counts would say nothing

    def cases():
        for kind, (names, read) in kinds.items():
            for _ in range(round(args.count * share.get(kind, 1))):
                name = rng.choice(names)
                yield kind, lambda: (there / name).write_bytes(damage(sound[name], rng)), lambda: read(there / kind)
                (there / name).write_bytes(sound[name])

    return tally(cases(), there)


def files(args, there: Path) -> dict:
    "Damaged files for every reader."
    return damaged_files(samples(there), args, there)


NONSENSE = [
    "",
    "null",
    "-1",
    "0",
    "1e400",
    ".nan",
    "-.inf",
    "true",
    "[]",
    "{}",
    "[1, 2]",
    "{a: 1}",
    "'a'",
    "'../../x'",
    str(2**70),
    "1e-320",
    "!!python/object/apply:os.system ['touch pwned']",
    "&a [*a]",
    "2026-11-21",
    "0x10",
    "'" + "x" * 500 + "'",
    "\x00",
    "*b",
    "%",
    "- 1",
    "3.7",
    "99999999",
]


def spoiled(text: str, rng: random.Random) -> bytes:
    "The YAML with one of several kinds of damage."
    lines, kind = text.splitlines(), rng.randrange(6)
    at = rng.randrange(len(lines))
    if kind == 0:
        return damage(text.encode(), rng)
    if kind == 1:
        del lines[at]
    elif kind == 2:
        lines[at] = "  " * rng.randrange(4) + lines[at].strip()
    elif kind == 3:
        lines[at] = lines[at].replace(":", rng.choice(("x:", "", "::", ": {", ": [")), 1)
    elif kind == 4:
        lines.insert(at, lines[rng.randrange(len(lines))])
    else:
        lines[at] = lines[at].partition(":")[0] + ": " + rng.choice(NONSENSE)
    return "\n".join(lines).encode("utf-8", "replace")


def configs(args, there: Path) -> dict:
    """Damaged configurations of every kind of model; those that are accepted build a model, if it is small enough, or
    are refused by it.
    """
    rng, path = random.Random(args.seed + 1), there / "config.yaml"
    texts = {name: yaml.safe_dump(asdict(kind_of(name).run()), sort_keys=False) for name in kind_names()}
    texts = {k: v.replace("emission: ''", "emission: categorical(4)") for k, v in texts.items()}  # found in the data

    def read():
        config = read_config(path)
        check_training(config.train)
        with torch.device("meta"):  # sizes without memory
            build_model(config)

    for text in texts.values():
        path.write_text(text)
        outcome(read)  # whole modules are imported only now; an alarm in the midst of that would leave half of them

    def cases():
        for kind, text in texts.items():
            for _ in range(args.count):
                yield kind, lambda: path.write_bytes(spoiled(text, rng)), read

    found = tally(cases(), there)
    assert not [*there.rglob("pwned")] and not Path("pwned").exists()
    return found


def child(do, *args) -> int:
    "A process of its own that does this and is silent; its number."
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1), os.dup2(null, 2)
        do(*args)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(pid: int) -> int:
    "How the process ended: its exit code, or minus the number of the signal."
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def unreadable(run: Path | None) -> list[str]:
    "The checkpoints of a run that cannot be read."
    files = [] if run is None else (run / "checkpoints").glob("*.safetensors")
    return [p.name for p in files if not p.name.startswith(".") and outcome(lambda: read_checkpoint(p))[0] != "read"]


def killed(config: RunConfig, args, there: Path, signals=(signal.SIGKILL,), ways=("last", "best")) -> dict:
    "A training ended by signals and resumed again and again, beside one left alone."
    fit(replace(config, train=replace(config.train, epochs=1)), there / "first", quiet=True)  # imports for the children
    started = time.perf_counter()
    assert ended(child(fit, config, there / "whole")) == 0
    whole, alone = next((there / "whole").iterdir()), time.perf_counter() - started
    rng, shots, broken, run, when = random.Random(args.seed), 0, [], None, Counter()
    while shots < args.kills:
        pid = child(fit, config, there / "shot") if run is None else child(lambda: fit(resume=run))
        time.sleep(rng.uniform(0, 0.5 + 3 * (alone / args.epochs)))
        os.kill(pid, signals[shots % len(signals)])
        code = ended(pid)
        if code == 0:  # it was finished before: go back to where it was, so that there is something to kill
            shutil.rmtree(there / "shot")
            run = None
            continue
        shots += 1
        runs = sorted((there / "shot").glob("*/config.yaml"))
        run = runs[0].parent if runs else None
        if run is None:
            shutil.rmtree(there / "shot", ignore_errors=True)
        last = None if run is None else run / "checkpoints" / "last.safetensors"
        when[read_checkpoint(last)[1].epoch if last and last.exists() else "before the first checkpoint"] += 1
        broken += unreadable(run)
    assert ended(child(lambda: fit(resume=run) if run else fit(config, there / "shot"))) == 0
    run = run or next((there / "shot").iterdir())
    same = {n: same_checkpoint(*(r / "checkpoints" / f"{n}.safetensors" for r in (whole, run))) for n in ways}
    return {
        "kills": shots,
        "epochs": args.epochs,
        "seconds_alone": round(alone, 1),
        "checkpoint_when_killed": {str(k): v for k, v in sorted(when.items(), key=str)},
        "unreadable_checkpoints": broken,
        "same": same,
        "temporary_files_left": len([p for p in run.rglob(".*") if p.is_file()]),
    }


def kills(args, there: Path) -> dict:
    "A training killed and resumed again and again, and one left alone."
    train = TrainConfig(epochs=args.epochs, batch_size=8, device="cpu", threads=1)
    config = RunConfig(data=DataConfig(sequences=32, steps=8, size=16), model=SMALL, train=train)
    return killed(config, args, there)


def smallest(epochs: int = 1) -> RunConfig:
    "A training of seconds."
    train = TrainConfig(epochs=epochs, batch_size=8, device="cpu", threads=1)
    return RunConfig(data=DataConfig(sequences=16, steps=6, size=16), model=SMALL, train=train)


def without_space(limit: int, words: list[str], log: Path) -> tuple[int, str]:
    "Exit code and words of the command where no file may grow beyond `limit` bytes, as on a full disk."

    def go():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        os._exit(kvae(words))

    return ended(child(go)), log.read_text()


def said(text: str) -> str:
    "Whether what stands on the error stream is one sentence."
    one = len([line for line in text.splitlines() if line.startswith("kvae: ")]) == 1 and "Traceback" not in text
    return "one sentence" if one else "TRACEBACK OR SILENCE: " + " ".join(text.split())[-200:]


def filled(config: RunConfig, args, there: Path) -> dict:
    "The disk is full at a random moment while this run, which has had one epoch, goes on."
    run = fit(config, there / "runs", quiet=True)
    write_config(replace(config, train=replace(config.train, epochs=4)), run / "config.yaml")
    last = run / "checkpoints" / "last.safetensors"
    old, size, found = last.read_bytes(), last.stat().st_size, Counter()
    rng = random.Random(args.seed)
    for _ in range(args.disks):
        code, text = without_space(rng.randrange(20, size), ["train", "--resume", str(run)], there / "said")
        found["old checkpoint whole" if last.read_bytes() == old else "OLD CHECKPOINT CHANGED"] += 1
        found[f"exit code {code}"] += 1
        found[said(text)] += 1
        found["nothing half written"] += not [p for p in run.rglob(".*") if p.is_file()]
        last.write_bytes(old)
    return {"times": args.disks, **found}


def disk(args, there: Path) -> dict:
    "A file may not grow beyond some size while a run goes on: as on a full disk, writing fails half way."
    return filled(smallest(), args, there)


def twice(config: RunConfig, there: Path, pairs: int = 5) -> dict:
    "Trainings started at the same moment in the same folder."
    codes, equal = [], []
    for k in range(pairs):
        pids = [child(fit, config, there / str(k)) for _ in range(2)]
        codes += [ended(p) for p in pids]
        runs = sorted((there / str(k)).iterdir())
        equal.append(len(runs) == 2 and same_checkpoint(*(r / "checkpoints" / "last.safetensors" for r in runs)))
    counted = dict(Counter(map(str, codes)))
    return {"pairs": pairs, "two complete and equal runs": sum(equal), "exit codes": counted}


def twins(args, there: Path) -> dict:
    "Two trainings at the same moment."
    return twice(smallest(), there)


def versions(args, there: Path) -> dict:
    "Checkpoints that say they are of another format, or of none, or lack what one needs."
    run = fit(smallest(), there / "runs", quiet=True)
    path, progress = run / "checkpoints" / "last.safetensors", None
    tensors = load_file(path)
    from safetensors import safe_open

    with safe_open(path, "pt") as f:
        progress = f.metadata()["progress"]
    metas = {
        "format 1": {"format": "kvae_nb checkpoint 1", "progress": progress},
        "format 2": {"format": "kvae_nb checkpoint 2", "progress": progress},
        "format 99": {"format": "kvae_nb checkpoint 99", "progress": progress},
        "no format": None,
        "weights": {"format": "kvae_nb weights 1"},
        "no progress": {"format": FORMAT},
        "progress is no JSON": {"format": FORMAT, "progress": "{"},
        "progress is a list": {"format": FORMAT, "progress": "[]"},
        "progress with a new field": {"format": FORMAT, "progress": progress[:-1] + ', "mood": 1}'},
    }
    found = {}
    for name, meta in metas.items():
        save_file(tensors, path) if meta is None else save_tensors(path, tensors, meta)
        found[name] = [outcome(lambda: load_run(run, "last"))[0], outcome(lambda: fit(resume=run, quiet=True))[0]]
    return found


def many_seeds(made: dict, args, there: Path) -> dict:
    "Trainings (name -> configuration for a seed) with many seeds: what was not finite, what was skipped."
    found, trouble = {}, []
    for name, config in made.items():
        count = Counter()
        for seed in range(args.seeds):
            out, task = there / f"{name}{seed}".replace(" ", "_"), config(seed)
            task = replace(task, train=replace(task.train, seed=seed))
            what, text = outcome(lambda: fit(task, out, quiet=True))
            count["trained" if what == "read" else what] += 1
            if what == "read":
                count.update(numbers_of(next(out.iterdir())))
                shutil.rmtree(out)
            else:
                trouble.append(f"{name} {seed}: {what} {text}")
        found[name] = dict(count)
    return {"seeds": args.seeds, "worlds": found, "trouble": trouble}


def numbers_of(run: Path) -> dict:
    "Steps of a run, and how many of its numbers are not finite."
    numbers = json.loads((run / "metrics.json").read_text())
    weights = read_checkpoint(run / "checkpoints" / "last.safetensors")[0].values()
    bounds = [v for e in numbers["history"] for s in ("train", "valid") for v in e[s].values()]
    return {
        "steps": numbers["step"],
        "steps skipped": numbers["skipped"],
        "weights not finite": sum((~v.isfinite()).sum().item() for v in weights),
        "bounds not finite": sum(not np.isfinite(v) for v in bounds),
    }


def worlds(args, there: Path) -> dict:
    "Small trainings in every world with many seeds."

    def small(world: str, seed: int) -> RunConfig:
        data = DataConfig(world=world, sequences=64, steps=12, size=16, simulate_seed=seed)
        return RunConfig(data, SMALL, TrainConfig(epochs=2, batch_size=16, device="cpu", threads=1))

    return many_seeds({world: partial(small, world) for world in WORLDS}, args, there)


PARTS = {f.__name__: f for f in (files, configs, kills, disk, twins, versions, worlds)}


def asked(parts: dict, result: Path, about: str, **defaults) -> argparse.Namespace:
    "What was asked for on the command line."
    p = argparse.ArgumentParser(description=about)
    p.add_argument("parts", nargs="*", help=f"some of: {', '.join(parts)} (default: all)")
    p.add_argument("--count", type=int, default=500, help="damaged files and configurations of each kind")
    p.add_argument("--kills", type=int, default=50, help="how often a training is killed")
    p.add_argument("--epochs", type=int, default=30, help="of that training")
    p.add_argument("--disks", type=int, default=20, help="how often the disk is full")
    p.add_argument("--seeds", type=int, default=20, help="in each world")
    p.add_argument("--seed", type=int, default=0, help="of the damage and of the moments")
    p.add_argument("--json", default=str(result), help="where the counts go")
    p.set_defaults(**defaults)
    return p.parse_args()


def tried(parts: dict, args):
    "Runs the parts and writes what was found after each."
    torch.set_num_threads(1)
    path = Path(args.json)
    for name in args.parts or parts:
        results = json.loads(path.read_text()) if path.exists() else {}
        with tempfile.TemporaryDirectory() as there:
            started = time.perf_counter()
            found = parts[name](args, Path(there))
        settings = {k: getattr(args, k) for k in ("count", "kills", "epochs", "disks", "seeds", "seed")}
        words = " ".join(f"--{k} {v}" for k, v in settings.items())
        results[name] = {
            **found,
            "command": f"python experiments/{Path(sys.argv[0]).name} {name} {words}",
            "duration_s": round(time.perf_counter() - started, 1),
            "machine": platform.machine(),
            "torch": torch.__version__,
        }
        with atomic_write(path) as tmp:
            tmp.write_text(json.dumps(results, indent=1) + "\n")
        print(name, json.dumps(results[name], indent=1), flush=True)


if __name__ == "__main__":
    tried(PARTS, asked(PARTS, RESULT, __doc__.splitlines()[0]))
