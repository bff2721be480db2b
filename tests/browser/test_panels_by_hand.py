"""The panels whose pictures are dragged, moved with the mouse in a real JupyterLab, on a desk and on a telephone."""

import pytest
from lab_pages import changes, drag, errors, keep

NOTEBOOK = "55g_ball_panel.ipynb"


def cell_of(page, call):
    "The cell that displays the panel."
    return (
        page.locator(".jp-CodeCell").filter(has_text=call).filter(has=page.locator(".jp-OutputArea .widget-text")).last
    )


@pytest.fixture(params=[1280, 390])
def wide(page, request):
    "The page in this width, without the side bar."
    page.set_viewport_size({"width": request.param, "height": 900})
    if page.locator("#jp-left-stack:visible").count():
        page.keyboard.press("Control+b")
    return page


def test_a_stroke_hides_frames(wide):
    cell = cell_of(wide, "stroke_panel(model")
    assert changes(wide, cell, lambda: drag(wide, cell, (0.2, 0.6), (0.3, 0.6), (0.35, 0.6)), "stroke")


def test_pulling_throws_the_ball(wide):
    cell = cell_of(wide, "throw_panel(model")
    width = wide.viewport_size["width"]  # another throw and wall on each, since the panel is the same one
    assert changes(wide, cell, lambda: drag(wide, cell, (0.2, 0.6), (0.3, 0.7), (0.28 + width / 3e4, 0.5)), "throw")
    assert changes(wide, cell, lambda: drag(wide, cell, (0.9, 0.6), (0.72 + width / 2e4, 0.6)), "wall")
    cell.locator(".jp-OutputArea img").last.scroll_into_view_if_needed()
    keep(wide, f"throw_{width}")


def test_a_guess_is_answered(page):
    cell = cell_of(page, "guess_panel(model")
    assert changes(page, cell, lambda: drag(page, cell, (0.2, 0.4), (0.21, 0.4)), "guess")


def test_no_error_has_appeared(page):
    assert not errors(page)
