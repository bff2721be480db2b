"""Faults of models, inference and evaluation that were reported, each with the input that showed it."""

import math
from unittest.mock import patch

import pytest
import torch
from models import awake, observed
from refusals import refuses
from torch import nn

from kvae_nb.core.gaussians import Gaussian
from kvae_nb.data.films import Batch, VideoData
from kvae_nb.evaluation.baselines import ngram
from kvae_nb.evaluation.bounds import BoundNoise, fivo, iwae
from kvae_nb.evaluation.checks import generate_from
from kvae_nb.evaluation.probes import judge_films, probe_generation
from kvae_nb.evaluation.report import EvaluationConfig, check_generation
from kvae_nb.evaluation.scores import held_out_elbo, position_r2
from kvae_nb.evaluation.swaps import swapped_films
from kvae_nb.inference.batched import forecast
from kvae_nb.inference.chains import Chain, fit_autoregression
from kvae_nb.inference.irregular import step_lengths
from kvae_nb.inference.lgssm import LGSSM
from kvae_nb.inference.slds import sample_slds, turning_modes
from kvae_nb.models import sequence_use
from kvae_nb.models.distributions import emission
from kvae_nb.models.kvae import KVAE, KVAEConfig
from kvae_nb.models.networks import Encoder
from kvae_nb.models.rnn import Predictor, code_score, path_log_prob
from kvae_nb.models.stream import read_frame, stream_parts, stream_start, stream_step

N, T, S = 8, 20, 16


@pytest.fixture(scope="module")
def walls():
    "Films of a square between a floor and a ceiling."
    films = torch.zeros(N, T, 1, S, S, dtype=torch.uint8)
    films[..., 0, :] = films[..., -1, :] = 255
    for i in range(N):
        for t in range(T):
            y, x = 4 + (i + t) % 8, 4 + (i + t // 2) % 7
            films[i, t, 0, y : y + 3, x : x + 3] = 255
    return films


@pytest.fixture(scope="module")
def holes(walls):
    "The same; of each film one frame is missing, and stands there black."
    seen = torch.ones(N, T, dtype=torch.bool)
    seen[:, 10] = False
    return VideoData(walls * seen[..., None, None, None], mask=seen)


# frames that are missing are nobody's truth


def test_a_missing_frame_is_no_frame_of_the_world(walls, holes):
    model, config = awake("paper"), EvaluationConfig(generate_steps=6, generate_count=4)
    found = check_generation(model, holes, config)
    assert found["intact_data"] == 1 and found["speed_data"] > 1
    full, lacking = (probe_generation(model, data, 16, 8) for data in (VideoData(walls), holes))
    assert lacking.sound_data == 1 and abs(lacking.speed_data - full.speed_data) < 0.2
    assert full.error.isfinite().all() and full.published >= 0
    true, seen = walls[:, 4:].float() / 255, holes.mask
    world = holes.frames.float() / 255
    judged = judge_films(true, world[:, 4:], world, seen=seen, known=seen[:, 4:])
    assert judged.right == 16 and judged.published == 15
    short = seen.clone()
    short[:, 10:] = False  # nothing is known after six frames of the continuation
    judged = judge_films(torch.cat([true[:, :6], 1 - true[:, 6:]], 1), true, world, seen=seen, known=short[:, 4:])
    assert judged.right == 6 and len(judged.error) == 6 and judged.error.isfinite().all()


def test_a_film_whose_beginning_is_missing_goes_on_from_what_was_seen(walls):
    model, early = awake("paper"), torch.ones(N, T, dtype=torch.bool)
    early[:3, 1] = False
    other = torch.where(early[..., None, None, None], walls, 255 - walls)
    made = [generate_from(model, VideoData(x, mask=early), 5, 8) for x in (walls, other)]
    assert torch.equal(*made) and made[0].isfinite().all()
    whole = generate_from(model, VideoData(walls), 5, 8)
    assert torch.equal(made[0][3:], whole[3:]) and not torch.equal(made[0][:3], whole[:3])


def test_a_swap_does_not_read_what_is_missing():
    model, films = awake("vdsm"), torch.randint(0, 256, (4, 6, 3, 16, 16), dtype=torch.uint8)
    seen = torch.ones(4, 6, dtype=torch.bool)
    seen[:, 2:4] = False
    draw = lambda x: swapped_films(
        model,
        VideoData(x, mask=seen),
        torch.tensor([0, 1]),
        torch.tensor([2, 3]),
        "dynamics",
        torch.Generator().manual_seed(0),
    )
    assert torch.equal(draw(films), draw(films * seen[..., None, None, None]))


def test_what_is_hidden_from_the_lstm_may_be_anything():
    model, a, seen = Predictor(2), torch.randn(1, 5, 2), torch.tensor([[True, True, False, True, True]])
    lost = a.masked_fill(~seen[..., None], math.nan)
    assert torch.equal(path_log_prob(model, a, seen), path_log_prob(model, lost, seen))
    assert torch.equal(code_score(model, a, 0.1, seen), code_score(model, lost, 0.1, seen))
    path_log_prob(model, lost, seen).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_films_without_an_observed_frame_have_no_bound(walls):
    refuses(held_out_elbo, awake("paper"), VideoData(walls, mask=torch.zeros(N, T, dtype=torch.bool)))


# generation and streams


@pytest.mark.parametrize("particles", [0, -1])
def test_particles_of_a_prefix_are_counted(particles):
    model = awake("symbols, srnn")
    x, u = observed(model, 2, 4), torch.randn(2, 7, 2)
    refuses(model.generate, 3, x=x, u=u, particles=particles)


def test_without_noise_sequences_go_on_the_same_each_time():
    model = awake("numbers, markov")
    x, u, state = observed(model, 2, 4), torch.ones(2, 10, 1), torch.get_rng_state()
    assert torch.equal(*(model.generate(6, x=x, u=u, noise=False).frames for _ in range(2)))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_generator_is_asked_without_noise_too():
    model = awake("numbers, markov")
    x, past = observed(model, 2, 4), torch.ones(2, 4, 1)

    class Chance:
        "Actions at random."

        def start(self, count, generator=None):
            return generator

        def act(self, knows):
            return torch.randn(2, 1, generator=knows)

        def observe(self, knows, x, action):
            return knows

    go = lambda seed: model.generate(
        3, x=x, u=past, noise=False, agent=Chance(), generator=torch.Generator().manual_seed(seed)
    )
    assert torch.equal(go(1).u, go(1).u) and not torch.equal(go(1).u, go(2).u)
    assert torch.equal(go(1).prefix, x)


def test_chance_is_drawn_where_its_generator_is():
    model, real, asked = awake("symbols, srnn").to("meta"), torch.rand, []

    def spy(*size, generator=None, **more):
        asked.append((generator.device.type, torch.device(more.get("device", "cpu")).type))
        return real(*size, generator=generator, **more)

    with patch.object(torch, "rand", spy):
        sequence_use.chance(model, 2, 3, torch.Generator(), True)
    assert asked and all(own == there for own, there in asked)


def own_body(*layers, features=4 * 64):
    "A model whose encoder has these layers."
    config = KVAEConfig(size=16, filters=4, units=16, alpha_units=8, pixels="gaussian")
    return KVAE(config, encoder=Encoder(nn.Sequential(*layers, nn.Flatten()), features, 2)).eval()


@pytest.mark.parametrize("settings", [dict(padding=1, padding_mode="replicate"), dict(padding=2, dilation=2)])
def test_a_stream_reads_a_frame_as_its_model_does(settings):
    model, frame = own_body(nn.Conv2d(1, 4, 3, stride=2, **settings), nn.ReLU()), torch.randn(1, 16, 16)
    a = read_frame(stream_parts(model), frame)
    assert abs(a - model.encode(frame[None, None])[0, 0].detach().numpy()).max() < 1e-5


def test_a_stream_of_layers_that_autograd_holds():
    model, frame = own_body(nn.utils.weight_norm(nn.Conv2d(1, 4, 3, 2, 1)), nn.ReLU()), torch.randn(1, 16, 16)
    model.encode(frame[None, None])  # with gradient
    a = read_frame(stream_parts(model), frame)
    assert abs(a - model.encode(frame[None, None])[0, 0].detach().numpy()).max() < 1e-5


def test_a_stream_changes_no_frame_and_training_changes_no_stream():
    frame, model = torch.randn(1, 16, 16), own_body(nn.ReLU(), features=256)
    before = frame.clone()
    read_frame(stream_parts(model), frame)
    assert torch.equal(frame, before)
    model, frame = awake("paper"), torch.rand(1, 16, 16)
    parts = stream_parts(model)
    step = lambda: stream_step(parts, stream_start(parts), frame)[1].next_a.mean
    first = step()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)
    assert torch.equal(step(), first)


