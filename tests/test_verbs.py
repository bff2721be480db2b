"""The command as its users meet it: nothing is lost, nothing is dropped in silence, and a number says what it means."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from kvae_nb.app.command import main
from kvae_nb.app.verbs import parse
from kvae_nb.data.sequences import load_sequences

SMALL = (
    "--preset demo --data.steps 8 --data.size 16 --model.filters 4 --model.alpha_units 8 --train.batch_size 8 "
    "--train.device cpu --train.threads 1 --train.picture_every 0 --epochs 1 --out runs"
)
QUICK = "--measure.gaps [3] --measure.drops [.5] --measure.generate_count 2 --measure.generate_steps 4"


def kvae(line, capsys=None):
    "Exit code, and what was written on both streams."
    code = main(line.split())
    out, err = capsys.readouterr() if capsys else ("", "")
    return code, out, err


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "A folder with films, a trained run of them, and a grey film."
    folder, before = tmp_path_factory.mktemp("home"), os.getcwd()
    os.chdir(folder)
    assert main("simulate --sequences 40 --steps 8 --size 16 --out c.npz".split()) == 0
    assert main(f"train --data c.npz {SMALL}".split()) == 0
    next(Path("runs").iterdir()).rename("run")
    os.chdir(before)
    return folder


@pytest.fixture
def here(home, tmp_path, monkeypatch):
    "A fresh folder with links to the run's files copied into it."
    import shutil

    shutil.copytree(home / "run", tmp_path / "run")
    shutil.copy(home / "c.npz", tmp_path / "c.npz")
    started = tmp_path / "run" / "started.json"
    started.write_text(
        json.dumps(json.loads(started.read_text()) | {"folder": str(tmp_path)})
    )  # or the run would find its data where it was made
    monkeypatch.chdir(tmp_path)
    return tmp_path


def grey_film(path, low=20, high=90):
    "A dark spot that goes round, in sixty frames of grey levels."
    t, (y, x) = np.arange(160)[:, None, None], np.mgrid[:16, :16]
    near = np.hypot(x - 8 - 4 * np.sin(t / 7), y - 8 - 4 * np.cos(t / 7)) < 3
    np.savez(path, images=np.where(near, high, low).astype(np.uint8).reshape(20, 8, 16, 16))


# what is there stays there


@pytest.mark.parametrize("link", ["same", "symbolic", "hard", "dotted"])
def test_an_input_is_never_the_output(here, capsys, link):
    before = (here / "c.npz").read_bytes()
    name = {"same": "c.npz", "symbolic": "s.npz", "hard": "h.npz", "dotted": "./run/../c.npz"}[link]
    if link == "symbolic":
        os.symlink("c.npz", "s.npz")
    if link == "hard":
        os.link("c.npz", "h.npz")
    code, _, err = kvae(f"impute run --data c.npz --gap 4:6 --out {name} --force", capsys)
    assert code == 2 and "destroy" in err and (here / "c.npz").read_bytes() == before


@pytest.mark.parametrize(
    "line, file",
    [
        ("simulate --sequences 4 --steps 8 --size 16 --out x.npz", "x.npz"),
        ("impute run --data c.npz --gap 4:6 --out x.npz", "x.npz"),
        ("impute run --data c.npz --gap 4:6 --out x.npz", "x.png"),
        ("generate run --steps 2 --count 1 --out x", "x/generated.npz"),
        ("generate run --steps 2 --count 1 --out x", "x/generated.gif"),
        (f"evaluate run {QUICK} --json x.json", "x.json"),
        (f"evaluate run {QUICK} --out x", "x/evaluation.json"),
        (f"evaluate run {QUICK} --out x", "x/curves.csv"),
    ],
)
def test_every_verb_asks_before_it_replaces(here, capsys, line, file):
    path = here / file
    path.parent.mkdir(exist_ok=True)
    path.write_text("precious")
    tick = time.perf_counter()
    code, _, err = kvae(line, capsys)
    assert code == 2 and "--force" in err and path.read_text() == "precious" and time.perf_counter() - tick < 5
    assert kvae(f"{line} --force", capsys)[0] == 0 and path.read_bytes() != b"precious"


def test_simulated_films_are_made_again_and_only_those_are_replaced(here, capsys):
    line = "simulate --sequences 2 --steps 3 --size 16 --out {}"
    code, out, _ = kvae(line.format("c.npz"), capsys)
    assert code == 0 and "in the place of earlier simulated films" in out
    np.savez("own.npz", images=np.load("c.npz")["images"])
    os.symlink("c.npz", "link.npz")
    for name in ("own.npz", "link.npz"):
        assert kvae(line.format(name), capsys)[0] == 2


def test_evaluate_renews_its_own_results_and_says_so(here, capsys):
    assert "in the place of" not in kvae(f"evaluate run {QUICK}", capsys)[1]
    assert "in the place of earlier results" in kvae(f"evaluate run {QUICK}", capsys)[1]
    assert {"latents.png", "curves.csv", "evaluation.json"} < set(os.listdir("run"))


def test_results_never_follow_a_link_out_of_the_run(here, capsys):
    (here / "elsewhere").write_text("precious")
    os.symlink(here / "elsewhere", here / "run" / "curves.png")
    code, _, err = kvae(f"evaluate run {QUICK}", capsys)
    assert code == 2 and "leads out" in err and (here / "elsewhere").read_text() == "precious"


# by how many particles


def test_particles_are_used_said_and_stored(here, capsys):
    for n in (0, 8):
        said = f"by {n} particles" if n else "without particles"
        code, out, _ = kvae(f"evaluate run {QUICK} --measure.particles {n}", capsys)
        assert (
            code == 0 and said in out and json.loads((here / "run" / "evaluation.json").read_text())["particles"] == n
        )
        code, out, _ = kvae(f"impute run --data c.npz --gap 4:6 --particles {n} --out x{n}.npz", capsys)
        assert code == 0 and said in out and ("paths" in np.load(here / f"x{n}.npz")) == (n > 0)


@pytest.mark.parametrize("n", ["-2", "many", "2.5", "100000"])
def test_a_wrong_number_of_particles_is_refused(here, capsys, n):
    for line in (
        f"evaluate run {QUICK} --measure.particles {n}",
        f"impute run --data c.npz --gap 4:6 --particles {n} --out x.npz",
    ):
        code, _, err = kvae(line, capsys)
        assert code == 2 and "particles" in err and err.count("\n") == 1 and not (here / "x.npz").exists()


def test_a_model_without_particles_says_so(here, capsys):
    assert kvae(f"train --model rnn --data c.npz {SMALL.replace('alpha_units', 'rnn_units')}")[0] == 0
    run = next(Path("runs").iterdir())
    for line in (
        f"evaluate {run} {QUICK} --measure.particles 8",
        f"impute {run} --data c.npz --gap 4:6 --particles 8 --out x.npz",
    ):
        code, _, err = kvae(line, capsys)
        assert code == 2 and "without particles" in err and err.count("\n") == 1
    assert kvae(f"impute {run} --data c.npz --gap 4:6 --out x.npz", capsys)[0] == 0


# held out means held out


def test_a_changed_training_file_is_not_measured(here, capsys):
    assert kvae("simulate --sequences 40 --steps 8 --size 16 --seed 9 --out c.npz --force", capsys)[0] == 0
    code, _, err = kvae(f"evaluate run {QUICK}", capsys)
    assert code == 2 and "changed" in err
    code, out, _ = kvae(f"evaluate run --data c.npz {QUICK}", capsys)  # as other films, which were asked for by name
    assert code == 0 and "held-out" not in out and "40 clips" in out


def test_the_training_file_named_is_its_held_out_part_also_from_elsewhere(here, capsys, monkeypatch):
    assert "held-out part: 4 clips" in kvae(f"evaluate run --data c.npz {QUICK}", capsys)[1]
    (here / "sub").mkdir()
    monkeypatch.chdir(here / "sub")
    assert "held-out part: 4 clips" in kvae(f"evaluate ../run --data ../c.npz {QUICK}", capsys)[1]
    code, out, err = kvae(f"evaluate ../run {QUICK}", capsys)
    assert code == 0 or str(here) in err


def test_overlapping_clips_of_the_training_film_are_recognised(here, capsys):
    grey_film("film.npz")
    frames = np.load("film.npz")["images"].reshape(1, 160, 16, 16)
    np.savez("long.npz", images=frames)
    assert kvae(f"train --data long.npz --data.stride 4 {SMALL}", capsys)[0] == 0
    assert "held-out part" in kvae(f"evaluate --data long.npz {QUICK}", capsys)[1]


# numbers that mean what they say


def test_grey_films_are_measured_in_grey_levels(here, capsys):
    grey_film("grey.npz")
    assert kvae(f"train --data grey.npz {SMALL}", capsys)[0] == 0  # no flag says that it is grey
    code, out, err = kvae(f"evaluate --data grey.npz {QUICK} --json g.json", capsys)
    found = json.loads(Path("g.json").read_text())
    row = found["imputation"]["gap"]["3"]
    assert code == 0 and found["pixels"] == "grey levels" and found["generation"] is None
    assert (
        row["smoothing"]
        == row["pixel_interpolation"]
        == 0
        < row["rms"]["pixel_interpolation"]
        < row["rms"]["smoothing"]
    )  # a threshold sees nothing, and no model was learnt
    assert "grey levels" in out and "MSE" in out and "nothing hidden" in out
    best = min(("copy_last", "pixel_interpolation"), key=row["rms"].get)
    name = {"copy_last": "repeating the last frame", "pixel_interpolation": "interpolating pixels"}[best]
    assert (
        f"{name} is better on these films in gaps of 3: {row['rms'][best]:.1f} against {row['rms']['smoothing']:.1f}"
        in out
    )


def test_pixel_interpolation_is_that_of_numpy():
    from kvae_nb.data.films import VideoData, mask_gap
    from kvae_nb.evaluation.imputation import imputation_errors
    from kvae_nb.models.kvae import KVAE, KVAEConfig

    frames = torch.randint(0, 256, (3, 9, 1, 16, 16), dtype=torch.uint8)
    found = imputation_errors(
        KVAE(KVAEConfig(size=16, filters=4, alpha_units=8, pixels="gaussian")).eval(),
        VideoData(frames),
        mask_gap(3, 9, 4, 3),
    )
    x = frames.double().flatten(2).numpy()
    line = x[:, 3:4] + (x[:, 7:8] - x[:, 3:4]) * np.array([1, 2, 3])[:, None] / 4
    assert found.rms["pixel_interpolation"] == pytest.approx(np.sqrt(((line - x[:, 4:7]) ** 2).mean()), rel=1e-5)
    assert found.rms["copy_last"] == pytest.approx(np.sqrt(((x[:, 3:4] - x[:, 4:7]) ** 2).mean()), rel=1e-5)


def test_one_step_and_nothing_hidden_are_independent_of_the_gap():
    from kvae_nb.data.films import VideoData, mask_gap
    from kvae_nb.evaluation.imputation import imputation_errors
    from kvae_nb.evaluation.scores import one_hidden
    from kvae_nb.models.kvae import KVAE, KVAEConfig

    torch.manual_seed(1)
    model, data = (
        KVAE(KVAEConfig(size=16, filters=4, alpha_units=8)).eval(),
        VideoData((torch.rand(4, 8, 1, 16, 16) > 0.5).to(torch.uint8) * 255),
    )
    x = data.frames.float() / 255
    again = ((model.decode(model.encode(x)) > 0.5) != (x > 0.5)).double().mean((2, 3, 4))
    for mask in (mask_gap(4, 8, 4, 3), one_hidden(4, 8)):
        assert imputation_errors(model, data, mask).reconstruction == pytest.approx(
            again[~mask].mean().item(), abs=1e-7
        )
    early = model.impute(x[:1, :5], torch.tensor([[True] * 4 + [False]])).filtered.frames[
        :, 4
    ]  # what the filter expects of frame 4, which film 0 hides
    assert imputation_errors(model, data[:1], one_hidden(1, 8)).filtering == pytest.approx(
        ((early > 0.5) != (x[:1, 4] > 0.5)).double().mean().item(), abs=1e-7
    )


PLANTED = {
    "empty room": lambda films, room: room.expand_as(films).clone(),
    "ball vanished": lambda films, room: torch.cat([films[:, :4], room.expand_as(films[:, 4:])], 1),
    "two balls": lambda films, room: torch.maximum(films, films.flip(0)),
    "stuck in the wall": lambda films, room: (
        torch.maximum(
            room,
            torch.zeros_like(room).index_fill(3, torch.arange(13, 20), 1.0).index_fill(4, torch.arange(0, 25), 0.0),
        )
        .expand_as(films)
        .clone()
    ),
    "noise": lambda films, room: (torch.rand(films.shape, generator=torch.Generator().manual_seed(0)) < 0.14).float(),
    "black": lambda films, room: torch.zeros_like(films),
    "white": lambda films, room: torch.ones_like(films),
}


@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.parametrize("world", ["box", "gravity"])
def test_planted_failures_of_generation_are_found(kind, world):
    from kvae_nb.evaluation.checks import generation_check
    from kvae_nb.worlds.balls import simulate

    real = torch.from_numpy(simulate(world, 40, 20, seed=2).images)[:, :, None].float() / 255
    room = real.flatten(0, 1).min(0).values[None, None]
    new = PLANTED[kind](real[:20], room)
    if kind == "two balls":
        new = new[
            (real[:20] * real[:20].flip(0)).sum((1, 2, 3, 4)) <= room.sum() * 20 + 1
        ]  # films whose balls never meet
    assert generation_check(real[:20], real).intact > 0.97
    assert generation_check(new, real).intact_end < 0.05, kind


def test_a_frozen_film_is_intact_and_still():
    from kvae_nb.evaluation.checks import generation_check
    from kvae_nb.worlds.balls import simulate

    real = torch.from_numpy(simulate("box", 40, 20, seed=2).images)[:, :, None].float() / 255
    found = generation_check(real[:, 3:4].expand_as(real), real)
    assert found.intact > 0.97 and found.speed == 0 < 1 < found.speed_data


def test_models_that_do_not_know_the_films_say_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert kvae("simulate --world pong --sequences 4 --steps 20 --out pong.npz", capsys)[0] == 0
    for line in (
        "impute box --data {} --gap 4:8 --out f.npz --force",
        "generate box --data {} --steps 2 --count 2 --out g --force",
        f"evaluate box --data {{}} --measure.sequences 4 {QUICK}",
    ):
        for film, foreign in (("pong.npz", True), ("sample", False)):
            code, _, err = kvae(line.format(film), capsys)
            assert code == 0 and ("constant image" in err) == foreign, (line, film, err)


def test_leaks_name_the_output_at_fault():
    from kvae_nb.evaluation.checks import future_leak, hidden_frames_leak
    from kvae_nb.models.kvae import KVAE, KVAEConfig

    class Peeks(KVAE):
        def impute(self, x, mask=None, u=None):
            honest, all_seen = super().impute(x, mask, u), super().impute(x.nan_to_num(1.0), torch.ones_like(mask), u)
            z = honest.smoothed.z._replace(mean=all_seen.smoothed.z.mean)
            return honest._replace(smoothed=honest.smoothed._replace(z=z), filtered=honest.smoothed)

    torch.manual_seed(0)
    model, x = Peeks(KVAEConfig(size=16, filters=4, alpha_units=8)).eval(), torch.rand(2, 8, 1, 16, 16)
    mask = torch.ones(2, 8, dtype=torch.bool)
    mask[:, 5] = False
    hidden, future = hidden_frames_leak(model, x, mask), future_leak(model, x, mask, (3, 6))
    assert hidden.output == "smoothed.z.mean" and hidden > 0 and hidden.changes["filtered.frames"] == 0
    assert (
        future.output.startswith("filtered.")
        and future > 0
        and future.changes.keys() == {"filtered." + k for k in ("frames", "a.mean", "a.cov", "z.mean", "z.cov")}
    )


def test_the_callers_dice_stay_where_they_are():
    from kvae_nb.data.films import from_simulation
    from kvae_nb.evaluation.probes import continue_films
    from kvae_nb.evaluation.report import EvaluationConfig, evaluate, leaks
    from kvae_nb.models.kvae import KVAE, KVAEConfig
    from kvae_nb.worlds.balls import simulate

    data, model = (
        from_simulation(simulate("box", 6, 8, size=16, radius=5, seed=1)),
        KVAE(KVAEConfig(size=16, filters=4, alpha_units=8)).eval(),
    )
    state = lambda: (
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),
    )  # python's own are moved by the checking of annotations
    before = state()
    evaluate(model, data, EvaluationConfig(gaps=(3,), drops=(0.5,), generate_steps=3, generate_count=2))
    leaks(model, data), continue_films(model, data, 3, 2)
    assert state() == before


# nothing is dropped in silence


@pytest.mark.parametrize("words", ["3,2", "3 2", "[3,2]", "[3, 2]"])
def test_lists_as_the_help_shows_them(words):
    assert parse(["evaluate", "--measure.gaps", *words.split(), "--measure.drops=.5"])[1].measure.gaps == (3, 2)


def test_what_measures_nothing_is_said(here, capsys):
    code, out, _ = kvae(f"evaluate run {QUICK} --measure.gaps 3 7", capsys)
    assert code == 0 and "not measured: gap 7" in out
    code, _, err = kvae("evaluate run --measure.gaps 7 --measure.drops []", capsys)
    assert code == 2 and "gap 7" in err


@pytest.mark.parametrize(
    "flags",
    [
        "--measure.gaps 0",
        "--measure.gaps -3",
        "--measure.drops 0",
        "--measure.drops 1.5",
        "--measure.threshold 2",
        "--measure.seed 18446744073709551616",
        "--measure.samples 0",
        "--measure.generate_steps 1000000000",
    ],
)
def test_measures_that_make_no_sense(here, capsys, flags):
    code, _, err = kvae(f"evaluate run {flags}", capsys)
    assert code == 2 and len(err.strip().splitlines()) == 1 and "Traceback" not in err


@pytest.mark.parametrize(
    "line",
    [
        "simulate --steps 1000000000 --out y.npz",
        "simulate --steps 1e9 --out y.npz",
        "simulate --sequences 100000000 --out y",
        "simulate --seed 18446744073709551616 --out y.npz",
        "simulate --seed -1 --out y.npz",
        "generate run --steps 1000000000 --out y",
        "generate run --steps 1e9 --out y",
        "generate run --count 1000000000 --out y",
        "generate run --seed 18446744073709551616 --out y",
        "impute run --data c.npz --drop .5 --seed 18446744073709551616 --out y.npz",
        "impute run --data c.npz --drop nan --out y.npz",
        "train --data c.npz --data.size 0 --out y",
        "train --data c.npz --seed 18446744073709551616 --out y",
        "train --data c.npz --epochs 100000000000000000000 --out y",
        "train --data c.npz --epochs 1e20 --out y",
    ],
)
def test_absurd_numbers_are_refused_at_once(here, capsys, line):
    tick = time.perf_counter()
    code, _, err = kvae(line, capsys)
    assert (
        code == 2
        and len(err.strip().splitlines()) == 1
        and time.perf_counter() - tick < 10
        and not list(here.glob("y*"))
    )


def test_flags_beside_resume_are_changes(here, capsys):
    assert kvae("train --resume run --epochs 2 --train.lr .002", capsys)[0] == 0
    assert (
        json.loads(Path("run/metrics.json").read_text())["epoch"] == 2
        and "lr: 0.002" in Path("run/config.yaml").read_text()
    )
    for wrong in ("--epochs 1", "--model.dim_z 7", "--preset demo", "--start run", "--out elsewhere", "--model skvae"):
        code, _, err = kvae(f"train --resume run {wrong}", capsys)
        assert code == 2 and len(err.strip().splitlines()) == 1, wrong


def test_a_run_can_start_from_another_ones_weights(here, capsys):
    from kvae_nb.training.runs import load_run

    assert kvae(f"train --data c.npz {SMALL} --start run --train.lr 1e-9", capsys)[0] == 0
    old, new = load_run("run", "last"), load_run(next(Path("runs").iterdir()), "last")
    assert all((a - b).abs().max() < 1e-4 for a, b in zip(old.model.parameters(), new.model.parameters()))


def test_no_noise_is_the_same_each_time(here, capsys):
    films = []
    for seed in (0, 1):
        assert kvae(f"generate run --steps 3 --count 2 --noise false --seed {seed} --out g{seed}", capsys)[0] == 0
        films.append(np.load(f"g{seed}/generated.npz")["frames"])
    assert (films[0] == films[1]).all()
    assert (
        kvae("generate run --steps 3 --count 2 --seed 1 --out g2", capsys)[0] == 0
        and not (np.load("g2/generated.npz")["frames"] == films[1]).all()
    )


def test_what_was_read_is_said(here, capsys):
    for line in (
        "impute run --data c.npz --gap 4:6 --out x.npz",
        "generate run --data c.npz --steps 2 --count 1 --out x",
        f"evaluate run {QUICK}",
    ):
        assert "clips of 8 frames, 16×16, grey" in kvae(line, capsys)[1]
    assert iio.imread("x.png").ndim == 3


# files of strangers


BOMB = (
    "a: &a ["
    + "1," * 9
    + "1]\n"
    + "".join(f"{chr(98 + k)}: &{chr(98 + k)} [{','.join(['*' + chr(97 + k)] * 9)}]\n" for k in range(8))
)


@pytest.mark.parametrize(
    "line",
    [
        "train --config bomb.yaml",
        "train --train bomb.yaml",
        "train --train.beta bomb.yaml",
        "train --model bomb.yaml",
        "generate run --steps 2 --count 1 --out y",
        "train --resume run",
        "evaluate run",
    ],
)
@pytest.mark.parametrize("text", [BOMB, "[" * 5000, "\x00\x01kind", "kind: [kvae"])
def test_yaml_that_could_be_a_trap(here, capsys, line, text):
    (here / "bomb.yaml").write_text(text)
    (here / "run" / "config.yaml").write_text(text)
    tick = time.perf_counter()
    code, _, err = kvae(line, capsys)
    assert (
        code == 2 and len(err.strip().splitlines()) == 1 and "Traceback" not in err and time.perf_counter() - tick < 5
    )


# signals, pipes and terminals


def process(*words, **env):
    "The program in a process of its own."
    return subprocess.Popen(
        [sys.executable, "-c", "import sys; from kvae_nb.app.command import main; sys.exit(main())", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | env,
    )


@pytest.mark.parametrize(
    "start", [("-c", "import sys; from kvae_nb.app.command import main; sys.exit(main())"), ("-m", "kvae_nb.app.cli")]
)
def test_interrupted_while_it_loads(start):
    p = subprocess.Popen(
        [sys.executable, *start, "train", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    time.sleep(0.5)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=300)
    assert (p.returncode, err) == (130, "kvae: interrupted.\n")


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ended_in_an_epoch(home, tmp_path, number, code):
    p = process(
        "train",
        "--data",
        str(home / "c.npz"),
        *SMALL.replace("--epochs 1", "--epochs 100000").replace("--out runs", f"--out {tmp_path}").split(),
    )
    for _ in range(600):
        found = [f.with_name("metrics.json") for f in tmp_path.glob("*/log.txt") if "epoch 1/" in f.read_text()]
        if found:
            break
        time.sleep(0.2)
    p.send_signal(number)
    out, err = p.communicate(timeout=300)
    assert (
        p.returncode == code and "Traceback" not in err and "running" not in json.loads(found[0].read_text())["status"]
    )
    if number == signal.SIGINT:
        assert f"kvae train --resume {found[0].parent}" in err.strip().splitlines()[-1]


def test_ascii_terminals_and_closed_pipes():
    for words in (["train", "--help"], []):
        p = process(*words, PYTHONIOENCODING="ascii")
        out, err = p.communicate(timeout=300)
        assert p.returncode == 0 and out and "Traceback" not in err
    p = process("train", "--help")
    p.stdout.close()
    assert p.wait(300) in (141, 0) and "Traceback" not in p.stderr.read()


# devices and gradients


def test_float64_only_on_the_cpu():
    import kvae_nb.evaluation

    for module in Path(kvae_nb.evaluation.__file__).parent.glob("*.py"):
        for line in module.read_text().splitlines():
            assert line.count(".double()") == line.count(".cpu().double()"), line  # MPS has no float64


def test_every_plot_takes_what_requires_gradients():
    from matplotlib.figure import Figure

    from kvae_nb.evaluation import plots
    from kvae_nb.evaluation.videos import video_rows

    ax = lambda: Figure().add_subplot()
    frames, mask = torch.rand(6, 1, 8, 8, requires_grad=True), torch.tensor([True, True, False, True, True, True])
    path, one = torch.rand(6, 2, requires_grad=True), torch.ones(6, requires_grad=True)
    cov = torch.eye(2).expand(6, 2, 2) * one[:, None, None]
    plots.plot_imputation(ax(), frames, frames, frames, mask)
    plots.plot_strip(ax(), frames)
    plots.plot_trajectory(ax(), path), plots.plot_latent(ax(), path, one), plots.plot_alpha(ax(), path.softmax(-1))
    plots.plot_ellipses(ax(), path, cov)
    plots.plot_gap_curves(ax(), one.cumsum(0), {"smoothing": one})
    plots.plot_curves(ax(), {"step": list(one), "valid": list(one)}, ["valid"])
    assert video_rows([frames, frames], mask).dtype == np.uint8


# sequences of something else than films

SONGS = (
    "--model.rnn_units [12] --model.encoder [12] --model.decoder [12] --model.latent_layers [12] --model.dim_z 3 "
    "--train.threads 1 --train.device cpu --train.batch_size 8 --train.picture_every 1 --epochs 2"
)


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    "A folder with music and a text, and a trained run of each, and of the toy game."
    folder, before = tmp_path_factory.mktemp("studio"), os.getcwd()
    os.chdir(folder)
    from kvae_nb.data.midi import write_midi

    rng = np.random.default_rng(0)
    rolls = np.zeros((24, 16, 88), np.float32)
    rolls[np.arange(24)[:, None], np.arange(16), rng.integers(30, 60, (24, 16))] = 1
    np.savez("music.npz", x=rolls, lengths=rng.integers(12, 17, 24))
    write_midi("my.mid", rolls[0] > 0, grid=1)
    Path("my.txt").write_text("one two three, four five six. " * 40)
    for kind, rest in (
        ("srnn", "--preset numbers --data music.npz"),
        ("arnn", "--preset text --data my.txt --data.steps 20"),
        ("dmm", "--preset game --data.sequences 60 --data.valid 0.1"),
    ):
        assert main(f"train --model {kind} {rest} {SONGS} --out {kind}".split()) == 0
        next(Path(kind).iterdir()).rename(f"run_{kind}")
    os.chdir(before)
    return folder


@pytest.fixture
def room(studio, tmp_path, monkeypatch):
    "A copy of that folder."
    import shutil

    shutil.copytree(studio, tmp_path / "room")
    monkeypatch.chdir(tmp_path / "room")
    return tmp_path / "room"


def test_music_is_measured_beside_baselines(room, capsys):
    code, out, err = kvae("evaluate run_srnn --measure.particles 4", capsys)
    assert code == 0, err
    assert "the held-out part: " in out and "IWAE, 4 paths" in out and "Markov chains" in out
    found = json.loads((room / "run_srnn" / "evaluation.json").read_text())
    assert found["elbo"]["per_step"] <= found["iwae"]["per_step"] + 0.1 and len(found["kl_per_unit"]) == 3
    code, out, _ = kvae("evaluate run_srnn --data my.mid --measure.particles 2 --out other", capsys)
    assert code == 0 and "my.mid: 1 sequence" in out and (room / "other" / "evaluation.json").exists()


def test_symbols_are_measured_in_bits(room, capsys):
    code, out, _ = kvae("evaluate run_dmm --measure.particles 2", capsys)
    assert code == 0 and "bits a symbol" in out and "frequencies" in out


def test_music_is_generated_as_midi_and_sound(room, capsys):
    code, out, _ = kvae("generate run_srnn --count 2 --steps 9 --out songs", capsys)
    names = sorted(p.name for p in (room / "songs").iterdir())
    assert code == 0 and names == ["generated.npz", *(f"generated_0{k}.{e}" for k in (1, 2) for e in ("mid", "wav"))]
    assert "2 pieces of 9 new steps" in out
    code, _, err = kvae("generate run_srnn --count 2 --steps 9 --out songs", capsys)
    assert code == 2 and "--force" in err
    assert kvae("generate run_srnn --count 2 --steps 9 --seed 0 --out songs --force", capsys)[0] == 0


def test_music_is_continued(room, capsys):
    code, out, _ = kvae("generate run_srnn --data my.mid --prefix 5 --steps 7 --out more", capsys)
    x, given = load_sequences("more/generated.npz").x.numpy(), np.load("music.npz")["x"][0]
    assert code == 0 and x.shape == (1, 12, 88) and "after the 5 given ones" in out
    np.testing.assert_array_equal(x[0, :5], given[:5])


def test_text_is_written(room, capsys):
    code, _, _ = kvae("generate run_arnn --count 1 --steps 30 --out new", capsys)
    assert code == 0 and len(Path("new/generated.txt").read_text()) == 31
    assert set(Path("new/generated.txt").read_text()) <= set("one two three, four five six.\n\ufffd")


def test_games_are_played_without_actions_and_it_is_said(room, capsys):
    code, out, _ = kvae("generate run_dmm --count 3 --steps 5 --out games", capsys)
    assert code == 0 and "3 sequences of 5 new steps, with controls of zero" in out


def test_a_gap_is_filled_in(room, capsys):
    code, out, _ = kvae("impute run_srnn --data my.mid --gap 8:12 --out filled.npz --particles 4", capsys)
    found, given = np.load("filled.npz"), np.load("music.npz")["x"][0]
    assert (
        code == 0 and "4 hidden steps of 1 piece" in out and Path("filled.mid").exists() and Path("filled.wav").exists()
    )
    seen = found["mask"][0]
    assert seen.tolist() == [t not in range(8, 12) for t in range(len(seen))]
    np.testing.assert_array_equal(found["x"][0][seen], given[: len(seen)][seen])
    assert np.isfinite(found["expected_smoothed"]).all() and found["z_filtered"].shape[-1] == 3
    assert kvae("impute run_dmm --drop 0.4 --out games.npz --particles 3", capsys)[0] == 0  # new games


@pytest.mark.parametrize(
    "line, said",
    [
        ("evaluate run_srnn --data my.txt", "nothing that this model reads"),
        ("evaluate run_arnn --data music.npz", "does not fit this model"),
        ("evaluate run_srnn --measure.particles 0", "measure.particles"),
        ("generate run_srnn --out songs --temperature 0", "--temperature"),
        ("generate run_srnn --data my.mid --prefix 99 --out songs", "--prefix is 99"),
        ("impute run_srnn --data my.mid --gap 9:99 --out f.npz", "--gap is"),
        ("impute run_srnn --data my.mid --out f.npz", "no step is hidden"),
        ("impute run_srnn --gap 2:4 --out f.npz", "--data is missing"),
        ("impute run_srnn --data my.mid --gap 2:4 --out f.mid", "ends in .npz"),
        ("train --model arnn --preset numbers --data my.txt", "my.txt"),
        ("train --model arnn --preset game --model.latent srnn", "that of the kind arnn is none"),
        ("train --model srnn --preset nothing", "there is no preset 'nothing' of srnn"),
    ],
)
def test_what_makes_no_sequence_is_refused_in_a_sentence(room, capsys, line, said):
    before = sorted(Path().rglob("*"))
    code, _, err = kvae(line, capsys)
    assert code == 2 and said in err and err.count("\n") == 1 and err.startswith("kvae: "), err
    assert sorted(Path().rglob("*")) == before


def test_a_run_of_sequences_that_was_stopped_goes_on_bit_for_bit(room, capsys, monkeypatch):
    import kvae_nb.training.loop as training
    from kvae_nb.training.checkpoints import same_checkpoint

    line = f"train --model srnn --preset numbers --data music.npz {SONGS} --model.dropout 0.2 --epochs 4 --out"
    assert kvae(f"{line} whole", capsys)[0] == 0
    finish, done = training.finish_epoch, []

    def finish_and_stop(*given):
        progress = finish(*given)
        if progress.epoch == 2 and not done:
            done.append(signal.raise_signal(signal.SIGINT))
        return progress

    monkeypatch.setattr(training, "finish_epoch", finish_and_stop)
    assert kvae(f"{line} broken", capsys)[0] == 130
    (whole,), (broken,) = Path("whole").iterdir(), Path("broken").iterdir()
    assert kvae(f"train --resume {broken}", capsys)[0] == 0
    for name in ("last", "best"):
        assert same_checkpoint(whole / f"checkpoints/{name}.safetensors", broken / f"checkpoints/{name}.safetensors")


def test_sequences_in_memory_and_a_given_model(tmp_path):
    from kvae_nb.data.sequences import from_list
    from kvae_nb.models.sequence import SequenceVAE
    from kvae_nb.models.sequence_parts import SequenceConfig
    from kvae_nb.training.kinds import preset
    from kvae_nb.training.loop import fit
    from kvae_nb.training.runs import load_run, run_data

    data = from_list([list(np.arange(n) % 3) for n in (4, 6, 5) * 10], emission="categorical(3)")
    config = preset("numbers", "vrnn")
    train = type(config.train)(epochs=1, batch_size=8, join={}, device="cpu", threads=1, lr=0.01)
    run = load_run(fit(type(config)(model=config.model, train=train), tmp_path / "a", data=data, quiet=True))
    assert run.config.model.emission == "categorical(3)" and sum(len(p) for p in run_data(run)) == 30
    small = SequenceConfig("independent", "categorical(3)", dim_z=2, rnn_units=(4,), encoder=(4,), decoder=())
    found = load_run(fit(type(config)(train=train), tmp_path / "b", data=data, model=SequenceVAE(small), quiet=True))
    assert (found.config.kind, found.config.model) == ("iseq", small)
    numbers = fit(type(config)(train=train), tmp_path / "c", data=torch.randn(30, 5, 2), quiet=True)
    assert load_run(numbers).config.model.emission == "normal(2)"
