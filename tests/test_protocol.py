"""Every sequence model of the package is put to the same questions."""

import inspect

import pytest
import torch
from models import MODELS, SEQUENCES, awake, observed, random_controls

from kvae_nb.core.errors import InputError
from kvae_nb.data.films import Batch, VideoData
from kvae_nb.evaluation.checks import future_leak, hidden_frames_leak
from kvae_nb.models.protocol import SequenceModel, asked_particles, hide, rows_of, widened
from kvae_nb.training.config import TrainConfig
from kvae_nb.training.loop import tally
from kvae_nb.training.records import summary, validate
from kvae_nb.training.step import Taken, make_trainer, of_samples, priced, train_step


@pytest.fixture(params=MODELS, ids=str)
def model(request):
    return awake(request.param)


@pytest.fixture
def x(model):
    return (torch.rand(3, 9, model.config.channels, model.config.size, model.config.size) > 0.8).float()


@pytest.fixture
def u(model):
    return random_controls(model, 3, 14)


@pytest.fixture
def mask():
    m = torch.ones(3, 9, dtype=torch.bool)
    m[:, 4:6] = False
    m[0, 8] = False
    m[1, 0] = False
    return m


def first(u, n):
    return None if u is None else u[:, :n]


def test_it_answers_the_protocol(model):
    assert isinstance(model, SequenceModel)


def test_parts_hold_every_parameter_once(model):
    listed = [id(p) for part in model.parts().values() for p in part]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(p) for p in model.parameters() if p.requires_grad}


@pytest.mark.parametrize("masked", [False, True])
def test_bound_has_gradients_for_every_part(model, x, u, mask, masked):
    terms = model.elbo(x, mask if masked else None, first(u, 9))
    assert terms.frames.tolist() == (mask.sum(1).tolist() if masked else [9] * 3)
    terms.elbo.sum().backward()
    for name, part in model.parts().items():
        assert all(p.grad is not None and p.grad.isfinite().all() for p in part), name


def test_noise_belongs_to_sequences(model, x, u, mask):
    """So a batch can be divided: some rows with their noise have the bound they have in the whole. The temperature
    may be a number or a tensor.
    """
    torch.manual_seed(0)
    noise = model.noise(3, 9, 4, temperature=0.5)
    assert all(v is None or len(v) == 3 for v in noise)
    torch.manual_seed(0)
    assert all(v is None or torch.equal(v, w) for v, w in zip(noise, model.noise(3, 9, 4, torch.tensor(0.5))))
    whole, part = (
        model.elbo(x, mask, first(u, 9), noise),
        model.elbo(x[1:], mask[1:], None if u is None else u[1:, :9], rows_of(noise, slice(1, None))),
    )
    torch.testing.assert_close(whole.elbo[1:], part.elbo, rtol=1e-4, atol=1e-2)


def test_the_code_of_a_frame_is_the_mean_of_its_posterior(model, x):
    q = model.posterior(x)
    assert torch.equal(q.mean, model.encode(x)) and q.var.shape == q.mean.shape and (q.var > 0).all()


def test_a_mask_of_ones_is_no_mask(model, x, u):
    ones = torch.ones(3, 9, dtype=torch.bool)
    for seed in range(2):
        torch.manual_seed(seed)
        plain = model.elbo(x, None, first(u, 9))
        torch.manual_seed(seed)
        masked = model.elbo(x, ones, first(u, 9))
        torch.testing.assert_close(plain.elbo, masked.elbo, rtol=1e-4, atol=1e-2)


def test_sequences_do_not_touch_each_other(model, x, u, mask):
    with torch.no_grad():
        both = model.impute(x, mask, first(u, 9))
        alone = model.impute(x[1:2], mask[1:2], None if u is None else u[1:2, :9])
    torch.testing.assert_close(both.smoothed.frames[1:2], alone.smoothed.frames, rtol=1e-4, atol=1e-4)


def test_nothing_hidden_is_seen_and_no_filter_sees_the_future(model, x, u, mask):
    assert hidden_frames_leak(model, x, mask, first(u, 9)) == 0
    assert future_leak(model, x, mask, u=first(u, 9)) < 1e-4


def without_parts(model):
    "The same model, whose bound does not tell its latent variables apart."
    for name in ("forward", "elbo"):
        bound = getattr(model, name)
        setattr(model, name, lambda *args, bound=bound: bound(*args)._replace(parts=None))
    return model


