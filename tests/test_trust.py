"""Streams, checkpoints and configurations under all sorts of input. The long version, with counts, is
experiments/trust.py.
"""

import json
import signal

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from kvae_nb.app.command import main
from kvae_nb.core.errors import InputError
from kvae_nb.data.films import VideoData
from kvae_nb.data.opening import open_data
from kvae_nb.models.kvae import KVAE, KVAEConfig
from kvae_nb.training.checkpoints import FORMAT, Progress, read_checkpoint, save_checkpoint, save_tensors
from kvae_nb.training.pretrained import write_weights  # and gives KVAE its method filter_stream
from kvae_nb.training.runs import RunConfig, read_config, write_config

CONFIGS = st.builds(
    lambda alpha, K, **more: KVAEConfig(
        size=8, filters=2, units=4, alpha_units=4, alpha=alpha, K=1 if alpha == "constant" else K, **more
    ),
    alpha=st.sampled_from(["lstm", "mlp", "constant"]),
    K=st.integers(1, 4),
    dim_a=st.integers(1, 4),
    dim_z=st.integers(1, 6),
    dim_u=st.integers(0, 2),
    infer_u=st.integers(0, 2),
    channels=st.sampled_from([1, 3]),
    network=st.sampled_from(["conv", "mlp"]),
    alpha_window=st.integers(1, 5),
    pixels=st.sampled_from(["bernoulli", "gaussian"]),
)


@settings(max_examples=30)
@given(
    CONFIGS,
    st.integers(1, 9),
    st.integers(0, 2**9 - 1),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(0, 1000),
)
def test_a_stream_is_the_filter_over_the_whole(config, steps, hidden, dtype, seed):
    torch.manual_seed(seed)
    model = KVAE(config).to(dtype)
    with torch.no_grad():
        model.dynamics.C += 0.3 * torch.randn_like(model.dynamics.C)
    x = torch.rand(1, steps, config.channels, 8, 8, dtype=dtype)
    mask = torch.tensor([[not hidden >> t & 1 for t in range(steps)]])
    u = torch.randn(1, steps, config.dim_u, dtype=dtype) if config.dim_u else None
    with torch.no_grad():
        whole = model.impute(x, mask, u, particles=0)
    outs = list(model.filter_stream([f if m else None for f, m in zip(x[0], mask[0])], None if u is None else u[0]))
    close = (
        dict(rtol=1e-9, atol=1e-9) if dtype == torch.float64 else dict(rtol=1e-3, atol=1e-3)
    )  # float32 from a first variance of 20
    for k in (0, 1):
        assert_close(torch.stack([o.z[k] for o in outs]), whole.filtered.z[k][0], **close)
        assert_close(torch.stack([o.a[k] for o in outs]), whole.filtered.a[k][0], **close)
    assert_close(torch.stack([o.weights for o in outs]), whole.weights[0], **close)
    assert all(o.next_frame.shape == x.shape[2:] and o.next_frame.isfinite().all() for o in outs)


@pytest.mark.parametrize(
    "progress", [None, "", "{", "[]", "null", "7", '"a"', "{}", '{"history": 1}', '{"mood": 1, "history": []}'], ids=str
)
def test_a_checkpoint_that_does_not_say_how_far_it_was_is_refused(tmp_path, progress):
    path = tmp_path / "last.safetensors"
    save_tensors(
        path, {"model.w": torch.zeros(2)}, {"format": FORMAT} | ({} if progress is None else {"progress": progress})
    )
    with pytest.raises(InputError, match="last.safetensors"):
        read_checkpoint(path)
    save_tensors(
        path, {"model.w": torch.zeros(2)}, {"format": FORMAT, "progress": json.dumps(Progress(epoch=3)._asdict())}
    )
    assert read_checkpoint(path)[1].epoch == 3


