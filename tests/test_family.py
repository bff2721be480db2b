"""What the one table (experiments/family.py) counts, on films whose answer is known by construction."""

import importlib

import numpy as np
import pymunk
import pytest
import torch
from results import ROOT
from torch.testing import assert_close

SIDE, EDGE = 32, 5


@pytest.fixture(scope="module")
def measures():
    "The script's measures, which are no part of the package."
    with pytest.MonkeyPatch.context() as context:
        context.syspath_prepend(ROOT / "experiments")
        return importlib.import_module("family_measures")


def squares(*corners):
    "A film [1, time, 1, 32, 32] of a white square with these (column, row) of its first corner; None: an empty frame."
    x = torch.zeros(1, len(corners), 1, SIDE, SIDE)
    for t, corner in enumerate(corners):
        if corner is not None:
            column, row = corner
            x[0, t, 0, row : row + EDGE, column : column + EDGE] = 1
    return x


NOTHING = torch.zeros(SIDE, SIDE, dtype=torch.bool)


def test_a_square_that_is_moved_by_3_and_4_pixels_is_5_away(measures):
    truth, made = squares((4, 6), (20, 9)), squares((7, 10), (17, 5))
    found = measures.forecast_scores(made, truth, NOTHING)
    assert_close(found["distance"], [5.0, 5.0])
    differ = 2 * (EDGE**2 - (EDGE - 3) * (EDGE - 4))
    assert_close(found["wrong"], [differ / SIDE**2] * 2)
    assert found["near"] == [0.0, 0.0]
    assert measures.forecast_scores(truth, truth, NOTHING) == {k: [float(k == "near")] * 2 for k in found}


def test_the_centre_of_two_equally_probable_squares_is_in_the_middle_and_walls_do_not_count(measures):
    walls = NOTHING.clone()
    walls[2] = True
    truth, other = squares((4, 10)), squares((14, 10))
    expected = (truth + other) / 2
    expected[..., walls], truth[..., walls] = 1, 1
    assert_close(measures.forecast_scores(expected, truth, walls)["distance"], [5.0])
    gone = measures.forecast_scores(torch.where(walls, 1.0, torch.zeros_like(truth)), truth, walls)
    assert gone["distance"] == [SIDE] and gone["near"] == [0.0]  # no ball at all


def test_copying_loses_a_square_by_one_pixel_a_step(measures):
    first = [(4, 10)] * (measures.SEEN - 1)
    x = squares(*first, *((4 + k, 10) for k in range(20)))
    found = measures.forecast(measures.copied, x, NOTHING)
    assert_close(found["distance"], [float(k) for k in range(1, 20)])
    assert_close(found["wrong"], [2 * EDGE * min(k, EDGE) / SIDE**2 for k in range(1, 20)])
    assert found["near"] == [1.0] * 3 + [0.0] * 16
    assert measures.forecast(measures.interpolated, x, NOTHING) == found  # nothing is seen afterwards


def test_interpolation_is_exact_where_pixels_are_linear_in_time(measures):
    x = (torch.arange(20.0) / 19)[None, :, None, None, None].expand(3, -1, 1, 8, 8)
    straight, copy = (measures.imputation(p, x) for p in (measures.interpolated, measures.copied))
    for n in measures.GAPS:
        only = straight[f"gap {n}"]
        assert set(only) == {"smoothing"} and set(copy[f"gap {n}"]) == {"filtering"}
        truth = torch.arange(4.0, 4 + n).double() / 19
        blank = (truth - truth.round()).square().mean() * 64  # a true pixel is on or off
        assert_close(only["smoothing"]["brier"], blank.item(), atol=1e-5, rtol=1e-5)
        assert only["smoothing"]["wrong"] == 0
        away = (3 / 19 - truth.round()).square().mean() * 64
        assert_close(copy[f"gap {n}"]["filtering"]["brier"], away.item(), atol=1e-5, rtol=1e-5)


def test_no_predictor_is_shown_what_is_hidden(measures):
    x, asked = torch.rand(4, 20, 1, 8, 8), []

    def spy(shown, mask):
        asked.append(((shown[~mask] == 0).all(), torch.equal(shown[mask], x[mask]), tuple(mask.sum(1).tolist())))
        return shown, shown

    measures.imputation(spy, x)
    assert len(asked) == 8 and all(blank and same for blank, same, _ in asked)
    assert [seen for *_, seen in asked[:5]] == [(20 - n,) * 4 for n in measures.GAPS]


