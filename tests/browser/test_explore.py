"""The panels of notebook 55 in a real JupyterLab and a real browser: a slider is moved, and the picture must change.
On a desk and on a telephone nothing of a panel is cut off.

Not collected by `pytest tests`; run by `make test-browser`. What is missing here is a failure, never a skip.
"""

import pytest
from lab_pages import changes, cut, drag, errors, panel_of

NOTEBOOK = "55_explore.ipynb"
SLIDERS = {
    "draw_point": 0,
    "draw_tracking": 1,
    "draw_imputed": 0,
    "draw_regimes": 0,
    "draw_dreams": 0,
    "draw_collapse": 0,
}  # function → which of its sliders


def test_the_notebook_ran_without_an_error(page):
    assert not errors(page)
    assert page.locator(".jp-OutputArea .widget-vbox, .jp-OutputArea .widget-hbox").count() >= 6


@pytest.mark.parametrize("function", SLIDERS)
def test_a_slider_moved_with_the_keyboard_changes_the_picture(wide, function):
    cell = panel_of(wide, f"{function}(")
    handle = cell.locator(".noUi-handle").nth(SLIDERS[function])
    key = "ArrowLeft" if function in ("draw_collapse", "draw_point", "draw_imputed") else "ArrowRight"

    def move():
        handle.focus()
        for _ in range(3):
            wide.keyboard.press(key)

    assert changes(wide, cell, move, f"{function}_{wide.viewport_size['width']}")
    assert not cut(cell)


def test_hiding_a_frame_by_a_click_changes_the_picture(page):
    cell = panel_of(page, "draw_imputed(")
    assert changes(page, cell, lambda: cell.locator("button.widget-toggle-button").nth(15).click(), "draw_imputed")


def test_the_particles_can_be_switched_off(page):
    cell = panel_of(page, "draw_imputed(")
    handle = cell.locator(".noUi-handle").first

    def home():
        handle.focus()
        page.keyboard.press("Home")

    assert changes(page, cell, home, "draw_imputed_plugged_in")


@pytest.mark.parametrize("function, button", [("draw_collapse", "annealed"), ("draw_regimes", "2")])
def test_choosing_another_schedule_or_film_changes_the_picture(page, function, button):
    cell = panel_of(page, f"{function}(")
    assert changes(
        page, cell, lambda: cell.locator("button.widget-toggle-button", has_text=button).click(), f"{function}_{button}"
    )


@pytest.mark.parametrize(
    "function, start, end",
    [
        ("draw_point", (0.3, 0.6), (0.2, 0.4)),
        ("draw_tracking", (0.5, 0.15), (0.6, 0.2)),
        ("draw_imputed", (0.2, 0.8), (0.3, 0.8)),
    ],
)
def test_a_drag_over_the_picture_changes_it(page, function, start, end):
    cell = panel_of(page, f"{function}(")
    assert changes(page, cell, lambda: drag(page, cell, start, end), f"{function}_drag")


def test_no_error_has_appeared_since(page):
    assert not errors(page)
