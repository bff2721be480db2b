"""Every packaged file of weights loads, says what it holds and gives its numbers again; whatever is damaged or
foreign is refused in one sentence.
"""

import json
import pickle
import random
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from kvae_nb.app.command import main
from kvae_nb.core.errors import InputError
from kvae_nb.data.films import VideoData
from kvae_nb.data.opening import DataConfig
from kvae_nb.evaluation.scores import held_out_elbo
from kvae_nb.models.kvae import KVAE
from kvae_nb.models.protocol import SequenceModel
from kvae_nb.models.skvae import SwitchingKVAE
from kvae_nb.models.vae import FrameModel
from kvae_nb.training.checkpoints import digest
from kvae_nb.training.config import TrainConfig
from kvae_nb.training.loop import fit
from kvae_nb.training.pretrained import (
    LIMIT,
    WEIGHTS,
    check_error,
    from_pretrained,
    load_pretrained,
    pack,
    pretrained_names,
    read_weights,
    save_pretrained,
    write_weights,
)
from kvae_nb.training.runs import KINDS, RunConfig, kind_of, load_run, run_data
from kvae_nb.worlds.balls import PUBLISHED, WORLDS, draw_walls
from kvae_nb.worlds.published import published_walls

ROOT = Path(__file__).resolve().parent.parent
NAMES = pretrained_names()
SMALL = {"size": 8, "filters": 2}