# what cannot be is refused


def test_noise_of_a_bound_has_its_whole_shape():
    model = awake("symbols, srnn")
    batch, shape = Batch(observed(model, 2, 4), None, torch.randn(2, 4, 2)), (2, 4, 3)
    refuses(iwae, model, batch, 3, noise=BoundNoise(torch.randn(*shape, 1), torch.rand(2, 4)))
    refuses(fivo, model, batch, 3, "always", noise=BoundNoise(torch.randn(*shape, 3), torch.rand(2, 3)))
    right = BoundNoise(torch.randn(*shape, 3), torch.rand(2, 4))
    assert fivo(model, batch, 3, "always", noise=right).total.isfinite().all()


@pytest.mark.parametrize("lag", [-1, 20, 25])
def test_a_lag_leaves_something_of_the_film(walls, lag):
    refuses(position_r2, awake("paper"), VideoData(walls, state=torch.randn(N, T, 4)), lag)


def test_a_forecast_checks_before_it_computes():
    eye, last = torch.eye(2)[None], Gaussian(torch.zeros(2), torch.eye(2))
    model = LGSSM(eye, torch.ones(1, 2, 1), eye, eye, eye, torch.zeros(2), torch.eye(2))
    for u in (torch.zeros(3, 2), torch.zeros(3)):
        refuses(forecast, model, last, 3, u)
    refuses(forecast, model._replace(B=None), Gaussian(torch.zeros(3), torch.eye(3)), 3)
    assert forecast(model, last, 3, torch.zeros(3, 1)).z.mean.shape == (3, 2)


def test_small_whole_numbers_do_not_overflow():
    refuses(step_lengths, torch.tensor([5, 3, 9], dtype=torch.uint8))
    assert step_lengths(torch.tensor([-100, 100], dtype=torch.int8)).tolist() == [0, 200]
    x = torch.randint(90, (4, 50))
    score = lambda x: ngram(Batch(x, None, None), Batch(x, None, None), 95, 2).per_step
    assert score(x) == score(x.to(torch.uint8))


def test_regimes_that_cannot_be_fitted_or_drawn():
    y = torch.randn(3, 20, 2)
    for wrong in (dict(tries=0), dict(iterations=0), dict(u=torch.randn(3, 19, 1))):
        refuses(fit_autoregression, 2, y, **wrong)
    refuses(fit_autoregression, 0, y)
    three = turning_modes()._replace(prior=Chain(torch.zeros(3), torch.zeros(3, 3, 3)))
    refuses(sample_slds, three, 5)


def test_any_word_names_a_part_of_an_observation():
    assert emission("together(self=normal(2), like=normal(1))").blank(1, 1).shape == (1, 1, 3)
