"Music in and out: what is written comes back, and a foreign file is read or refused in one sentence."

import json
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kvae_nb.core.errors import InputError
from kvae_nb.data import chorales as of_chorales
from kvae_nb.data.chorales import chorales, read_work, roll_of_notes, works
from kvae_nb.data.midi import midi_bytes, midi_sequences, parse_midi, to_roll, write_midi
from kvae_nb.data.music import (
    chords_of,
    from_scores_and_count,
    held_notes,
    notes_per_step,
    pitch_class_distance,
    roll_of,
    scores_and_count,
    synthesize,
)

FOLDER = Path(tempfile.mkdtemp(prefix="kvae_nb-music-"))
FEW = settings(max_examples=80, deadline=None)
ROOT = Path(__file__).resolve().parent.parent


@st.composite
def rolls(draw):
    "A roll of any density, from none of the notes to all of them."
    steps, density = draw(st.integers(0, 40)), draw(st.sampled_from([0.0, 0.02, 0.3, 0.9, 1.0]))
    return np.random.default_rng(draw(st.integers(0, 2**32))).random((steps, 88)) < density


CLOCKS = st.one_of(
    st.builds(lambda p, q: {"grid": p / q}, st.integers(1, 200), st.integers(1, 12)),
    st.builds(lambda r: {"rate": r}, st.sampled_from([0.5, 1, 2, 3, 7, 8, 16, 25, 31.25, 32, 50, 80, 100, 1000])),
)


@FEW
@given(rolls(), CLOCKS, st.floats(20, 300))
def test_a_roll_comes_back_from_a_midi_file(roll, clock, tempo):
    assert np.array_equal(to_roll(parse_midi(midi_bytes(roll, tempo=tempo, **clock)), **clock), roll)


def number(n):
    "In groups of seven bits."
    out = [n & 127]
    while n := n >> 7:
        out.insert(0, n & 127 | 128)
    return bytes(out)


@st.composite
def files(draw):
    "A MIDI file written another way: running status, strength 0, several tracks, noise between; and what it says."
    tracks, said, last = [], [], 0
    for k in range(draw(st.integers(1, 3))):
        steps, channel = draw(st.lists(st.tuples(st.integers(0, 300), st.integers(1, 300)), max_size=8)), k
        raw, now = number(0) + bytes([0xFF, 1, 2]) + b"hi", 0
        for k_note, (wait, long) in enumerate(steps):
            pitch, status = 30 + 7 * k_note, bytes([0x90 | channel])
            raw += number(wait) + (status if k_note == 0 else b"") + bytes([pitch, 64])
            raw += number(long) + (bytes([pitch, 0]) if k_note % 2 == 0 else bytes([0x80 | channel, pitch, 5]))
            raw += b"" if k_note % 2 == 0 else number(0) + bytes([0x90 | channel, 0, 0])  # ends a note that never was
            said.append((pitch, now + wait, now + wait + long, 64, channel))
            now += wait + long
        raw += number(7) + b"\xf0" + number(3) + b"abc" + number(0) + b"\xff\x2f\0"
        last = max(last, now + 7)
        tracks.append(b"MTrk" + len(raw).to_bytes(4, "big") + raw)
    division = draw(st.integers(1, 1000))
    head = b"MThd\0\0\0\6\0\1" + len(tracks).to_bytes(2, "big") + division.to_bytes(2, "big")
    return head + b"".join(tracks), sorted(said), division, last


@FEW
@given(files())
def test_a_file_written_another_way_says_the_same(written):
    raw, said, division, last = written
    midi = parse_midi(raw)
    assert sorted(tuple(n) for n in midi.notes) == said
    assert (midi.ticks, midi.end) == (division, last)


def test_step_by_step_the_roll_is_what_sounds_at_that_instant():
    "The definition, applied to every instant with fractions, against the ceilings."
    rng = np.random.default_rng(1)
    for _ in range(20):
        notes = [(int(a), int(a + rng.integers(1, 9)), int(p)) for a, p in rng.integers((0, 40), (50, 60), (12, 2))]
        raw = b""
        events = sorted([(a, 0x90, p) for a, _, p in notes] + [(b, 0x80, p) for _, b, p in notes])
        now = 0
        for tick, status, pitch in events:
            raw += number(tick - now) + bytes([status, pitch, 64])
            now = tick
        raw += b"\0\xff\x2f\0"
        midi = parse_midi(b"MThd\0\0\0\6\0\0\0\1\0\7MTrk" + len(raw).to_bytes(4, "big") + raw)
        roll = to_roll(midi, grid=3)
        for k, row in enumerate(roll):
            instant = Fraction(7 * k, 3)
            assert {n.pitch - 21 for n in midi.notes if n.start <= instant < n.end} == set(np.flatnonzero(row))


GOOD = midi_bytes(roll_of([[60, 64], [60], [], [67]]), rate=8)