def test_whoever_reads_a_bound_copes_with_one_without_parts(model, x, u, mask):
    """Those who go through its fields: the check for leaks, the mean over samples, sums of a training, prices, and the
    joining of validation batches, of which there are two. What else is there is what it is with parts."""
    torch.manual_seed(0)
    whole = model.elbo(x, mask, first(u, 9))
    bare = whole._replace(parts=None)
    for bound in ("elbo", "iwae"):
        found, right = (of_samples(terms, 3, bound) for terms in (bare, whole))
        assert found.parts is None
        if right.parts is not None:
            torch.testing.assert_close(right.parts.sum(1), right.log_posterior - right.log_prior, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(found[:4], right[:4])
    sums = tally(Taken(bare, torch.tensor(True)), 2)
    torch.testing.assert_close(sums[:5], tally(Taken(whole, torch.tensor(True))))
    assert sums[5:].tolist() == [0.0, 0.0]
    assert priced(bare, torch.ones(0)) is bare
    with pytest.raises(InputError, match="does not give their parts"):
        priced(bare, torch.ones(2))
    films, seen = (255 * x[:, :2]).byte().repeat(17, 1, 1, 1, 1), mask[:, 3:5].repeat(17, 1)
    data = VideoData(films, mask=seen, controls=None if u is None else u[:, :2].repeat(17, 1, 1))
    config = TrainConfig(valid_sequences=51)
    told = validate(model.eval(), data, config)
    plain = validate(without_parts(model).eval(), data, config)
    assert plain.parts is None and len(plain.elbo) == len(told.elbo) == 51
    torch.testing.assert_close(plain[:4], told[:4])
    assert set(summary(plain, ("one", "two"))) == {"elbo", *plain._fields[:3]}
    leak = hidden_frames_leak(model.eval(), x, mask, first(u, 9))
    assert leak == 0 and "elbo.frames" in leak.changes and "elbo.parts" not in leak.changes
    trainer = make_trainer(model.train(), TrainConfig(device="cpu", join={}, samples=2, bound="iwae"))
    taken = train_step(trainer, Batch(x, mask, first(u, 9)), 0.0, 0)
    assert taken.finite and taken.terms.parts is None and len(taken.terms.elbo) == 3


def test_the_last_filtered_belief_is_the_last_smoothed_one(model, x, u, mask):
    with torch.no_grad():
        out = model.impute(x, mask, first(u, 9), **asked_particles(model, 0))
    torch.testing.assert_close(out.filtered.z.mean[:, -1], out.smoothed.z.mean[:, -1], rtol=1e-4, atol=1e-4)
    assert (torch.linalg.eigvalsh(out.smoothed.z.cov) > 0).all()


def test_hidden_frames_by_particles(model, x, u, mask):
    """The same answer twice, and another one from a generator; films in which nothing is hidden are exact; the path
    of a holds what was seen; without particles the answer is the plugged-in one, which has no paths."""
    if "particles" not in inspect.signature(model.impute).parameters:
        with pytest.raises(InputError, match="without particles"):
            asked_particles(model, 8)
        return
    mask[2] = True
    with torch.no_grad():
        out, again = (model.impute(x, mask, first(u, 9), particles=32) for _ in range(2))
        other = model.impute(x, mask, first(u, 9), 32, torch.Generator().manual_seed(1))
        plain, a = model.impute(x, mask, first(u, 9), particles=0), model.encode(hide(x, mask))
    assert torch.equal(out.smoothed.frames, again.smoothed.frames) and out.smoothed.frames.isfinite().all()
    assert not torch.equal(out.smoothed.frames[0], other.smoothed.frames[0])
    torch.testing.assert_close(out.smoothed.z.mean[2], plain.smoothed.z.mean[2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out.filtered.frames[2], plain.filtered.frames[2], rtol=1e-4, atol=1e-4)
    assert plain.paths is None
    if out.paths is not None and hasattr(out.paths, "a"):
        wide = a[:, None].expand_as(out.paths.a)
        seen = mask[:, None].expand(wide.shape[:3])
        torch.testing.assert_close(out.paths.a[seen], wide[seen], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(out.paths.log_weights.exp().sum(-1), torch.ones(3))
    assert (torch.linalg.eigvalsh(out.filtered.z.cov) > 0).all()
    for wrong in (-1, 2.5, "many"):
        with pytest.raises(InputError, match="whole number from 0"):
            model.impute(x, mask, first(u, 9), particles=wrong)


def test_generation_repeats_itself_with_a_seed(model, x, u):
    def dream(seed):
        return model.generate(5, 3, x=x, u=u, generator=torch.Generator().manual_seed(seed)).frames

    with torch.no_grad():
        assert dream(1).shape == (3, 5, *x.shape[2:])
        assert torch.equal(dream(1), dream(1))
        assert not torch.equal(dream(1), dream(2))
    if u is None:
        with torch.no_grad():
            assert model.generate(5, 2).frames.shape == (2, 5, *x.shape[2:])


# Models of what is no film: the same questions, for observations of any rank.


@pytest.fixture(params=SEQUENCES, ids=str)
def anything(request):
    return awake(request.param)


@pytest.fixture
def seq(anything):
    return observed(anything, 3, 9)


@pytest.fixture
def acts(anything):
    return torch.randn(3, 14, anything.config.dim_u) if anything.config.dim_u else None


def test_anything_answers_the_protocol(anything):
    assert isinstance(anything, SequenceModel)
    listed = [id(p) for part in anything.parts().values() for p in part]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(p) for p in anything.parameters() if p.requires_grad}


def test_every_part_of_anything_has_gradients(anything, seq, acts, mask):
    terms = anything.elbo(seq, mask, first(acts, 9))
    assert terms.frames.tolist() == mask.sum(1).tolist()
    terms.elbo.sum().backward()
    for name, part in anything.parts().items():
        assert all(p.grad is not None and p.grad.isfinite().all() for p in part), name
        assert not part or any(p.grad.abs().sum() > 0 for p in part), name


def test_noise_of_anything_belongs_to_sequences(anything, seq, acts, mask):
    noise = anything.noise(3, 9)
    whole = anything.elbo(seq, mask, first(acts, 9), noise)
    rows = slice(1, None)
    part = anything.elbo(seq[rows], mask[rows], None if acts is None else acts[rows, :9], rows_of(noise, rows))
    torch.testing.assert_close(whole.elbo[1:], part.elbo, rtol=1e-4, atol=1e-4)


def test_padding_does_not_change_the_bound_of_anything(anything, seq, acts, mask):
    """A sequence that ends earlier, followed by what must not be read, has the bound that it has alone."""
    noise = anything.noise(3, 9)
    cut = (
        type(noise)(*(v if v is None else v[:, :6] for v in noise)) if hasattr(noise, "_fields") else (noise[0][:, :6],)
    )
    mask[:, 6:] = False
    filler = torch.full_like(seq, torch.nan if seq.is_floating_point() else -1)
    padded = torch.where(widened(mask, seq), seq, filler)
    whole = anything.elbo(padded, mask, first(acts, 9), noise)
    alone = anything.elbo(padded[:, :6], mask[:, :6], first(acts, 6), cut)
    assert torch.equal(whole.frames, alone.frames) and whole.elbo.isfinite().all()
    torch.testing.assert_close(whole.elbo, alone.elbo, rtol=1e-5, atol=1e-4)


def test_a_mask_of_ones_is_no_mask_for_anything(anything, seq, acts):
    noise, ones = anything.noise(3, 9), torch.ones(3, 9, dtype=torch.bool)
    plain, masked = (anything.elbo(seq, m, first(acts, 9), noise) for m in (None, ones))
    torch.testing.assert_close(plain.elbo, masked.elbo, rtol=1e-5, atol=1e-4)


def test_nothing_hidden_is_seen_by_anything(anything, seq, acts, mask):
    assert hidden_frames_leak(anything, seq, mask, first(acts, 9)) == 0
    assert future_leak(anything, seq, mask, u=first(acts, 9)) < 1e-4


def test_anything_is_generated_again_with_a_seed(anything, seq, acts):
    def dream(seed, x=seq, u=acts):
        return anything.generate(5, 3, x=x, u=u, generator=torch.Generator().manual_seed(seed))

    with torch.no_grad():
        one, again, other = dream(1), dream(1), dream(2)
        fresh = dream(1, None, first(acts, 5))
    assert one.frames.shape == (3, 5, *seq.shape[2:]) == fresh.frames.shape and one.frames.dtype == seq.dtype
    assert torch.equal(one.frames, again.frames) and not torch.equal(one.frames, other.frames)
    if one.expected is not None:
        assert one.expected.shape[:2] == (3, 5) and one.expected.is_floating_point()


def test_the_rate_of_anything(anything, seq, acts, mask):
    if not hasattr(anything, "rate"):
        return
    with torch.no_grad():
        rate = anything.rate(seq, mask, first(acts, 9))
    assert rate.shape[:2] == (3, 9) and (rate >= 0).all() and rate.isfinite().all()
    assert rate.shape[2] == anything.encode(seq, mask, first(acts, 9)).shape[2]


@pytest.mark.parametrize("samples, bound", [(1, "elbo"), (3, "elbo"), (3, "iwae")])
def test_anything_takes_a_step(anything, seq, acts, mask, samples, bound):
    settings = dict(device="cpu", join={}, drop=0.3, samples=samples, bound=bound, reconstruction_weight=1.0)
    trainer = make_trainer(anything.train(), TrainConfig(**settings))
    before = [p.detach().clone() for p in anything.parameters()]
    taken = train_step(trainer, Batch(seq, mask, first(acts, 9)), 0.0, 0)
    assert taken.finite and len(taken.terms.elbo) == 3
    assert any(not torch.equal(p, q) for p, q in zip(before, anything.parameters()))


def test_noise_on_what_is_no_frame_is_refused(anything):
    with pytest.raises(InputError, match="train.input_noise is 0.1, but only the pixels of frames"):
        make_trainer(anything, TrainConfig(device="cpu", join={}, input_noise=0.1))
