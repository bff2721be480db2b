"Sequences of anything: padded, cut, chosen, joined and stored sequences say what each one says alone."

import math
import re
import tempfile
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from kvae_nb.core.errors import InputError
from kvae_nb.core.files import parse_yaml
from kvae_nb.data.films import DataSet, describe, split
from kvae_nb.data.sequences import ALONG, SAID, SequenceData, by_length, from_list, joined, load_sequences, trimmed
from kvae_nb.data.sources import SOURCES, SequenceDataConfig, divide_sequences, open_sequences
from kvae_nb.data.text import (
    Vocabulary,
    abc_notes,
    abc_roll,
    streams,
    text_parts,
    text_sequences,
    texts_of,
    tunes,
    vocabulary,
)
from kvae_nb.models.sequence import SequenceVAE
from kvae_nb.models.sequence_parts import CHOICES, SequenceConfig

FOLDER = Path(tempfile.mkdtemp(prefix="kvae_nb-test-"))
FEW = settings(max_examples=60, deadline=None)


@st.composite
def sets(draw, most=9):
    "A small set of sequences of any kind, with any of its optional parts; NaN wherever nothing is to be read."
    lengths = draw(st.lists(st.integers(1, most), min_size=1, max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["symbols", "bits", "numbers", "single", "pictures"]))
    event = {"bits": (5,), "numbers": (2,), "pictures": (1, 3, 3)}.get(kind, ())
    if kind == "symbols":
        x = [rng.integers(0, 4, n) for n in lengths]
    else:
        x = [rng.integers(0, 2, (n, *event)) * 1.0 if kind == "bits" else rng.normal(size=(n, *event)) for n in lengths]
    maybe = lambda make: [make(n) for n in lengths] if draw(st.booleans()) else None
    mask = maybe(lambda n: rng.random(n) < 0.6)
    if mask and kind != "symbols":
        x = [np.where(m.reshape(-1, *(1,) * len(event)), v, np.nan) for v, m in zip(x, mask)]
    about = {
        "ended": [bool(v) for v in rng.integers(0, 2, len(lengths))] if draw(st.booleans()) else None,
        "part": rng.integers(0, 3, len(lengths)).tolist() if draw(st.booleans()) else None,
        "names": tuple(f"№{k}\n" for k in range(len(lengths))) if draw(st.booleans()) else (),
        "note": draw(st.text(max_size=5)),
        "symbols": "abc" if kind == "symbols" else "",
    }
    more = dict(controls=maybe(lambda n: rng.normal(size=(n, 2))), reward=maybe(lambda n: rng.normal(size=n)))
    return partial(from_list, x, mask=mask, **more, **about)  # made in the test: beartype draws random numbers


def one_by_one(data):
    "What exists of each sequence, as plain arrays; hidden observations are zero."
    found = []
    for k, n in enumerate(data.lengths.tolist()):
        seen = data.observed[k, :n]
        parts = {name: v[k, :n] if name in ALONG else v[k] for name, v in data.parts().items()}
        parts["x"] = torch.where(seen.view(-1, *(1,) * len(data.event)), parts["x"], 0)
        parts["mask"] = seen
        found.append({name: v.numpy() for name, v in parts.items()} | {"name": data.names[k] if data.names else None})
    return found


def same(a, b):
    "Whether two lists of such sequences agree in every number."
    assert len(a) == len(b)
    for p, q in zip(a, b):
        assert p.keys() == q.keys()
        for name in p:
            np.testing.assert_array_equal(p[name], q[name], err_msg=name)


@FEW
@given(sets())
def test_a_stored_set_comes_back(make):
    data = make()
    data.save(FOLDER / "set.npz")
    again = load_sequences(FOLDER / "set.npz")
    same(one_by_one(again), one_by_one(data))
    assert [getattr(again, n) for n in SAID] == [getattr(data, n) for n in SAID]
    assert again.steps == data.steps and again.fingerprint() == data.fingerprint() and describe(again) == describe(data)


@FEW
@given(sets(), st.data())
def test_a_damaged_file_is_refused_in_a_sentence_or_read_as_it_was(make, draw):
    data = make()
    path = FOLDER / "damaged.npz"
    data.save(path)
    raw = bytearray(path.read_bytes())
    place = draw.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= 1 << draw.draw(st.integers(0, 7))
    path.write_bytes(bytes(raw[: draw.draw(st.sampled_from([len(raw), place]))]))
    try:
        again = load_sequences(path)
    except InputError as error:
        assert str(path) in str(error) and str(error).endswith(".") and "\n" not in str(error)
    else:
        same(one_by_one(again), one_by_one(data))


