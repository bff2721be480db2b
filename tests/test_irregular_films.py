"""Films at any time: the container, readers, the Kalman VAE in continuous time and the command."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from kvae_nb.app.command import main
from kvae_nb.core.errors import InputError
from kvae_nb.data.clips import timed
from kvae_nb.data.films import VideoData, describe, mask_gap, split, to_float
from kvae_nb.data.irregular import simulate_irregular
from kvae_nb.data.opening import DataConfig, open_data, read_video_data, save_video_data, without_times
from kvae_nb.data.readers import equal_steps, film_times
from kvae_nb.data.sequences import from_films
from kvae_nb.data.shards import write_shards
from kvae_nb.evaluation.calibration import (
    gaussian_predictor,
    judge,
    particle_predictor,
    predict_hidden,
    probe_calibration,
)
from kvae_nb.evaluation.checks import generate_from
from kvae_nb.evaluation.imputation import imputation_errors
from kvae_nb.evaluation.probes import continue_films, latents_of
from kvae_nb.evaluation.report import EvaluationConfig, evaluate, examples
from kvae_nb.evaluation.scores import generated_error, held_out_elbo, latent_errors
from kvae_nb.inference.lgssm import dense_evidence
from kvae_nb.models.kvae import KVAE, KVAEConfig
from kvae_nb.models.skvae import SwitchingKVAE, SwitchingKVAEConfig
from kvae_nb.training.kinds import enlarged, fit_config_to_data, preset, settled
from kvae_nb.training.pretrained import check_terms
from kvae_nb.worlds.balls import simulate

f64 = torch.float64
TINY = dict(size=8, filters=2, units=8, dim_z=3, alpha_units=4, continuous=True)


def some_model(**chosen) -> KVAE:
    "A small model in float64 whose modes move."
    torch.manual_seed(0)
    model = KVAE(KVAEConfig(**(TINY | chosen))).double().eval()
    with torch.no_grad():
        for p in (model.dynamics.F, model.dynamics.C, model.dynamics.a0):
            p += 0.4 * torch.randn_like(p)
    return model.requires_grad_(False)


def frames_of(batch, steps):
    return (torch.rand(batch, steps, 1, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.7).to(f64)


def beliefs_at(beliefs, places):
    return [v[:, places] for v in (beliefs.a.mean, beliefs.a.cov, beliefs.z.mean, beliefs.z.cov, beliefs.frames)]


@pytest.mark.parametrize("dim_u", [0, 2])
def test_a_hidden_frame_in_the_middle_of_a_gap_changes_nothing(dim_u):
    "Constant weights: all gaps 1, and the same film with all gaps 1/2 and every second frame hidden."
    model, x = some_model(alpha="constant", K=1, dim_u=dim_u), frames_of(2, 5)
    u = torch.cat([torch.ones(2, 5, 1), torch.randn(2, 5, dim_u)], -1).to(f64)
    twice = u.repeat_interleave(2, 1)[:, 1:].clone()  # a control acts on both halves of its gap
    twice[..., 0] = 0.5
    wide = torch.full((2, 9, 1, 8, 8), torch.nan, dtype=f64)
    wide[:, ::2], mask = x, (torch.arange(9) % 2 == 0).expand(2, 9)
    whole, halves = model.impute(x, None, u), model.impute(wide, mask, twice, particles=0)
    for kind in ("smoothed", "filtered"):
        one, two = (getattr(v, kind) for v in (whole, halves))
        assert_close(beliefs_at(two, slice(None, None, 2)), beliefs_at(one, slice(None)))
    noise = model.noise(2, 9)
    bound, of_halves = model.elbo(x, None, u, noise._replace(a=noise.a[:, ::2])), model.elbo(wide, mask, twice, noise)
    assert_close(of_halves[:4], bound[:4])


def test_the_bound_is_the_dense_gaussian_of_the_times():
    "Oracle: A and Q by scipy's exponential and quadrature, and the joint of all a written out."
    from scipy.integrate import quad_vec
    from scipy.linalg import expm

    model, x = some_model(K=3, tick=0.25), frames_of(1, 5)
    times = torch.tensor([[3.0, 3.1, 3.9, 4.0, 6.0]], dtype=f64)
    d, noise, u = model.dynamics, model.noise(1, 5), timed(times).to(f64)
    a = model.posterior(x).sample(noise.a)
    gaps = np.array([1.0, 0.4, 3.2, 0.4, 8.0])  # in ticks; before the first frame none is known
    past = torch.cat([d.a0.expand(1, 1, -1), a[:, :-1]], 1)
    alpha = d.network(torch.cat([past, torch.tensor(gaps).log()[None, :, None]], -1)).softmax(-1)
    A, Q = [], []
    for t, gap in enumerate(gaps):
        F = np.einsum("k,kij->ij", alpha[0, t].numpy(), d.F.numpy())
        push = lambda s: expm(F * s) @ d.Q().numpy() @ expm(F * s).T
        A.append(expm(F * gap))
        Q.append(quad_vec(push, 0, gap, epsabs=0, epsrel=1e-11)[0])
    C = torch.einsum("tk,kij->tij", alpha[0], d.C)
    system = d.system(alpha, u)._replace(A=torch.tensor(np.stack(A)), Q=torch.tensor(np.stack(Q)), C=C)
    right = dense_evidence(system, a[0])
    assert_close(model.elbo(x, None, u, noise).log_prior[0], right, rtol=1e-6, atol=1e-6)
    assert_close(d.system(alpha, u).A[0], system.A, rtol=1e-6, atol=1e-6)


def test_times_from_another_origin_or_in_another_unit_are_the_same():
    film = VideoData(
        torch.randint(256, (2, 6, 1, 8, 8), dtype=torch.uint8), times=torch.rand(2, 6, dtype=f64).cumsum(1)
    )
    model, rows = some_model(K=2), torch.arange(2)
    later = replace(film, times=film.times + 2.0**30)  # as seconds since 1970 are: exact to 2^-23 there
    slower = replace(film, times=3 * film.times)
    of = lambda m, data: m.impute(to_float(data.frames).to(f64), None, data.batch(rows).u).smoothed.a.mean
    assert_close(of(model, later), of(model, film), rtol=0, atol=1e-5)
    other = some_model(K=2, tick=3.0)
    assert_close(of(other, slower), of(model, film), rtol=1e-5, atol=1e-5)
    assert (of(model, slower) - of(model, film)).abs().max() > 1e-4


def test_gaps_of_one_tick_are_no_gaps():
    model, x = some_model(K=3, tick=0.04), frames_of(2, 7)
    mask = torch.rand(2, 7, generator=torch.Generator().manual_seed(0)) > 0.4
    noise, ones = model.noise(2, 7), torch.full((2, 7, 1), 0.04)
    for seen in (None, mask):
        assert_close(model.elbo(x, seen, None, noise).elbo, model.elbo(x, seen, ones, noise).elbo)
        assert_close(model.impute(x, seen).smoothed.frames, model.impute(x, seen, ones).smoothed.frames)
        zeros = model.impute(x, seen, 0 * ones).smoothed.frames  # 0: nothing is known
        assert_close(model.impute(x, seen).smoothed.frames, zeros)
    makes = [model.generate(3, x=x, u=u, noise=False).frames for u in (None, torch.full((2, 10, 1), 0.04))]
    assert_close(*makes)


def test_particles_agree_with_the_filter_where_the_weights_are_constant():
    "K = 1: what is hidden does not change the system, so many particles tend to the exact answer."
    model, x = some_model(alpha="constant", K=1), frames_of(3, 7)
    u, mask = torch.rand(3, 7, 1).to(f64) + 0.2, torch.ones(3, 7, dtype=torch.bool)
    mask[:, 3:5] = False
    exact, drawn = (model.impute(x, mask, u, particles=n) for n in (0, 4000))
    spread = exact.smoothed.z.cov.diagonal(dim1=-2, dim2=-1).sqrt()
    for kind in ("smoothed", "filtered"):
        one, many = (getattr(v, kind).z.mean for v in (exact, drawn))
        assert ((one - many).abs() / spread).max() < 0.5  # smoothed by 64 kept paths: five times 1/√64 and a bit


def test_a_forecast_for_any_time():
    "Without noise one gap of 2 leads where gaps of .5 and 1.5 do; with noise states scatter as Q says."
    model, x = some_model(alpha="constant", K=1), frames_of(1, 4).expand(4000, -1, -1, -1, -1)
    gaps = lambda *new: torch.tensor([0.0, 1, 1, 1, *new]).expand(len(x), -1)[..., None]
    far = model.generate(1, x=x[:1], u=gaps(2.0)[:1], noise=False)
    near = model.generate(2, x=x[:1], u=gaps(0.5, 1.5)[:1], noise=False)
    assert_close(far.frames[:, -1], near.frames[:, -1])
    with torch.no_grad():
        z = model.generate(1, x=x, u=gaps(2.0), generator=torch.Generator().manual_seed(0)).z[:, 0]
    known = model.impute(x[:1], None, gaps()[:1]).filtered.z
    step = model.dynamics.move(model.dynamics.held(), torch.ones(1, 1, dtype=f64), gaps(2.0)[:1, -1], None)
    cov = (step.A @ known.cov[:, -1] @ step.A.mT + step.Q)[0]
    sd = cov.diagonal().sqrt()
    assert_close(torch.cov(z.T) / sd[:, None] / sd, cov / sd[:, None] / sd, rtol=0, atol=0.15)  # 1/√4000, nine times


def test_float32_over_many_orders_of_magnitude():
    "Noise stays positive definite, and gradients finite, for gaps from a thousandth to a hundred ticks."
    model = some_model(K=3).float().requires_grad_(True)
    d, alpha = model.dynamics, torch.rand(50, 3).softmax(-1)
    d.F.data -= 2 * torch.eye(3)  # all modes forget
    u = torch.logspace(-3, 2, 50)[:, None]
    step = d.move(d.held(), alpha, u, None)
    scale = step.Q.diagonal(dim1=-2, dim2=-1).sqrt()
    assert torch.linalg.eigvalsh(step.Q.detach() / scale[:, :, None] / scale[:, None]).min() > 1e-3
    (step.A.sum() + step.Q.sum()).backward()
    assert d.F.grad.isfinite().all() and d.F.grad.abs().max() > 0


def some_films(n=4, steps=6, **more) -> VideoData:
    times = torch.rand(n, steps, generator=torch.Generator().manual_seed(0), dtype=f64).cumsum(1) + 0.01
    frames = torch.randint(256, (n, steps, 1, 8, 8), dtype=torch.uint8)
    return VideoData(frames, times=times + torch.arange(steps) * 1e-3, **more)


def test_times_stay_with_their_frames(tmp_path):
    data = some_films(20, controls=torch.randn(20, 6, 2))
    for part in (data[3:9], data.subset([5, 1]), split(data, 0.2, 0.2).train, data.map(lambda v: v[:, 2:5])):
        assert part.times is not None and part.times.shape == part.frames.shape[:2]
    assert torch.equal(data[[5, 1]].times, data.times[[5, 1]])
    gaps = data.times[2:4].diff(dim=1).float()
    shards = write_shards(tmp_path / "s", [data[:11], data[11:]])
    save_video_data(tmp_path / "d.npz", data)
    for found in (data, shards, read_video_data(tmp_path / "d.npz")):
        u = found.batch(torch.tensor([2, 3])).u
        assert torch.equal(u[:, 1:, 0], gaps) and torch.equal(u[..., 1:], data.controls[2:4]) and not u[:, 0, 0].any()
        assert "times" in describe(found)
        less = without_times(found)
        assert torch.equal(less.batch(torch.tensor([2, 3])).u, data.controls[2:4])
        assert "times left out (all steps taken as equal)" in describe(less)
    cut = read_video_data(tmp_path / "d.npz", steps=3, stride=3)
    assert torch.equal(cut.times[1], data.times[0, 3:])
    assert torch.equal(from_films(data).controls, timed(data.times, data.controls))


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda t: t.index_put((torch.tensor(1), torch.tensor(2)), torch.tensor(torch.nan, dtype=f64)), "NaN or inf"),
        (lambda t: t.flip(1), "times should increase, but in clip 0 after"),
        (lambda t: t[:, :1].expand(-1, 6), "times should increase"),
        (lambda t: t.float(), "times is torch.float32"),
    ],
)
def test_what_are_no_times_is_refused_in_one_sentence(change, says, tmp_path):
    data = some_films()
    with pytest.raises(InputError, match=says) as refused:
        replace(data, times=change(data.times).contiguous())
    assert str(refused.value).endswith(".") and "\n" not in str(refused.value)


def test_a_file_with_times_that_do_not_increase_is_refused(tmp_path):
    images = np.zeros((2, 4, 8, 8), np.uint8)
    np.savez(tmp_path / "w.npz", images=images, times=np.array([[0, 1, 2, 3], [0, 2, 1, 3]]))
    with pytest.raises(
        InputError, match=r"w.npz: times should increase, but in clip 1 after 2 comes 1 \(frames 1 and 2"
    ):
        read_video_data(tmp_path / "w.npz")
    np.savez(tmp_path / "i.npz", images=images[0], times=np.array([0, 1, 3, 4]))
    found = read_video_data(tmp_path / "i.npz", layout="THW")  # one film, whole numbers
    assert found.times.tolist() == [[0.0, 1.0, 3.0, 4.0]]


def test_a_model_says_what_it_does_not_take():
    x, gaps = torch.rand(2, 5, 1, 8, 8).round(), torch.ones(2, 5, 1)
    plain = KVAE(KVAEConfig(**{**TINY, "continuous": False}))
    switching = SwitchingKVAE(SwitchingKVAEConfig(size=8, filters=2, K=2))
    for model in (plain, switching):
        with pytest.raises(InputError, match="of films with times leave them out, or use a KVAE with continuous=True"):
            model.impute(x, None, gaps)
    timely = KVAE(KVAEConfig(**TINY))
    with pytest.raises(InputError, match="comes 1 before the one before it"):
        timely.impute(x, None, -gaps)
    with pytest.raises(InputError, match="the first is the time since the frame before"):
        timely.impute(x, None, torch.ones(2, 5, 2))
    with pytest.raises(InputError, match="expects 3 controls"):
        KVAE(KVAEConfig(**TINY, dim_u=2)).impute(x)
    with pytest.raises(InputError, match="model.stable is 1.0, but limits what a step does"):
        KVAE(KVAEConfig(**TINY, stable=1.0))
    with pytest.raises(InputError, match="model.tick is 2.0, but is for continuous time"):
        KVAE(KVAEConfig(tick=2.0))


def test_the_tick_is_the_median_gap_and_times_are_used_or_left_out_aloud():
    data, base = some_films(), preset("demo")
    timely = replace(base, model=replace(base.model, continuous=True))
    fitted = fit_config_to_data(timely, data).model
    assert fitted.tick == pytest.approx(data.times.diff(dim=1).median().item(), rel=1e-3)
    assert fit_config_to_data(replace(timely, model=replace(timely.model, tick=3.0)), data).model.tick == 3.0
    with pytest.raises(InputError, match="these clips have times, but this model takes all steps as equal"):
        fit_config_to_data(base, data)
    assert (settled(base).data.times, settled(timely).data.times) == (False, True)
    left = replace(timely, data=replace(timely.data, times=False))
    assert settled(left) == left


def test_films_at_random_times_are_films_of_the_same_balls():
    "Where a time is a whole number, the frame is the one that `simulate` takes; contacts add up."
    data = simulate_irregular("box", 40, 12, seed=3, size=16, shortest=0.25, longest=1.75)
    gaps = data.times.diff(dim=1)
    assert gaps.min() == 0.25 and gaps.max() == 1.75 and (8 * gaps == (8 * gaps).round()).all()
    plain, found = simulate(sequences=40, steps=24, seed=3, size=16), 0
    for n, t in (data.times == data.times.round()).nonzero().tolist():
        k = int(data.times[n, t])
        if not plain.contacts[n, : k + 1].any():  # a bounce happens at the physics step after the touch, which is finer
            assert_close(data.state[n, t], torch.from_numpy(plain.state[n, k]), rtol=0, atol=1e-3)
            found += 1
    assert found > 50
    whole = simulate_irregular("box", 40, 12, seed=3, size=16, shortest=1, longest=1)
    assert torch.equal(whole.times, torch.arange(12, dtype=f64).expand(40, -1))
    assert (whole.contacts.numpy() == plain.contacts[:, :12]).mean() > 0.98
    with pytest.raises(InputError, match="gaps from 0 to 1 steps are not possible"):
        simulate_irregular(sequences=2, shortest=0, longest=1)


@pytest.fixture(scope="module")
def timely():
    "A small model in continuous time in float32, and films with states at random times."
    model = some_model(K=2, size=16, filters=2).float()
    return model, simulate_irregular("box", 24, 12, seed=1, size=16)


MASK = mask_gap(24, 12, 4, 4)
MEASURED = {  # what takes a model and films
    "held_out_elbo": lambda m, d: held_out_elbo(m, d, samples=1).per_frame,
    "imputation_errors": lambda m, d: imputation_errors(m, d, MASK, particles=0).mse["smoothing"],
    "by interpolation": lambda m, d: imputation_errors(m, d, MASK, particles=0).mse["pixel_interpolation"],
    "latent_errors": lambda m, d: latent_errors(m, d, MASK, particles=0)["smoothing"],
    "generated_error": lambda m, d: generated_error(m, d)["rms"],
    "probe_calibration": lambda m, d: probe_calibration(m, d),
    "latents_of": lambda m, d: latents_of(m, d).filtered,
    "continue_films": lambda m, d: continue_films(m, d, 8, 4, sampled=False),
    "examples": lambda m, d: [e.smoothed for e in examples(m, d, MASK, 24)],
    "check_terms": lambda m, d: check_terms(m, d),
    "predict_hidden": lambda m, d: predicted(m, d, gaussian_predictor(m.dynamics.R().double())),
    "predict_hidden by particles": lambda m, d: predicted(m, d, particle_predictor(8)),
}


def predicted(model, data, how):
    "Where the hidden codes are said to be."
    found = predict_hidden(model, data, MASK, how).predicted
    return [judge(prediction, torch.zeros(96, 2).double(), torch.full((96, 3), 0.5)).error for prediction in found]


def numbers_in(found) -> list[float]:
    "All numbers of nested lists, tuples and dictionaries."
    if torch.is_tensor(found):
        return found.flatten().double().tolist()
    if isinstance(found, dict | list | tuple):
        return [v for part in (found.values() if isinstance(found, dict) else found) for v in numbers_in(part)]
    return [float(found)] if isinstance(found, int | float) else []


@pytest.mark.parametrize("name", MEASURED)
def test_what_is_measured_hangs_on_the_times(name, timely):
    "Other times, another number; the same from another origin, the same one. A model without times refuses them."
    model, data = timely
    ask = lambda model, data: numbers_in(MEASURED[name](model, data))
    found, later = ask(model, data), ask(model, replace(data, times=data.times + 64))
    assert found and found == pytest.approx(later, rel=1e-6, abs=1e-7, nan_ok=True)
    other = ask(model, replace(data, times=(data.times**1.1).contiguous()))
    assert found != pytest.approx(other, rel=1e-6, abs=1e-7, nan_ok=True)
    plain = KVAE(KVAEConfig(size=16, filters=2))
    with pytest.raises(InputError, match="of films with times leave them out, or use a KVAE with continuous=True"):
        MEASURED[name](plain, data)
    if name != "predict_hidden":  # whose covariance is one of the model in continuous time
        assert numbers_in(MEASURED[name](plain, without_times(data)))


def test_particles_follow_a_kvae_alone(timely):
    films = without_times(timely[1])
    other = SwitchingKVAE(SwitchingKVAEConfig(size=16, filters=2))
    with pytest.raises(InputError, match="a SwitchingKVAE has none, so take gaussian_predictor"):
        predict_hidden(other, films, MASK, particle_predictor(8))
    model = KVAE(KVAEConfig(size=16, filters=2))
    found = [predict_hidden(model, films, MASK, particle_predictor(8)) for _ in range(2)]
    assert torch.equal(found[0].predicted.smoothed[0], found[1].predicted.smoothed[0])


def test_all_parts_of_an_evaluation_hang_on_the_times(timely):
    model, data = timely[0], timely[1][:6]
    config = EvaluationConfig(gaps=(4,), drops=(), generate_count=2, generate_steps=3, particles=8)
    found, other = evaluate(model, data, config), evaluate(model, replace(data, times=data.times**1.1), config)
    for part in ("elbo_per_frame", "one_step", "generated", "a_nrmse"):
        assert found[part] != other[part], part
    for how in ("smoothing", "filtering", "interpolation", "pixel_interpolation"):
        assert found["imputation"]["gap"]["4"]["mse"][how] != other["imputation"]["gap"]["4"]["mse"][how], how


def test_what_goes_on_with_a_film_comes_at_the_films_times(timely):
    model, data = timely
    batch = data[:3].batch(torch.arange(3))
    gaps = torch.cat([batch.u, torch.zeros(3, 5, 1)], 1)  # where the film has ended, one tick each
    right = model.generate(13, x=batch.x[:, :4], u=gaps, generator=torch.Generator().manual_seed(0)).frames
    assert_close(generate_from(model, data, 13, 3), right)


def test_a_clip_shown_backwards_has_its_gaps_backwards():
    data = some_films()
    more = enlarged(data, "mirror+reverse")
    gaps = data.times.diff(dim=1)
    assert_close(more.times.diff(dim=1), torch.cat([gaps, gaps, gaps.flip(1), gaps.flip(1)]))
    assert torch.equal(more.frames[8:12], data.frames.flip(1))


LENGTHS = [0.1, 0.3, 0.1, 0.1, 0.5, 0.1, 0.2, 0.1, 0.4]


def film_with(path: Path, lengths) -> Path:
    "A film whose frames, with 2, 4, 6 … white columns, are shown for so many seconds each."
    lines = []
    for k, seconds in enumerate(lengths):
        frame = np.zeros((32, 32, 3), np.uint8)
        frame[:, : 2 * k + 2] = 255
        Image.fromarray(frame).save(path.parent / f"{k:03d}.png")
        lines.append(f"file '{k:03d}.png'\nduration {seconds}\n")
    (path.parent / "list.txt").write_text("".join(lines) + f"file '{len(lengths) - 1:03d}.png'\n")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "concat", "-i", str(path.parent / "list.txt")]
    subprocess.run([*command, "-fps_mode", "vfr", "-pix_fmt", "yuv420p", str(path)], check=True)
    return path


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_a_film_with_a_variable_frame_rate_is_read_frame_by_frame(tmp_path, ending):
    path = film_with(tmp_path / f"film.{ending}", LENGTHS)
    data = read_video_data(path, size=16)
    when = np.cumsum([0, *LENGTHS])[: len(LENGTHS)]
    assert np.abs(data.times[0].numpy()[: len(when)] - when).max() <= 0.03  # the encoder rounds to 1/25 s
    white = (data.frames[0, :, 0] > 128).float().mean((-1, -2)) * 32
    assert_close(white[: len(when)], 2.0 * torch.arange(1, len(when) + 1), rtol=0, atol=1.01)
    assert "time stamps from" in describe(data) and "with times" in describe(data)
    clips = read_video_data(path, steps=3, stride=2, size=16)
    assert torch.equal(clips.times[1], data.times[0, 2:5])
    equal = open_data(DataConfig(path=str(path), steps=5, size=16, binarize=False, times=False))
    assert equal.times is None and "a variable frame rate brought to equal steps" in describe(equal)
    assert len(equal) * 5 > len(when)  # frames are repeated


def test_equal_steps_need_no_times(tmp_path):
    path = film_with(tmp_path / "film.mp4", [0.08] * 6)
    data = read_video_data(path, size=16)
    assert data.times is None and "time" not in describe(data)
    assert len(film_times(path)) == data.steps
    assert equal_steps(np.arange(9) / 30) and equal_steps(np.round(np.arange(9) / 30, 3))
    assert not equal_steps(np.array([0, 0.033, 0.066, 0.133]))
    (tmp_path / "no.mp4").write_bytes(b"no film")
    assert film_times(tmp_path / "no.mp4") is None


SHORT = (
    "--preset demo --data.steps 6 --data.size 16 --model.filters 4 --model.alpha_units 8 --train.batch_size 8 "
    "--train.device cpu --train.threads 1 --train.picture_every 0 --epochs 1 --out runs"
)


def kvae(line, capsys):
    code = main(line.split())
    return code, "".join(capsys.readouterr())


def test_the_command_trains_imputes_and_generates_with_times(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = simulate_irregular("box", 40, 6, size=16)
    save_video_data("f.npz", data)
    code, said = kvae(f"train --data f.npz --model.continuous true {SHORT}", capsys)
    assert code == 0 and "and times" in said
    os.rename(next(Path("runs").iterdir()), "timely")
    config = Path("timely/config.yaml").read_text()
    assert "continuous: true" in config and "tick: 1.0" in config and "times: true" in config
    assert kvae("impute timely --data f.npz --gap 2:4 --out filled.npz", capsys)[0] == 0
    save_video_data("g.npz", replace(data, times=(data.times**1.5).contiguous()))
    assert kvae("impute timely --data g.npz --gap 2:4 --out other.npz", capsys)[0] == 0
    with np.load("filled.npz") as one, np.load("other.npz") as two:  # other times, other beliefs
        assert np.abs(one["a_smoothed_cov"] - two["a_smoothed_cov"]).max() > 1e-4
    code, said = kvae("generate timely --data f.npz --steps 3 --count 4 --noise false --apart 0.5 --out near", capsys)
    assert code == 0 and "0.5 apart" in said
    assert kvae("generate timely --data f.npz --steps 3 --count 4 --noise false --out far", capsys)[0] == 0
    assert kvae("generate timely --steps 3 --count 2 --apart 2 --out new", capsys)[0] == 0
    assert kvae("evaluate timely --measure.gaps [2] --measure.drops [.5] --measure.generate_count 2", capsys)[0] == 0
    code, said = kvae(f"train --data f.npz {SHORT}", capsys)
    assert code == 0 and "times left out (all steps taken as equal)" in said
    os.rename(next(Path("runs").iterdir()), "plain")
    assert "times: false" in Path("plain/config.yaml").read_text()
    code, said = kvae("impute plain --data f.npz --gap 2:4 --out plain.npz", capsys)
    assert code == 0 and "times left out" in said
    code, said = kvae("generate plain --steps 3 --count 2 --apart 2 --out no", capsys)
    assert code == 2 and "--apart is 2" in said


def test_one_film_with_times_is_filled_in_at_its_times(tmp_path, monkeypatch, capsys):
    "An array with times, and a film with a variable frame rate, whose frames lie at equal steps when it is written."
    monkeypatch.chdir(tmp_path)
    film_with(Path("film.mp4"), LENGTHS * 4)
    code, said = kvae(f"train --data film.mp4 --model.continuous true {SHORT} --data.binarize false", capsys)
    assert code == 0 and "clips of 6" in said and "time stamps from" in said
    os.rename(next(Path("runs").iterdir()), "timely")
    assert "stable: 0.0" in Path("timely/config.yaml").read_text()  # what short films get otherwise
    images, times = np.random.default_rng(0).integers(256, size=(9, 16, 16), dtype=np.uint8), np.arange(9.0)
    for name, when in (("even", times), ("uneven", times**1.5)):
        np.savez(f"{name}.npz", images=images, times=when)
        code, said = kvae(f"impute timely --data {name}.npz --gap 3:6 --out {name}_filled.npz", capsys)
        assert code == 0, said
    with np.load("even_filled.npz") as one, np.load("uneven_filled.npz") as two:
        assert np.abs(one["a_smoothed_cov"] - two["a_smoothed_cov"]).max() > 1e-4
    code, said = kvae("impute timely --data film.mp4 --gap 3:6 --out filled.mp4", capsys)
    assert code == 0 and "with times" in said


def test_the_command_makes_films_at_random_times_trains_and_measures(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = "simulate --sequences 40 --steps 6 --size 16 --irregular 0.75 --seed 3 --out f.npz"
    code, said = kvae(line, capsys)
    assert code == 0 and "at random times" in said
    found, right = read_video_data("f.npz"), simulate_irregular("box", 40, 6, 3, 16)
    assert torch.equal(found.times, right.times) and torch.equal(found.frames, right.frames)
    assert kvae(line, capsys)[0] == 0  # the same words make the same file again
    assert kvae(f"train --data f.npz --model.continuous true {SHORT}", capsys)[0] == 0
    code, said = kvae("evaluate --measure.gaps [2] --measure.drops [] --measure.generate_count 2", capsys)
    assert code == 0 and "times" in said
    assert kvae("simulate --sequences 40 --steps 6 --size 16 --out even.npz", capsys)[0] == 0
    assert read_video_data("even.npz").times is None
    for words in ("0.05 --out g.npz", "2 --out g.npz", "0.5 --look published --out g.npz", "0.5 --out folder"):
        code, said = kvae(f"simulate --sequences 2 --irregular {words}", capsys)
        assert code == 2 and "--irregular is" in said and not Path("g.npz").exists() and not Path("folder").exists()