@FEW
@given(st.binary(max_size=60), st.integers(0, len(GOOD)), st.integers(0, 60))
@example(b"", 0, 0)
def test_foreign_bytes_are_read_or_refused(noise, at, replaced):
    raw = GOOD[:at] + noise + GOOD[at + replaced :]
    try:
        roll = to_roll(parse_midi(raw, "some.mid"), rate=0.5)
        assert roll.dtype == bool and roll.shape[1] == 88
    except InputError as error:
        assert "\n" not in str(error) and str(error).endswith(".")


def test_nothing_is_left_half_written():
    path = FOLDER / "kept.mid"
    path.write_bytes(b"before")
    with pytest.raises(InputError):
        write_midi(path, np.full((3, 88), 0.5), grid=1)
    assert path.read_bytes() == b"before" and len(list(FOLDER.glob("*kept*"))) == 1


def test_a_folder_of_files_with_a_broken_one():
    folder = FOLDER / "songs"
    for k, steps in enumerate((5, 12)):
        write_midi(folder / "inner" / f"{k}.mid", roll_of([[60 + k]] * steps), grid=2)
    (folder / "broken.midi").write_bytes(GOOD[:30])
    data = midi_sequences(folder, grid=2)
    assert data.lengths.tolist() == [5, 12] and "broken.midi" in data.note and data.emission == "bernoulli(88)"
    assert data.x[0, :5, 60 - 21].eq(1).all() and not data.observed[0, 5:].any()
    cut = midi_sequences(folder, grid=2, steps=8)
    assert cut.lengths.tolist() == [5, 8, 4]
    (FOLDER / "empty").mkdir()
    with pytest.raises(InputError, match="no file that ends"):
        midi_sequences(FOLDER / "empty", rate=1)


@FEW
@given(rolls())
def test_held_notes_and_scores_are_the_same_roll(roll):
    again = np.zeros_like(roll)
    for pitch, start, stop in held_notes(roll):
        assert start == 0 or not roll[start - 1, pitch - 21]
        again[start:stop, pitch - 21] = True
    assert np.array_equal(again, roll) and np.array_equal(roll_of(chords_of(roll)), roll)
    few = roll & (roll.cumsum(1) <= 10)
    assert np.array_equal(from_scores_and_count(scores_and_count(few)), few)
    assert abs(notes_per_step(roll) * len(roll) - roll.sum()) < 1e-6
    shifted = np.roll(roll, 12, axis=1) if not roll[:, -12:].any() else roll
    assert pitch_class_distance(roll, shifted) < 1e-9


@pytest.mark.parametrize("voice", ["sine", "string"])
def test_a_roll_sounds_when_its_notes_do(voice):
    roll = roll_of([[], [60], [60, 67], [], [96]])
    sound = synthesize(roll, 8000, voice, pace=4.0)
    loud = abs(sound.reshape(5, 2000)).max(1)
    assert (loud[[0, 3]] == 0).all() and (loud[[1, 2, 4]] > 0.2).all() and abs(abs(sound).max() - 0.8) < 1e-6
    assert np.array_equal(synthesize(torch.tensor(roll).float(), 8000, voice, pace=4.0), sound)


def test_without_music21_the_sentence_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "music21", None)
    monkeypatch.setenv("KVAE_NB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"pip install 'kvae_nb\[music\]'"):
        chorales()


def test_the_cache_is_in_the_users_folder_and_versioned(monkeypatch, tmp_path):
    monkeypatch.delenv("KVAE_NB_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert of_chorales.cache_path("eighth") == tmp_path / "kvae_nb" / "chorales-eighth-v1.npz"
    made = []
    monkeypatch.setattr(of_chorales, "read_work", lambda w, grid: made.append(w) or roll_of([[60 + w.part]] * 3))
    first, second = chorales(), chorales()
    assert len(made) == 346 and first.fingerprint() == second.fingerprint()
    of_chorales.cache_path("quarter").write_bytes(b"damaged")
    assert chorales().fingerprint() == first.fingerprint() and len(made) == 2 * 346


def test_twelve_chorales_have_as_many_steps_as_were_counted():
    pytest.importorskip("music21")
    sets = json.loads((ROOT / "experiments/results/chorales.json").read_text(encoding="utf-8"))["sets"]
    chosen = [w for part in range(3) for w in [w for w in works() if w.part == part][5:9]]
    counted = [n for s in sets.values() for n in s["lengths"][5:9]]
    data = chorales(only=tuple(chosen))
    assert data.lengths.tolist() == counted and data.names == tuple(f"bwv{w.name}" for w in chosen)
    fine = read_work(chosen[0], "eighth")
    assert np.array_equal(fine[::2], data.x[0, : counted[0]].bool().numpy())
    assert [s["frames"] for s in sets.values()] == [11358, 3480, 3890]


def test_a_note_between_two_steps_is_not_heard():
    assert roll_of_notes([(0.25, 0.75, 60), (1.0, 2.0, 62)]).nonzero()[1].tolist() == [62 - 21]
