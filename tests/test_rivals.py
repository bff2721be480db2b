"""The comparison with NCDSSM: its data beside closed forms and a solver, its baselines and scores by hand, what is
hidden stays hidden, and a missing checkout is refused.
"""

import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.special import ellipj, ellipk

from kvae_nb.core.errors import InputError

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks" / "rivals"
sys.path[:0] = [str(FOLDER), str(FOLDER.parent)]

import compare  # noqa: E402
import rival_data  # noqa: E402
import rival_ncdssm  # noqa: E402
import rival_ours  # noqa: E402

rng = lambda: np.random.default_rng(3)


def test_the_ball_keeps_its_speed_and_turns_in_the_step_after_a_wall():
    y = rival_data.bounces(40, 400, rng())[..., 0]
    steps = np.diff(y, axis=1)
    speed = abs(steps[:, :1])
    np.testing.assert_allclose(abs(steps), speed.repeat(399, 1), rtol=1e-9)
    assert 0.005 <= speed.min() and speed.max() <= 0.05 and abs(y).max() < 1.05
    for path, d in zip(steps, speed[:, 0]):
        turns = np.flatnonzero(np.diff(np.sign(path)))
        assert all(2 <= n * d < 2 + 2 * d for n in np.diff(turns))  # from beyond one wall to beyond the other