@FEW
@given(sets(), st.integers(1, 11), st.data())
def test_windows_hold_every_step_and_nothing_else(make, steps, draw):
    data = make()
    stride = draw.draw(st.integers(1, steps))
    pieces = one_by_one(data.windows(steps, stride))
    k = 0
    for whole in one_by_one(data):
        n, at = len(whole["x"]), 0
        while True:
            piece = pieces[k]
            for name in set(ALONG) & whole.keys():
                np.testing.assert_array_equal(piece[name], whole[name][at : at + steps])
            last = at + steps >= n
            assert "ended" not in whole or piece["ended"] == (whole["ended"] and last)
            assert piece["name"] == whole["name"] and piece.get("part") == whole.get("part")
            k, at = k + 1, at + stride
            if last:
                break
    assert k == len(pieces)


@FEW
@given(sets(), st.integers(1, 4), st.integers(0, 3), st.integers(0, 3))
def test_batches_by_length_hold_each_sequence_once(make, size, seed, epoch):
    data = make()
    batches = by_length(data, size, seed, epoch)
    assert sorted(torch.cat(batches).tolist()) == list(range(len(data))) and all(len(b) <= size for b in batches)
    assert all(torch.equal(a, b) for a, b in zip(batches, by_length(data, size, seed, epoch)))
    spans = sorted((int(data.lengths[b].min()), int(data.lengths[b].max())) for b in batches)
    assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:]))
    for rows in batches:
        whole, cut = data.batch(rows), trimmed(data.batch(rows))
        if whole.mask is not None:
            assert int(whole.mask.sum()) == int(cut.mask.sum()) and not whole.mask[:, cut.x.shape[1] :].any()


@FEW
@given(sets(), st.data())
def test_chosen_and_joined_sequences_are_the_same(make, draw):
    data = make()
    rows = draw.draw(st.lists(st.integers(-len(data), len(data) - 1), max_size=5))
    alone = one_by_one(data)
    same(one_by_one(data[rows]), [alone[k] for k in rows])
    same(one_by_one(joined([data, data[:1]])), alone + alone[:1])
    assert isinstance(data, DataSet) and len(data.to("cpu")) == len(data)


def test_a_division_of_its_own_is_kept():
    data = from_list([[k] for k in range(9)], part=[2, 1, 0] * 3)
    assert [part.x.flatten().tolist() for part in split(data)] == [[2, 5, 8], [1, 4, 7], [0, 3, 6]]
    assert [len(part) for part in split(from_list([[k] for k in range(20)]))] == [17, 1, 2]


@pytest.mark.parametrize("latent", CHOICES["latent"])
@pytest.mark.parametrize("emission", ["categorical(4)", "normal(2)", "bernoulli(5)"])
def test_a_padded_sequence_has_the_bound_that_it_has_alone(latent, emission):
    "With NaN behind every end and at every hidden step, for every kind of model; and so have the gradients."
    g, lengths = torch.Generator().manual_seed(0), (7, 3, 1, 5)
    shape = lambda n: {"c": (n,), "n": (n, 2), "b": (n, 5)}[emission[0]]
    draw = {
        "c": lambda n: torch.randint(4, shape(n), generator=g),
        "n": lambda n: torch.randn(shape(n), generator=g),
        "b": lambda n: torch.randint(2, shape(n), generator=g).float(),
    }[emission[0]]
    x = [draw(n) for n in lengths]
    mask = [torch.arange(n) != 1 for n in lengths]
    if emission[0] != "c":
        x = [torch.where(m[:, None], v, math.nan) for v, m in zip(x, mask)]
    u = [torch.randn(n, 2, generator=g) for n in lengths]
    data = from_list(x, controls=u, mask=mask, emission=emission)
    model = SequenceVAE(SequenceConfig(latent, emission, dim_z=3, dim_u=2, rnn_units=(8,), encoder=(6,), decoder=(6,)))
    noise = model.noise(len(lengths), data.steps)
    rows = lambda tree, k, n: None if tree is None else tree[k : k + 1, :n]
    batch = data.batch(range(len(lengths)))
    terms = model(*batch, noise)
    bound = terms.elbo
    alone = []
    for k, n in enumerate(lengths):
        b = trimmed(data.batch([k]))
        assert b.x.shape[1] in (n, n - 1)  # the last step of two is hidden
        n = b.x.shape[1]
        one = model(*b, noise._replace(**{name: rows(v, k, n) for name, v in noise._asdict().items()}))
        alone.append(one.elbo[0])
    assert torch.isfinite(bound).all()
    assert_close(bound, torch.stack(alone), rtol=1e-5, atol=1e-4)
    weights = [p for p in model.parameters() if p.requires_grad]
    grads = [torch.autograd.grad(v, weights, allow_unused=True) for v in (bound.sum(), torch.stack(alone).sum())]
    for a, b in zip(*grads):
        assert (a is None) == (b is None)
        if a is not None:
            assert_close(a, b, rtol=1e-4, atol=1e-4)


