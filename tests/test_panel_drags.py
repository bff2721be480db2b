"""The panels whose pictures are dragged, without a page: a drag in the coordinates of a plot, and what it moves.

In a browser they are dragged by tests/browser/test_panels_by_hand.py.
"""

from itertools import count, product
from typing import NamedTuple

import numpy as np
import pytest
import torch
from matplotlib.lines import Line2D

from kvae_nb.app import canvas, chorale_panel, filter_panel, fork_panel
from kvae_nb.training.pretrained import load_pretrained
from kvae_nb.training.pretrained_sequences import load_sequence_model

DRAGS = count(1)


class Driven(NamedTuple):
    "A panel that is not displayed."

    controls: tuple  # in the order of its `panel(…)`
    shown: object  # the widgets above the picture, if they are given
    figures: list  # drawn so far
    hand: object  # the field that tells of drags

    def pull(self, where, *way):
        "Drags from the first place to the last one, in the coordinates of the plot in this row and column."
        layout, drag = self.figures[-1].artists[0].layout, next(DRAGS)
        box, frame = canvas.boxes(layout)[where[0]][where[1]], layout.grid[where[0]][where[1]]
        share = lambda v, ends: (v - ends[0]) / (ends[1] - ends[0])
        x = lambda p: (box.x0 + share(p[0], frame.xlim) * box.width) / layout.width
        y = lambda p: (box.y0 + share(p[1], frame.ylim) * box.height) / layout.height
        for k, place in enumerate(way):
            done = int(k == len(way) - 1)
            self.hand.value = f"{drag} {x(way[0])} {y(way[0])} {x(place)} {y(place)} {done}"


@pytest.fixture
def drive(monkeypatch):
    "A panel of a module, driven by code."

    def make(module, name, *args):
        found = []

        def panel(draw, *controls, shown=None, touch=None):
            hand, figures = canvas.hand_of("kvae-test"), []
            figures.append(canvas.follow(draw, controls, figures.append, hand, touch))
            found.append(Driven(controls, shown, figures, hand))

        monkeypatch.setattr(module, "panel", panel)
        getattr(module, name)(*args)
        return found[0]

    return make


def outside(fig, windows=()):
    "The plots, by row, whose lines leave them; those of `windows` may."
    found = set()
    for row, [box] in enumerate(canvas.boxes(fig.artists[0].layout)):
        low, high = 80 * box.min - 0.5, 80 * box.max + 0.5  # pixels
        for line in (a for a in fig.artists if type(a) is Line2D):
            if np.allclose(line.get_clip_box().extents, 80 * box.extents) and len(line.get_xdata()):
                points = line.get_transform().transform(line.get_xydata())
                found |= {row} if (points < low).any() or (points > high).any() else set()
    return sorted(found - set(windows))


def at_all_ends(panel, *others):
    "A figure for every combination of the sliders' ends and of these values of the other controls."
    ends = [next((v for c, v in others if c is control), None) for control in panel.controls]
    ends = [(c.min, c.max) if v is None else v for c, v in zip(panel.controls, ends)]
    for values in product(*ends):
        for control, value in zip(panel.controls, values):
            control.value = value
        yield panel.figures[-1]


def test_what_leaves_its_plot_is_noticed():
    fig, [[upper], [lower]] = canvas.canvas(canvas.Layout(((canvas.Frame(),), (canvas.Frame(),)), 4, 4))
    upper.line([0, 1], [0, 1])
    assert outside(fig) == []
    lower.line([0.5], [1.01])
    assert outside(fig) == [1] and outside(fig, windows=[1]) == []


def test_the_gain_stays_in_its_plots(drive):
    panel = drive(filter_panel, "gain_panel")
    a = panel.controls[3]
    for fig in at_all_ends(panel, (a, filter_panel.HERE)):
        assert not outside(fig), [c.value for c in panel.controls]
    assert len(panel.figures) > 16


def test_the_standard_deviations_stay_in_their_plot_whatever_is_hidden(drive):
    panel = drive(filter_panel, "filter_panel", filter_panel.sample_track(hide=False))
    seen, hidden, *_ = panel.controls
    gaps = [tuple(first <= t < last for t in range(24)) for first, last in ((0, 0), (0, 24), (1, 24), (0, 23), (1, 23))]
    for fig in at_all_ends(panel, (seen, [seen.value]), (hidden, gaps)):
        assert not outside(fig, windows=(0, 1)), [c.value for c in panel.controls[1:]]
    assert len({fig.artists[0].layout for fig in panel.figures}) == 1  # one axis for all of them


def test_the_paths_of_particles_stay_in_their_plots(drive):
    found = load_pretrained("box")
    panel = drive(fork_panel, "fork_panel", found.model, found.films.frames[:4].float() / 255, (False,) + (True,) * 19)
    which, gone, *_ = panel.controls
    for fig in at_all_ends(panel, (which, (0, 3)), (gone, [gone.value])):
        assert not outside(fig), [c.value for c in panel.controls]