def test_the_damped_pendulum_is_that_of_a_solver():
    found, normal = rival_data.pendulum(4, 60, rng()), rng().standard_normal((4, 2)).clip(-2, 2)
    slope = lambda t, y: [y[1], -9.81 / 2 * np.sin(y[0]) - 0.25 * y[1]]
    for path, (a, b) in zip(found, normal):
        exact = solve_ivp(slope, (0, 5.9), [math.pi + a, 4 * b], t_eval=np.arange(60) * 0.1, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(path, np.stack([np.sin(exact.y[0]), -np.cos(exact.y[0])], 1) / 2, atol=1e-5)


def test_a_rod_let_go_swings_as_the_elliptic_functions_say():
    phi, omega = np.moveaxis(rival_data.pushed_swing(5, 60, rng(), friction=0.0, push=0.0), -1, 0)
    m, t = np.sin(phi[:, :1] / 2) ** 2, 0.05 * np.arange(60) * math.sqrt(3 * 9.81)
    _, cn, dn, _ = ellipj(t, m)
    np.testing.assert_allclose(np.sin(phi / 2), np.sin(phi[:, :1] / 2) * cn / dn, atol=2e-4)
    energy = omega**2 / 2 - 3 * 9.81 * np.cos(phi)
    np.testing.assert_allclose(energy, energy[:, :1].repeat(60, 1), atol=1e-3)
    quarter = ellipk(m[0, 0]) / math.sqrt(3 * 9.81)  # until it first hangs down
    first = np.flatnonzero(np.sign(phi[0]) != np.sign(phi[0, 0]))[0]
    assert 0.05 * (first - 1) <= quarter <= 0.05 * first


def test_kicks_have_their_size():
    omega = rival_data.pushed_swing(4000, 2, rng(), push=0.1)[:, 1, 1]
    quiet = rival_data.pushed_swing(4000, 2, rng(), push=0.0)[:, 1, 1]
    assert abs((omega - quiet).std() / 0.1 - 1) < 4 / math.sqrt(2 * 4000)


def test_a_rod_covers_its_area_and_points_along_its_angle():
    for angle in (0.0, 0.7, 2.0, -1.1):
        image = rival_data.rod(angle).astype(float) / 255
        assert abs(image.sum() / (55 * 8 / 128**2 * 24**2) - 1) < 0.03
        at = np.arange(24) + 0.5 - 12
        x, down = (image.sum(0) @ at / image.sum(), image.sum(1) @ at / image.sum())
        length = 55 / 128 * 24 / 2
        np.testing.assert_allclose([x, down], [length * math.sin(angle), length * math.cos(angle)], atol=0.15)
    same = rival_data.rods(np.array([[0.5, 0.5 + 2 * math.pi], [0.5 - 2 * math.pi, 0.5]]))
    assert same.shape == (2, 2, 24, 24) and (same == same[0, 0]).all()


@pytest.mark.parametrize("missing", [0.3, 0.8])
def test_noise_and_masks_are_what_they_are_called(missing):
    made = rival_data.numbers("ball", missing, 200, "test")
    assert made.noisy.shape == (200, 300, 1) and made.seen.shape == (200, 100)
    assert abs((made.noisy - made.clean).std() / 0.05 - 1) < 4 / math.sqrt(2 * made.noisy.size)
    assert abs(made.seen.mean() - (1 - missing)) < 4 * math.sqrt(missing * (1 - missing) / made.seen.size)
    other = rival_data.numbers("ball", missing, 200, "train")
    assert not np.allclose(other.clean, made.clean)


def test_images_and_films_show_their_first_frames():
    made = rival_data.images(40, seed=5)
    assert made.frames.shape == (40, 75, 24, 24) and made.seen[:, :5].all()
    assert abs(made.seen[:, 5:].mean() - 0.5) < 4 * 0.5 / math.sqrt(40 * 70)
    films = rival_data.new_films("box", 3, seed=7)
    assert films.frames.shape == (3, 60, 32, 32) and films.frames.dtype == bool and films.seen[:, 0].all()


def made_by_hand():
    "A line of which the steps 1 and 2 are hidden, and two steps ahead."
    noisy = np.array([0.0, 9.0, 9.0, 3.0, 5.0, 5.0])[None, :, None]
    return rival_data.Numbers(noisy, noisy, np.array([[True, False, False, True]]))


def test_baselines_and_errors_by_hand():
    made = made_by_hand()
    assert compare.straight(made)[0, :, 0].tolist() == [0, 1, 2, 3, 3, 3]
    assert compare.last_value(made)[0, :, 0].tolist() == [0, 0, 0, 3, 3, 3]
    assert compare.errors(compare.straight(made), made) == {"imputation": (64 + 49) / 2, "forecast": 4.0}
    frames = np.zeros((1, 4, 2, 2), dtype=bool)
    frames[0, 0], frames[0, 2:, 0] = True, True
    films = rival_data.Films(frames, np.array([[True, False]]))
    found = compare.wrong(compare.copied(films), films)
    assert found["imputation"] == 1.0 and found["forecast"] == 0.5
    half = compare.nats(torch.full((1, 2, 2, 2), 0.5), rival_data.Films(255 * np.ones((1, 2, 2, 2)), films.seen))
    assert half["all"] == half["hidden"] == round(4 * math.log(0.5), 3)


def test_what_is_hidden_reaches_neither_model():
    made = rival_data.numbers("pendulum", 0.3, 3, "test")
    x, seen = (torch.from_numpy(v) for v in (made.noisy[:, :50], made.seen))
    spoiled = torch.where(seen[..., None], x, math.nan)
    model, given = rival_ours.mixed(2), []
    a, b = (rival_ours.predicted_numbers(model, v, seen, 4) for v in (x, spoiled))
    assert torch.equal(a, b) and a.shape == (3, 54, 2) and a.isfinite().all()

    def forecast(y, mask, past, later, num_samples, **more):
        given.append((y, mask))
        aux = lambda n: torch.ones(num_samples, len(y), n, 2)
        return {"aux_reconstruction": aux(len(past)), "aux_forecast": aux(len(later))}

    emission = lambda aux: SimpleNamespace(mean=3 * aux)
    stub = SimpleNamespace(eval=lambda: None, forecast=forecast, y_emission_net=emission)
    found = rival_ncdssm.predicted(stub, spoiled, seen, 4)
    assert torch.equal(found, torch.full((3, 54, 2), 3.0))
    assert all((y[mask == 0] == 0).all() and y.isfinite().all() for y, mask in given)


@pytest.mark.parametrize("task", ["vectors", "films"])
def test_a_missing_checkout_is_refused_in_one_sentence(task, tmp_path, monkeypatch, capsys):
    out = tmp_path / "result.json"
    words = ["compare.py", task, "--checkout", str(tmp_path), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        compare.main()
    said = capsys.readouterr().err.strip()
    assert ended.value.code == 2 and said.count("\n") == 0 and "no checkout of NCDSSM" in said and not out.exists()
    with pytest.raises(InputError, match="README"):
        rival_ncdssm.opened(tmp_path / "nowhere")