def test_pixel_scores_are_those_of_bernoulli_pixels(measures):
    p, y = torch.rand(50, 64).clamp(0.01, 0.99), (torch.rand(50, 64) < 0.4).float()
    found = measures.pixel_scores(p, y)
    right = torch.distributions.Bernoulli(p.double()).log_prob(y.double()).sum(1).mean()
    assert_close(found.log_score, right.item())
    assert_close(found.brier, torch.nn.functional.mse_loss(p, y).item() * 64, atol=1e-5, rtol=1e-5)
    assert sum(n for n, *_ in found.bins) == p.numel()


def test_groups_say_whether_probabilities_are_right(measures):
    quarter = torch.full((1, 64), 0.25)
    right, sure = torch.zeros(1, 64), torch.zeros(1, 64)
    right[:, :16], sure[:, :32] = 1, 1
    assert_close(measures.pixel_scores(quarter, right).calibration, 0.0)  # a quarter of them is on
    assert_close(measures.pixel_scores(quarter, sure).calibration, 16.0)  # half of them: a quarter of 64 too many
    never = measures.pixel_scores(torch.zeros(1, 64), right)
    assert_close(never.log_score, 16 * np.log(measures.LEAST) + 48 * np.log(1 - measures.LEAST))


def pymunk_states(start, steps):
    "The same launch in pymunk as it is when nothing is set: walls of no thickness, a step of .2."
    space, body = pymunk.Space(), pymunk.Body(1, 1)
    body.position, body.velocity = (tuple(map(float, half)) for half in (start[:2], start[2:]))
    ball = pymunk.Circle(body, 3)
    ball.elasticity = 1
    space.add(body, ball)
    corners = [(2, 2), (30, 2), (30, 30), (2, 30)]
    for a, b in zip(corners, corners[1:] + corners[:1]):
        wall = pymunk.Segment(space.static_body, a, b, 0)
        wall.elasticity = 1
        space.add(wall)
    found = []
    for _ in range(steps):
        found.append((*body.position, *body.velocity))
        space.step(0.2)
    return np.array(found)


def test_films_move_as_pymunk_moves_them_and_are_drawn_where_they_are(measures):
    state = measures.engine_states(6, 60, seed=5)
    for film in state:
        assert_close(film, pymunk_states(film[0], 60), atol=1e-6, rtol=0)
    films = measures.engine_films(6, 60, seed=5)
    background = (films.frames[:, :, 0] > 127).flatten(0, 1).all(0)
    at = measures.centre(films.frames[:, :, 0] / 255, background)
    here = torch.stack([films.state[..., 0], SIDE - films.state[..., 1]], -1)
    assert (at - here).abs().median() < 1  # the ball's pixels, cut off to whole numbers
    assert_close(films.state, torch.from_numpy(state).float())


def test_who_knows_the_rule_is_right_where_copying_is_not(measures):
    budget = importlib.import_module("budget")
    films = measures.engine_films(40, 60, seed=8)
    x = films.frames.float() / 255
    cells = measures.film_cells(films.state.double().numpy(), x, 0)
    images, some = budget.pictures(cells), budget.Films(*(v[:2] for v in cells))
    background = (x > 0.5).flatten(0, 2).all(0)
    known = measures.forecast(measures.limit(some, images), x[:2], background)
    assert (
        max(known["distance"][:10])
        < 1
        < 5
        < min(measures.forecast(measures.copied, x[:2], background)["distance"][5:10])
    )


def test_rollouts_repeat_themselves_and_leave_the_generator_alone(measures):
    class Echo:
        def generate(self, steps, x, generator):
            frames = torch.rand(len(x), steps, 1, 4, 4, generator=generator) + torch.rand(1)
            return type("Made", (), {"frames": frames, "expected": None})

    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, again = (measures.rollouts(Echo(), torch.zeros(2, 1, 1, 4, 4), 5) for _ in range(2))
    assert torch.equal(one, again) and torch.equal(before, torch.get_rng_state())
