"""The panels of notebooks 55d to 55i in a real JupyterLab, on a desk and on a telephone: the picture is dragged, or a
button pressed, and the picture must change. Those of notebook 55 are moved by test_explore.py."""

from typing import NamedTuple

import pytest
from lab_pages import changes, cut, drag, errors, panel_of


class Panel(NamedTuple):
    "A panel, and what is done to it on a desk; on a telephone it is dragged back, or the other button is pressed."

    call: str  # in the code of its cell
    way: tuple[tuple[float, float], ...] = ()  # places of the picture, as fractions of it from the lower left corner
    buttons: tuple[str, str] = ("", "")
    number: str = ""  # what is written into its field on the telephone, before


BOOKS = {
    "55d_swap_panel.ipynb": {"swap": Panel("swapping_panel(desk, look=0", buttons=("3", "4"))},
    "55e_game_panel.ipynb": {"game": Panel("board = game_panel(found", buttons=("right", "up"))},
    "55f_filter_panel.ipynb": {
        "gain": Panel("gain_panel()", ((0.6, 0.3), (0.8, 0.3))),
        "observation": Panel("filter_panel(hidden)", ((0.3, 0.5), (0.4, 0.6))),
        "hidden steps": Panel("filter_panel(hidden)", ((0.62, 0.15), (0.7, 0.15))),
    },
    "55g_ball_panel.ipynb": {
        "stroke": Panel("stroke_panel(model, films, gap", ((0.2, 0.6), (0.3, 0.6), (0.35, 0.6))),
        "guess": Panel("guess_panel(model, asked)", ((0.2, 0.4), (0.21, 0.4)), number="2"),  # a guess is not changed
        "throw": Panel("throw_panel(model)", ((0.2, 0.6), (0.3, 0.7), (0.3, 0.5))),
        "wall": Panel("throw_panel(model)", ((0.9, 0.6), (0.8, 0.6))),
    },
    "55h_fork_panel.ipynb": {"fork": Panel("fork_panel(model, films, gap", ((0.6, 0.5), (0.64, 0.5)))},
    "55i_chorale_panel.ipynb": {
        "chorale": Panel("chorale_panel(model, rolls, moved", ((0.396, 0.823), (0.396, 0.856)))
    },
}


def write(cell, number):
    "Writes into the number field of the panel."
    field = cell.locator("input[type=number]")
    field.fill(number)
    field.press("Enter")


@pytest.mark.parametrize("page", BOOKS, indirect=True)
def test_the_panels_are_moved(wide, request):
    width, fixed = wide.viewport_size["width"], {}
    for name, panel in BOOKS[request.node.callspec.params["page"]].items():
        cell, back = panel_of(wide, panel.call), width < 1000
        if panel.number and back:
            assert changes(wide, cell, lambda: write(cell, panel.number), f"{name}_{panel.number}"), name
        if panel.way:
            act = lambda: drag(wide, cell, *panel.way[:: -1 if back else 1])
        else:
            act = lambda: cell.get_by_role("button", name=panel.buttons[back], exact=True).first.click()
        assert changes(wide, cell, act, f"{name}_{width}"), name
        fixed[name] = cut(cell)
    assert not errors(wide) and not any(fixed.values()), fixed