@FEW
@given(st.text(min_size=1, max_size=60), st.integers(1, 12))
def test_a_vocabulary_is_exact_both_ways(text, size):
    known = vocabulary(text, size)
    again = Vocabulary(known.characters)
    assert again == known and len(known.characters) == min(size, len(set(text)))
    expected = "".join(c if c in known.characters else "\0" for c in text)
    assert again.decode(again.encode(text), other="\0") == expected
    kept = yaml.safe_dump({"vocabulary": known.characters})  # as the settings of a run are written
    assert parse_yaml(kept.encode(), "config.yaml") == {"vocabulary": known.characters}


@FEW
@given(st.text(min_size=3, max_size=80), st.integers(1, 30), st.data())
def test_windows_and_streams_hold_the_text_in_order(text, steps, draw):
    data = text_sequences(text, steps, size=1000, known=vocabulary(text, 1000))
    found = ["".join(texts_of(data[data.part == k])) for k in range(3)]
    assert found == list(text_parts(text))
    count = draw.draw(st.integers(1, 4))
    symbols = vocabulary(text, 1000).encode(text)
    if len(symbols) >= count * steps:
        side = streams(symbols, count, steps)
        assert torch.equal(side.transpose(0, 1).flatten(), symbols[: side.numel()])
        assert len(symbols) - side.numel() < count * steps


@FEW
@given(st.text(alphabet="ABCDEFGabcdefgz|/23,'^=_ \n:(){}[]\"!%XKLM-<>", max_size=80))
def test_whatever_a_model_writes_can_be_heard(text):
    roll = abc_roll("X: 1\nK: Gm\n" + text)
    assert roll.dtype == bool and roll.shape[1] == 88


def test_tunes_are_heard_as_music21_hears_them():
    """Pitches and times of 120 tunes. Where tunes have accidentals or dotted pairs music21 differs in some (it
    forgets an accidental before the end of the bar), where they have none in none."""
    music21 = pytest.importorskip("music21")
    agree = {True: [], False: []}
    for tune in re.split(r"\n(?=X:)", tunes())[400:520]:
        heard = music21.converter.parse(tune, format="abc").flatten().notes
        theirs = [(Fraction(n.offset), n.pitch.midi) for n in heard if not n.duration.isGrace and n.isNote]
        plain = not re.search(r"[<>=^_\[x]", tune.partition("K:")[2])
        agree[plain].append(theirs == [(start, pitch) for start, _, pitch in abc_notes(tune)])
    assert len(agree[True]) >= 10 and all(agree[True]), agree[True]
    assert sum(agree[False]) >= 0.4 * len(agree[False]), agree[False]


def test_every_source_says_what_is_wrong_before_it_reads():
    for name in SOURCES:
        with pytest.raises(InputError, match="sequences is 0"):
            open_sequences(
                SequenceDataConfig(
                    source=name, path="x" if name in ("text", "rolls", "midi", "audio", "file") else "", sequences=0
                )
            )
    data = from_list([np.zeros((n, 2)) for n in (9, 4, 30)], part=[0, 1, 2])
    train, valid, test = divide_sequences(SequenceDataConfig(steps=5), data)
    assert (train.lengths.tolist(), valid.lengths.tolist(), test.lengths.tolist()) == ([5, 4], [4], [30])
    assert isinstance(train, SequenceData)