def films(size=8, n=3, steps=5) -> VideoData:
    "A few films of noise."
    pixels = torch.randint(
        0, 2, (n, steps, 1, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    return VideoData(pixels * 255)


def small(kind: str) -> RunConfig:
    "A run of the smallest model of this kind."
    make = kind_of(kind).run
    return make(data=DataConfig(steps=5, size=8), model=replace(make().model, **SMALL))


@pytest.fixture
def weights(tmp_path):
    "A small file of weights, and the model in it."
    config = small("kvae")
    model = KINDS["kvae"].model(config.model)
    return save_pretrained(tmp_path / "small.safetensors", model, config, films(), {"epochs": 0}), model


def refused(path) -> str:
    "The sentence with which a file is refused."
    with pytest.raises(InputError) as error:
        load_pretrained(path)
    said = str(error.value)
    assert said.startswith(str(path)) and said.endswith(".") and "\n" not in said and len(said) < 600
    return said


# What is in the package


def test_there_is_something():
    assert NAMES


@pytest.mark.parametrize("name", NAMES)
def test_packaged_file(name):
    file = resources.files("kvae_nb") / "weights" / f"{name}.safetensors"
    content = file.read_bytes()
    assert len(content) <= LIMIT
    tensors, meta = read_weights(WEIGHTS / f"{name}.safetensors")
    assert all(v.dtype == torch.float32 for v in tensors.values()) and not any(
        k.startswith("optimiser") for k in tensors
    )
    found = load_pretrained(name)
    assert type(found.model) is kind_of(found.kind).model and not found.model.training
    assert isinstance(found.model, SequenceModel) and found.model.config == found.config
    assert found.data.path == Path(found.data.path).name and ROOT.as_posix() not in content[:100_000].decode(
        "utf-8", "replace"
    )
    assert {"elbo_per_frame", "gap", "command", "seed", "epochs"} <= found.metrics.keys()
    assert found.films.size == found.config.size and found.films.channels == found.config.channels


OURS = {  # bound and errors at gap 7 of the weights that were called gravity, polygon and pong before
    "simulated_gravity": ("gravity", -5.362, 0.00152, 0.00411),
    "simulated_polygon": ("polygon", -6.01165, 0.00364, 0.00504),
    "simulated_pong": ("pong", -5.526, 0.00148, 0.00293),
}
THEIRS = {"box": "box.npz", "gravity": "box_gravity.npz", "polygon": "polygon.npz", "pong": "pong.npz"}


@pytest.mark.parametrize("name", OURS)
def test_names_with_simulated_are_our_simulators_worlds(name):
    "Renamed, and the same weights with the same numbers as before."
    found, (world, elbo, smoothing, filtering) = load_pretrained(name), OURS[name]
    assert (found.data.path, found.data.world, found.data.look) == ("", world, "ours")
    gap = found.metrics["gap"]["7"]
    assert (found.metrics["elbo_per_frame"], gap["smoothing"], gap["filtering"]) == (elbo, smoothing, filtering)


@pytest.mark.parametrize("name", THEIRS)
def test_plain_names_are_the_authors_worlds(name):
    found = load_pretrained(name)
    assert found.data.path == THEIRS[name] and THEIRS[name] in found.metrics["command"]


@pytest.mark.parametrize("name", ("gravity", "polygon", "pong"))
def test_the_authors_worlds_are_drawn_in_the_published_look(name):
    "Their films have every wall pixel of our published look, and our look's walls are at other places."
    films = load_pretrained(name).films.frames[:, :, 0] > 0
    world = PUBLISHED[name]
    assert films[:, :, torch.from_numpy(published_walls(world.corners, world.paddle))].all()
    assert not films[:, :, torch.from_numpy(draw_walls(WORLDS[name], 32)[0])].all()


@pytest.mark.parametrize(("asked", "meant"), [("box_gravity", "gravity"), ("our_pong", "simulated_pong")])
def test_who_asks_for_a_name_that_is_near_is_told(asked, meant):
    with pytest.raises(InputError, match=f"{meant}.*simulated_… are for films of our simulator"):
        load_pretrained(asked)


@pytest.mark.parametrize("name", NAMES)
def test_packaged_model_gives_its_numbers_again(name):
    "float32 sums of some ten thousand terms, added in another order: see the notebook."
    found = load_pretrained(name)
    assert check_error(found.model, found.films, found.check) < 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_packaged_bound_is_that_of_its_films(name):
    """The bound of a few held-out films is near the stored one of all of them: within five standard errors, and
    what rounding leaves.
    """
    found = load_pretrained(name)
    elbo = found.check @ torch.tensor([1.0, 1.0, -1.0]) / found.films.steps
    again = held_out_elbo(found.model, found.films).per_frame
    assert abs(again - elbo.mean()) < 5 * (1 + elbo.std().item())  # other draws of a
    spread = max(elbo.std().item(), 0.05 * abs(found.metrics["elbo_per_frame"]), 1.0)
    assert abs(elbo.mean().item() - found.metrics["elbo_per_frame"]) < 5 * spread / len(elbo) ** 0.5


def test_the_wheel_is_told_about_the_weights():
    assert '"weights": "*.safetensors", "weights.sequences": "*.safetensors"' in (ROOT / "setup.py").read_text()
    assert "recursive-include kvae_nb/weights *.safetensors" in (ROOT / "MANIFEST.in").read_text().splitlines()
    assert {f.name for f in (ROOT / "kvae_nb" / "weights").iterdir() if f.is_file()} == {
        f"{n}.safetensors" for n in NAMES
    }


# Writing and reading


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_comes_back(kind, tmp_path):
    config = small(kind)
    model = KINDS[kind].model(config.model)
    path = save_pretrained(tmp_path / "w.safetensors", model, config, films(), {"note": "ü"}, "0123")
    before = torch.get_rng_state()
    found = load_pretrained(path)
    assert torch.equal(before, torch.get_rng_state())
    assert (found.kind, found.config, found.data, found.metrics, found.trained_on) == (
        kind,
        config.model,
        config.data,
        {"note": "ü"},
        "0123",
    )
    assert all(
        torch.equal(a, b) for a, b in zip(found.model.state_dict().values(), model.state_dict().values(), strict=True)
    )
    assert torch.equal(found.films.frames, films().frames) and check_error(found.model, found.films, found.check) == 0
    for module in found.model.modules():  # nothing that a file would have to hold besides
        assert not module._non_persistent_buffers_set


def test_controls_and_mask_of_the_films_come_back(tmp_path):
    config = small("kvae")
    config = replace(config, model=replace(config.model, dim_u=2))
    told = replace(
        films(), controls=torch.randn(3, 5, 2), mask=torch.tensor([True, True, False, True, False]).expand(3, 5)
    )
    found = load_pretrained(save_pretrained(tmp_path / "w.safetensors", KVAE(config.model), config, told))
    assert torch.equal(found.films.controls, told.controls) and torch.equal(found.films.mask, told.mask)
    assert check_error(found.model, found.films, found.check) == 0


def test_classes_are_held_to_their_word(weights):
    path, model = weights
    assert isinstance(KVAE.from_pretrained(path), KVAE) and isinstance(FrameModel.from_pretrained(str(path)), KVAE)
    with pytest.raises(InputError, match=r"holds a KVAE, not a SwitchingKVAE; load it with KVAE.from_pretrained"):
        SwitchingKVAE.from_pretrained(path)


@pytest.mark.parametrize("word", ["moon", "", "../weights/box", "box.bin", "/etc"])
def test_a_wrong_name_is_told_the_right_ones(word):
    with pytest.raises(InputError) as error:
        from_pretrained(word)
    assert repr(word) in str(error.value) and all(n in str(error.value) for n in NAMES) and "\n" not in str(error.value)


def test_pack_and_what_it_refuses(tmp_path):
    data = DataConfig(sequences=30, steps=6, size=8)
    run = fit(
        RunConfig(
            data, replace(RunConfig().model, **SMALL), TrainConfig(epochs=1, device="cpu", join={}, picture_every=0)
        ),
        tmp_path / "runs",
        quiet=True,
    )
    path = pack(run, "a_1", {"x": 1.5}, tmp_path / "out")
    found, trained = load_pretrained(path), load_run(run)
    assert (
        path.name == "a_1.safetensors"
        and found.metrics == {"x": 1.5}
        and torch.equal(found.films.frames, run_data(trained).test.frames[:4])
    )
    assert found.trained_on == (run / "data.txt").read_text().strip()
    assert all(
        torch.equal(a, b)
        for a, b in zip(found.model.state_dict().values(), trained.model.state_dict().values(), strict=True)
    )
    for name in ("", "a b", "../a", "a.b", "ä"):
        with pytest.raises(InputError, match="not a name"):
            pack(run, name, folder=tmp_path / "out")
    with pytest.raises(InputError, match="not a run folder"):
        pack(tmp_path, "b", folder=tmp_path / "out")
    with pytest.raises(InputError, match="no checkpoint"):
        pack(run, "b", folder=tmp_path / "out", checkpoint="epoch_0009")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a_1.safetensors"]


def test_a_model_too_large_for_the_package(tmp_path, monkeypatch):
    import kvae_nb.training.pretrained as here

    data = DataConfig(sequences=30, steps=6, size=8)
    run = fit(
        RunConfig(
            data, replace(RunConfig().model, **SMALL), TrainConfig(epochs=1, device="cpu", join={}, picture_every=0)
        ),
        tmp_path / "runs",
        quiet=True,
    )
    monkeypatch.setattr(here, "LIMIT", 1000)
    with pytest.raises(InputError, match="may have at most"):
        pack(run, "big", folder=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Damage


def same_or_refused(path, content: bytes, state: dict) -> bool:
    "Whether damaged bytes are refused; if not, they must hold exactly these weights."
    path.write_bytes(content)
    try:
        again = load_pretrained(path).model.state_dict()
    except InputError as error:
        assert str(path) in str(error) and str(error).endswith(".") and "\n" not in str(error)
        return True
    assert again.keys() == state.keys() and all(torch.equal(v, again[k]) for k, v in state.items())
    return False


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_are_refused(name, tmp_path):
    "Flipped bits, changed, lost, doubled and zeroed bytes: half of them in the header, where they can do most."
    good, state, rng = (
        (WEIGHTS / f"{name}.safetensors").read_bytes(),
        load_pretrained(name).model.state_dict(),
        random.Random(name),
    )
    header, path = 8 + int.from_bytes(good[:8], "little"), tmp_path / "damaged.safetensors"
    harms = {
        "bit": lambda k: good[:k] + bytes([good[k] ^ 1 << rng.randrange(8)]) + good[k + 1 :],
        "byte": lambda k: good[:k] + bytes([rng.randrange(256)]) + good[k + 1 :],
        "lost": lambda k: good[:k] + good[k + 1 :],
        "doubled": lambda k: good[: k + 1] + good[k:],
        "zeroed": lambda k: good[:k] + bytes(len(good[k : k + 64])) + good[k + 64 :],
        "cut": lambda k: good[:k],
    }
    rounds = max(1, 3000 // (len(NAMES) * len(harms)))
    seen = []
    for _ in range(rounds):
        for harm in harms.values():
            content = harm(rng.randrange(header if rng.random() < 0.5 else len(good)))
            seen.append(content == good or same_or_refused(path, content, state))
    assert sum(seen) > 0.9 * len(seen)


def test_every_bit_of_the_first_bytes(weights, tmp_path):
    "The length of the header and its beginning, bit by bit."
    path, model = weights
    good = path.read_bytes()
    for k in range(64):
        for bit in range(8):
            same_or_refused(
                tmp_path / "d.safetensors", good[:k] + bytes([good[k] ^ 1 << bit]) + good[k + 1 :], model.state_dict()
            )


def test_garbage(tmp_path):
    rng = random.Random(0)
    for n in (0, 1, 7, 8, 9, 100, 1000):
        for content in (bytes(n), rng.randbytes(n), n.to_bytes(8, "little") + b"{}" + b" " * n, b"\xff" * 8 + b"{" * n):
            path = tmp_path / "g.safetensors"
            path.write_bytes(content)
            refused(path)


class Trap:
    "Leaves a trace where it is unpickled."

    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


def test_nothing_is_ever_unpickled(tmp_path):
    path = tmp_path / "p.safetensors"
    for write in (lambda: path.write_bytes(pickle.dumps(Trap())), lambda: torch.save({"w": Trap()}, path)):
        write()
        refused(path)


def test_missing_and_impossible_places(tmp_path):
    refused(tmp_path / "none.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    refused(tmp_path / "folder.safetensors")


# Healthy files that are not what they should be: their hash is right


def changed(entry: str, **values):
    "A change of some fields of an entry."
    return lambda tensors, meta: (tensors, meta | {entry: json.dumps(json.loads(meta[entry]) | values)})


def weight(make):
    "A change of the first tensor."
    return lambda tensors, meta: (tensors | {(k := next(iter(tensors))): make(tensors[k])}, meta)


CASES = {
    "unknown field": (changed("model", speed=3), "model.speed is no field"),
    "unknown field of the data": (changed("data", where="moon"), "data.where is no field"),
    "wrong type": (changed("model", K="many"), "model.K"),
    "no number": (changed("model", Q=None), "cannot be used"),
    "not finite": (changed("model", Q=float("nan")), "model.Q"),
    "impossible": (changed("model", size=12), "12"),
    "absurdly large": (changed("model", filters=10**9), "."),
    "another class": (
        lambda t, m: (t, m | {"model": json.dumps({"class_path": "os.system", "init_args": {"command": "true"}})}),
        "model.class_path is no field",
    ),
    "a list": (lambda t, m: (t, m | {"model": "[1, 2]"}), "entries are not valid"),
    "deep": (lambda t, m: (t, m | {"metrics": "[" * 100_000}), "entries are not valid"),
    "no JSON": (lambda t, m: (t, m | {"metrics": "{"}), "entries are not valid"),
    "a number": (lambda t, m: (t, m | {"metrics": "3"}), "entries are not valid"),
    "films of another shape": (changed("films", shape=[3, 5, 1, 8, 16]), "entries are not valid"),
    "films without end": (changed("films", shape=[2**40, 2**20, 1, 8, 8]), "entries are not valid"),
    "films of negative length": (changed("films", shape=[-3, -5, 1, 8, 8]), "."),
    "check of other films": (lambda t, m: (t, m | {"check": "[[0, 0, 0]]"}), "entries are not valid"),
    "unknown kind": (lambda t, m: (t, m | {"kind": "oracle"}), "'oracle'"),
    "other sizes": (changed("model", dim_z=9), "another model"),
    "missing tensor": (lambda t, m: ({k: v for k, v in t.items() if k != next(iter(t))}, m), "another model"),
    "one tensor too many": (lambda t, m: (t | {"model.extra": torch.zeros(1)}, m), "another model"),
    "nan": (weight(lambda v: torch.full_like(v, torch.nan)), "is not finite"),
    "infinity": (weight(lambda v: v / 0), "is not finite"),
    "half precision": (weight(lambda v: v.half()), "float32"),
    "another version": (lambda t, m: (t, m | {"format": "kvae_nb weights 99"}), "this version"),
} | {
    f"without {key}": (
        (lambda key: lambda t, m: (t, {k: v for k, v in m.items() if k != key}))(key),
        f"the entry '{key}' is missing",
    )
    for key in ("kind", "model", "data", "metrics", "films", "check")
}


@pytest.mark.parametrize("case", CASES)
def test_foreign_and_mismatched(case, weights, tmp_path):
    change, words = CASES[case]
    path = write_weights(tmp_path / "w.safetensors", *change(*read_weights(weights[0])))
    assert words in refused(path)


def test_files_of_others(weights, tmp_path):
    tensors, meta = read_weights(weights[0])
    path = tmp_path / "w.safetensors"
    save_file(tensors, path)
    assert "None" in refused(path)
    save_file(tensors, path, meta | {"sha256": digest(tensors, meta)[::-1]})
    assert "checksum" in refused(path)
    save_file(tensors, path, {k: v for k, v in meta.items() if k != "sha256"})
    assert "checksum" in refused(path)
    save_file(tensors, path, {"format": "kvae_nb checkpoint 2", "progress": "{}"})
    assert "run folder" in refused(path)


# The command


@pytest.mark.parametrize(
    "words", ["impute moon --data f.npz --gap 4:8 --out x.npz", "evaluate moon", "generate moon --out y"]
)
def test_the_command_lists_the_names(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    assert (
        err.count("\n") == 1
        and "Traceback" not in err
        and all(n in err for n in NAMES)
        and not list(tmp_path.iterdir())
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_command_takes_a_name(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["generate", name, "--steps", "3", "--count", "2", "--out", "y"]) == 0
    assert capsys.readouterr().out.startswith(f"pretrained weights {name}: ")
    simulated = not load_pretrained(name).data.path
    code = main(["impute", name, "--gap", "4:6", "--out", "x.npz"])
    err = capsys.readouterr().err
    assert (code, err) == (0, "") if simulated else (code == 2 and "--data is missing" in err)