@pytest.mark.parametrize(
    "write",
    [
        lambda p: save_checkpoint(p, KVAE(KVAEConfig(size=8))),
        lambda p: write_weights(p, {"w": torch.zeros(50_000)}, {}),
    ],
    ids=["checkpoint", "weights"],
)
def test_a_full_disk_is_an_os_error_and_costs_nothing(tmp_path, write):
    import resource  # limits on the size of files are a matter of Unix

    path, limits, handler = (
        tmp_path / "old.safetensors",
        resource.getrlimit(resource.RLIMIT_FSIZE),
        signal.getsignal(signal.SIGXFSZ),
    )
    path.write_bytes(b"what was there before")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # writing fails half way, as on a full disk
    try:
        with pytest.raises(OSError, match="old.safetensors"):
            write(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert [p.name for p in tmp_path.iterdir()] == ["old.safetensors"] and path.read_bytes() == b"what was there before"


def test_a_flipped_bit_in_a_checkpoint_is_found(tmp_path):
    path, model = tmp_path / "last.safetensors", KVAE(KVAEConfig(size=8))
    save_checkpoint(path, model, torch.optim.Adam(model.parameters()), Progress(epoch=3, history=({"epoch": 1},)))
    whole = path.read_bytes()
    head = 8 + int.from_bytes(whole[:8], "little")  # length and table, then the numbers
    for place in (head, (head + len(whole)) // 2, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(InputError, match="checksum"):
            read_checkpoint(path)
    path.write_bytes(whole)
    assert read_checkpoint(path)[1].epoch == 3


def leaves(nested, path=()):
    "The place of every value in nested dicts."
    for key, value in nested.items():
        yield from leaves(value, (*path, key)) if isinstance(value, dict) else [(*path, key)]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    write_config(RunConfig(), path)
    return path, yaml.safe_load(path.read_text())


@settings(max_examples=15)
@given(
    st.data(),
    st.sampled_from([None, "", "many", [], {}, [1, 2], -1, 2**70, float("nan"), float("inf"), True, {"a": 1}]),
)
def test_a_configuration_with_a_strange_value_is_read_or_refused_in_one_sentence(written, data, value):
    path, content = written
    content = json.loads(json.dumps(content))
    *outer, last = data.draw(st.sampled_from(sorted(leaves(content))))
    place = content
    for key in outer:
        place = place[key]
    place[last] = value
    path.write_text(yaml.safe_dump(content))
    try:
        found = read_config(path)
    except InputError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        optional = (*outer, last) in (("data", "binarize"), ("data", "white"))  # which may be left open
        assert value is not None or optional or getattr(found.train, "join", 0) is None


def test_the_sample_is_small_and_sound():
    from kvae_nb.app.given import SAMPLE, is_sample

    assert is_sample("sample") and not is_sample("sample.npz")
    films = open_data(RunConfig().data.__class__(path=str(SAMPLE)))
    assert (
        isinstance(films, VideoData) and films.frames.shape == (16, 20, 1, 32, 32) and SAMPLE.stat().st_size < 200_000
    )
    assert np.isin(films.frames.numpy(), (0, 255)).mean() > 0.9


TINY = (
    "train --preset demo --data.sequences 40 --data.steps 6 --data.size 16 --model.filters 4 --model.alpha_units 8 "
    "--train.batch_size 8 --train.device cpu --train.threads 1 --train.picture_every 0 --out runs"
)


@pytest.mark.parametrize(
    "words, said",
    [
        (TINY + " --epochs 2 --train.lr 1e9", "diverged"),
        ("generate box --seed -1 --out d", "seed is -1"),
        ("impute box --data sample --drop .5 --seed -1 --out d.npz", "seed is -1"),
        ("train --data.split_seed -1 --data.sequences 40", "split_seed is -1"),
        ("impute pendulum --data sample --gap 4:8 --out p.npz", "no controls"),
    ],
    ids=["diverged", "generate", "impute", "split", "controls"],
)
def test_what_cannot_end_well_ends_with_a_sentence(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2
    assert said in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_model_that_has_learnt_nothing_says_so_at_the_end(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main((TINY + " --epochs 1 --train.lr 1e-6").split()) == 0
    assert any("no unit of a is active in the end" in line for line in capsys.readouterr().out.splitlines())
