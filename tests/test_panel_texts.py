"""The texts of all panels' pictures: large enough where a telephone shows a picture 270 pixels wide, none cut off, none
over another one."""

import json
from itertools import combinations
from pathlib import Path

import pytest
import torch
from matplotlib.text import Text

from kvae_nb.app import (
    ball_panel,
    canvas,
    chorale_panel,
    explore,
    filter_panel,
    fork_panel,
    game_panel,
    swap_panel,
)
from kvae_nb.models.identity import IdentityVAE
from kvae_nb.training.pretrained import load_pretrained
from kvae_nb.training.pretrained_sequences import load_sequence_model

STORED = Path(__file__).parent.parent / "experiments/results/collapse_mlp.json"
GAP = [5 <= t < 12 for t in range(20)]


def by_box():
    found = load_pretrained("box")
    model, films, generator = found.model, found.films.frames[:2].float() / 255, torch.Generator().manual_seed(0)
    world = explore.latent_map(model)
    yield explore.draw_point(model, world, -1.25, -2.75)
    yield explore.draw_imputed(model, films[0], GAP)
    with torch.no_grad():
        yield explore.draw_dreams(model.generate(40, 3, generator=generator), world, 39)
    yield ball_panel.draw_strokes(model, films[0], GAP)
    riddle = ball_panel.riddles(films)[-1]
    yield ball_panel.draw_riddle(model, riddle)
    yield ball_panel.draw_riddle(model, riddle, (30.0, 30.0))
    yield ball_panel.draw_throw(model, ball_panel.Throw(), 30.0, 5)
    yield fork_panel.draw_fork(model, world, films[0], GAP, 128, 12)


def by_switching():
    found = load_pretrained("box_switching")
    film = found.films.frames[0].float() / 255
    yield explore.draw_regimes(found.model, film, explore.turned(film), 8)


def by_track():
    track = explore.sample_track()
    yield explore.draw_tracking(track, explore.evidence_landscape(track, 3), -3.95, -1.95)
    yield filter_panel.draw_gain(0.3, 2.0, 1.0)
    yield filter_panel.draw_by_hand(track, -1.7, -0.3, 47)


def by_sequences():
    found = load_sequence_model("chorales")
    roll = found.sequences.x[0].bool()
    yield chorale_panel.draw_chorale(found.model, roll, roll)
    board = game_panel.Board(load_sequence_model("game").model, game_panel.ToyGame())
    for name in ("nothing", "right", "left", "nothing", "nothing"):
        board.move(name)
    yield game_panel.draw_game(board.turns)


def by_others():
    yield explore.draw_collapse(json.loads(STORED.read_text()), "annealed", 600)
    desk = swap_panel.swap_desk(IdentityVAE(), torch.rand(2, 8, 3, 64, 64))
    yield swap_panel.draw_swap(desk, 0, 1)


def beyond(axes):
    "The numbers that matplotlib has ready for an axis, but does not draw: they are beyond its ends."
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        for at, label in zip(axis.get_majorticklocs(), axis.get_ticklabels()):
            if not low - 1e-9 <= at <= high + 1e-9:
                yield label


def texts_of(fig):
    "What is written in a picture, and its box in pixels."
    for part in [fig] if fig.axes else [canvas.framed(fig.artists[0].layout), fig]:
        renderer, left_out = canvas.canvas_of(part).get_renderer(), [t for ax in part.axes for t in beyond(ax)]
        for text in part.findobj(Text):
            box = text.get_window_extent(renderer)
            if text.get_text() and text.get_visible() and box.width and text not in left_out:
                yield text, box


@pytest.mark.parametrize("pictures", [by_box, by_switching, by_track, by_sequences, by_others])
def test_texts_are_large_whole_and_apart(pictures):
    for fig in pictures():
        wide, high = 80 * fig.get_size_inches()
        found = list(texts_of(fig))
        assert found
        for text, box in found:
            assert text.get_fontsize() * 80 / 72 * 270 / wide > 8.99, text
            assert box.x0 > -1 and box.y0 > -1 and box.x1 < wide + 1 and box.y1 < high + 1, (text, box)
        for (one, a), (other, b) in combinations(found, 2):
            over = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
            assert min(over) < 3, (one, other, over)
