"""What the pictures of 55f, 55h and 55i show, beside what is computed here one particle, step or chord at a time."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.image import BboxImage
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon
from matplotlib.text import Text

from kvae_nb.app import canvas, chorale_panel, filter_panel, fork_panel
from kvae_nb.app.explore import latent_map, sample_track
from kvae_nb.evaluation.plots import PALETTE
from kvae_nb.training.pretrained import load_pretrained
from kvae_nb.training.pretrained_sequences import load_sequence_model


def drawn(fig, kind, row):
    "The artists of this kind in the plot of this row, in the order in which they were drawn."
    box = 80 * canvas.boxes(fig.artists[0].layout)[row][0].extents
    return [a for a in fig.artists if type(a) is kind and np.allclose(a.get_clip_box().extents, box)]


def line_of(fig, row, color):
    "The points of the only line of this colour."
    [found] = [a for a in drawn(fig, Line2D, row) if a.get_color() == PALETTE[color]]
    return found.get_xydata()


def title_of(fig):
    [found] = [a.get_text() for a in fig.artists if type(a) is Text]
    return found


def shaded(fig, row):
    "The steps that are shaded."
    ends = [(p.get_xy()[:, 0].min(), p.get_xy()[:, 0].max()) for p in drawn(fig, Polygon, row)]
    return [t for low, high in ends for t in range(round(low + 0.5), round(high + 0.5))]


def test_filter_and_smoother_are_drawn_over_what_was_seen():
    hidden = torch.zeros(24, dtype=torch.bool)
    hidden[[3, 10, 11, 23]] = True
    track = filter_panel.with_hidden(sample_track(hide=False), tuple(hidden.tolist()))
    fig = filter_panel.draw_by_hand(track, -1.7, -0.3, 40)
    filtered, smoothed = filter_panel.estimates(track, -1.7, -0.3)
    for row, name, states, steps in ((0, "filtering", filtered, range(24)), (1, "smoothing", smoothed, range(7, 24))):
        np.testing.assert_allclose(line_of(fig, row, name), states.mean[list(steps), :2])
        np.testing.assert_allclose(line_of(fig, row, "truth"), track.path)
        np.testing.assert_allclose(line_of(fig, row, "wrong"), [track.seen[t] for t in range(24) if not hidden[t]])
        std = [(t, np.log10(states.cov[t, 0, 0].item()) / 2) for t in steps]
        np.testing.assert_allclose(line_of(fig, 2, name), std)
    assert shaded(fig, 2) == [3, 10, 11, 23]


@pytest.mark.parametrize("gain", [0.0, 0.35, 1.0])
def test_the_estimate_is_a_density_with_the_moments_of_the_gain(gain):
    fig = filter_panel.draw_gain(gain, 1.2, 0.8, a=2.0)
    x, p = line_of(fig, 0, "smoothing").T
    mass = p * (x[1] - x[0])
    mean = (mass * x).sum()
    variance = (1 - gain) ** 2 * 1.44 + gain**2 * 0.64
    found = [mass.sum(), mean, (mass * (x - mean) ** 2).sum()]
    np.testing.assert_allclose(found, [1, 2 * gain, variance], rtol=1e-4, atol=1e-4)
    x, p = line_of(fig, 0, "truth").T
    np.testing.assert_allclose(p.sum() * (x[1] - x[0]), 1, rtol=1e-6)
    best = 1.44 / 2.08
    assert title_of(fig) == f"variance {variance:.2f}; smallest {1.44 * 0.64 / 2.08:.2f} at K = {best:.2f}"


def pieces_by_hand(found, now):
    "For each colour the pieces (t − 1, a₁, a₂, t, a₁, a₂), one particle after the other."
    living = {(now, k) for k in range(found.a.shape[1])}
    for t in range(now, 0, -1):
        living |= {(t - 1, int(found.parent[t, k])) for s, k in living if s == t}
    pieces = {"quiet": set(), "smoothing": set(), "interpolation": set()}
    for t in range(1, now + 1):
        for k in range(found.a.shape[1]):
            start, end = found.a[t - 1, found.parent[t, k]].tolist(), found.a[t, k].tolist()
            name = "quiet" if (t, k) not in living else "smoothing" if end[0] > start[0] else "interpolation"
            pieces[name].add((t - 1, *start, t, *end))
    return pieces, living


def test_pieces_begin_at_the_particle_that_is_continued():
    parent = torch.tensor([[0, 1, 2, 3], [3, 3, 0, 1], [0, 0, 0, 2]])
    found = fork_panel.Tree(torch.rand(3, 4, 2), parent, torch.full((3, 4), 0.25), torch.full((3,), 4.0))
    ends, living = fork_panel.branches(found, 2)
    pieces, _ = pieces_by_hand(found, 2)
    assert {tuple(v) for v in ends[~living].reshape(-1, 6).tolist()} == pieces["quiet"]
    assert {tuple(v) for v in ends[living].reshape(-1, 6).tolist()} == pieces["smoothing"] | pieces["interpolation"]
    assert found.resampled.tolist() == [False, True, True]


@pytest.mark.parametrize("now", [11, 17])  # all paths are alive; most have ended
def test_the_fork_is_drawn_piece_by_piece(now):
    found = load_pretrained("box")
    film, hidden, many = found.films.frames[1].float() / 255, tuple(2 <= t < 16 for t in range(20)), 24
    whole = fork_panel.tree(found.model, film, hidden, many)
    fig = fork_panel.draw_fork(found.model, latent_map(found.model), film, hidden, many, now)
    pieces, living = pieces_by_hand(whole, now)
    assert all(pieces.values()) == (now == 17) and pieces["interpolation"]
    for row, axes in ((0, [1, 2]), (1, [0, 1]), (2, [0, 2])):
        for name, wanted in pieces.items():
            points = line_of(fig, row, name).reshape(-1, 3, 2)
            assert np.isnan(points[:, 2]).all()
            ends = {tuple(v) for v in points[:, :2].reshape(-1, 4).tolist()}
            assert ends == {tuple(np.float64(np.array(v).reshape(2, 3)[:, axes].ravel()).tolist()) for v in wanted}
        marks = [a for a in drawn(fig, Line2D, row) if a.get_color() == PALETTE["filtering"]]
        weight = whole.weight[now] / whole.weight[now].max()
        sizes = {a.get_markersize(): len(a.get_xdata()) for a in marks}
        ends = [0.05, 0.2, 0.5, 2.0]
        counts = [int(((weight > a) & (weight <= b)).sum()) for a, b in zip(ends, ends[1:])]
        assert [sizes[k] for k in sorted(sizes)] == counts and counts[-1]
    np.testing.assert_allclose(line_of(fig, 3, "truth"), [(t, whole.effective[t]) for t in range(now + 1)])
    again = [t for t in range(now + 1) if whole.parent[t].tolist() != list(range(many))]
    for row in (1, 2, 3):
        red = [a.get_xdata()[0] for a in drawn(fig, Line2D, row) if a.get_color() == PALETTE["wrong"]]
        assert red == [t - 0.5 for t in again] and bool(again) == (now == 17)
        assert shaded(fig, row) == list(range(2, 16))
    left = len({k for t, k in living if t == 2})
    assert title_of(fig) == f"{whole.effective[now]:.0f} of {many} effective; {left} alive of frame 2"


def test_the_chorale_is_drawn_chord_by_chord():
    found = load_sequence_model("chorales")
    before = found.sequences.x[0].bool()
    top = int(before[12].nonzero().max()) + chorale_panel.LOWEST
    assert [chorale_panel.nearest_note(before, 12, top + v) for v in (2.0, 2.1)] == [top, None]
    now = chorale_panel.with_moved(before, 12, top, top + 3)
    fig = chorale_panel.draw_chorale(found.model, now, before, temperature=0.4)
    new = chorale_panel.read_roll(found.model, now, temperature=0.4)
    old = chorale_panel.read_roll(found.model, before, 0)
    for name, reading in (("wrong", new), ("copy_last", old)):
        np.testing.assert_allclose(line_of(fig, 1, name), list(enumerate(reading.surprise.tolist())))
    assert title_of(fig) == f"surprise {new.surprise.sum():.1f} nats, as it was {old.surprise.sum():.1f}"
    [image] = [a for a in fig.artists if type(a) is BboxImage]
    colors = {"#ffffff": "", to_hex(PALETTE["truth"]): "k", to_hex(PALETTE["hidden"]): "h"}
    colors |= {to_hex(PALETTE["wrong"]): "w", to_hex(PALETTE["filtering"]): "f"}
    seen = np.array([[colors[to_hex(p / 255)] for p in row] for row in image.get_array()])
    for t in range(40):
        for pitch in range(chorale_panel.LOW, chorale_panel.HIGH):
            key = pitch - chorale_panel.LOWEST
            if t < 32:
                wanted = ("h" if before[t, key] else "") if not now[t, key] else "k" if before[t, key] else "w"
            else:
                wanted = "f" if new.after[t - 32, key] else ""
            assert seen[chorale_panel.HIGH - 1 - pitch, t] == wanted
    assert {v for row in seen for v in row} == {"", "k", "h", "w", "f"}
    warm = chorale_panel.read_roll(found.model, now, temperature=1.5)
    assert not torch.equal(warm.after, new.after)