def test_the_surprise_stays_in_its_plot_and_a_note_on_the_roll(drive):
    found = load_sequence_model("chorales")
    panel = drive(chorale_panel, "chorale_panel", found.model, found.sequences.x.bool()[:2])
    piece, _, _ = panel.controls
    low, high = chorale_panel.LOW - 0.5, chorale_panel.HIGH - 0.5
    for note, to in zip((53, 68, 71, 77), (40, 41, 86, 87)):  # the chord of step 12, to where no chord is
        panel.pull((0, 0), (12.0, note), (12.0, to))
        assert not outside(panel.figures[-1])
    assert chorale_panel.read_roll(found.model, piece.value, 0).surprise[12] > 60
    for step, away, end in ((0, 1.9, low), (1, -1.9, high)):  # two semitones beside the note, farther than the roll
        note = int(piece.value[step].nonzero().max()) + chorale_panel.LOWEST
        panel.pull((0, 0), (step, note + away), (step, end))
        sounding = piece.value[step].nonzero()[:, 0] + chorale_panel.LOWEST
        assert sounding.min() >= chorale_panel.LOW and sounding.max() < chorale_panel.HIGH


def test_the_measurement_and_the_gain_are_dragged(drive):
    panel = drive(filter_panel, "gain_panel")
    K, _, _, a = panel.controls
    panel.pull((0, 0), (1.0, 0.2), (-2.0, 0.3))
    assert (a.value, K.value) == (-2.0, 0.3)
    panel.pull((1, 0), (0.3, 1.0), (0.9, 2.0), (0.75, 1.0))
    assert (a.value, K.value, len(panel.figures)) == (-2.0, 0.75, 5)


def test_an_observation_is_dragged_and_steps_are_hidden(drive):
    track = filter_panel.sample_track(hide=False)
    panel = drive(filter_panel, "filter_panel", track._replace(mask=torch.arange(24) != 4))
    seen, hidden, *_ = panel.controls
    place, new = track.seen[4].tolist(), [0.0, 5.0]
    panel.pull((1, 0), place, [6.0, 6.0], new)  # step 4 is hidden, so another one is the nearest
    moved = (seen.value != track.seen).any(1).nonzero().flatten().tolist()
    assert len(moved) == 1 and moved != [4] and torch.allclose(seen.value[moved[0]], torch.tensor(new).double())
    nearest = (track.seen - track.seen[4]).norm(dim=1).masked_fill(torch.arange(24) == 4, torch.inf).argmin()
    assert moved == [nearest] and len(panel.figures) == 4
    panel.pull((2, 0), (10, 1.0), (14, 0.2), (12, 0.5))
    assert [t for t, v in enumerate(hidden.value) if v] == [4, 10, 11, 12]


def test_the_frames_of_the_fork_are_hidden_by_a_drag_over_time(drive):
    found, gap = load_pretrained("box"), tuple(5 <= t < 9 for t in range(20))
    panel = drive(fork_panel, "fork_panel", found.model, found.films.frames[:2].float() / 255, gap)
    hidden = lambda: [t for t, v in enumerate(panel.controls[1].value) if v]
    panel.pull((0, 0), (0.0, 0.0), (1.0, 1.0))
    assert hidden() == [5, 6, 7, 8] and len(panel.figures) == 1
    for where, first, last, left in (
        ((1, 0), 11, 13, [5, 6, 7, 8, 11, 12, 13]),
        ((2, 0), 5, 8, [11, 12, 13]),
        ((3, 0), 13, 0, [11, 12]),  # pressed, 13 is shown; all of them cannot be: a tree needs a hidden frame
    ):
        panel.pull(where, (first, 0.0), (last, 0.0))
        assert hidden() == left
    assert [type(w).__name__ for w in panel.shown.children] == ["ToggleButtons", "IntSlider", "HBox"]


def test_a_note_is_pulled_and_put_back(drive):
    found = load_sequence_model("chorales")
    rolls = found.sequences.x.bool()[:2]
    panel = drive(chorale_panel, "chorale_panel", found.model, rolls)
    piece, which, _ = panel.controls
    top = int(rolls[0, 12].nonzero().max()) + chorale_panel.LOWEST
    panel.pull((0, 0), (12.2, top + 0.8), (12.2, top + 0.8))
    assert torch.equal(piece.value, rolls[0])
    panel.figures[1:] = []
    panel.pull((0, 0), (12.2, top + 0.8), (14.0, top - 3), (14.0, top + 5.2))
    assert torch.equal(piece.value, chorale_panel.with_moved(rolls[0], 12, top, top + 4)) and len(panel.figures) == 4
    for where, x, y in (((0, 0), 34.0, top), ((0, 0), 12.0, top + 10), ((1, 0), 12.0, 1.0)):
        panel.pull(where, (x, y), (x, y + 4))  # behind the piece, far from any note, and in the lower plot
    assert len(panel.figures) == 4
    undo, _ = panel.shown.children[2].children
    undo.click()
    assert torch.equal(piece.value, rolls[0])
    which.value = 1
    assert torch.equal(piece.value, rolls[1])
