"""Models of someone against oracles: dense joints, quadrature, planted rotations, parts of the bound, frozen frames."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from models import MODELS, PATHS, WHO, awake
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import conv_transpose2d

from kvae_nb.core.errors import InputError
from kvae_nb.core.gaussians import gaussian_log_prob
from kvae_nb.data.films import Batch
from kvae_nb.data.opening import DataConfig, open_data
from kvae_nb.models.experts import ExpertDecoder, ExpertLayer, pool_average, pool_product
from kvae_nb.models.factors import Disentangling, Factors, diagonal_kl, expected_log, standard_like, with_identity
from kvae_nb.models.identity import IdentityConfig, IdentityVAE
from kvae_nb.models.protocol import Posterior, rows_of
from kvae_nb.models.transitions import (
    PathReader,
    PoseTransition,
    fill_hidden,
    next_belief,
    path_bound,
    pose_steps,
    transition_log_prob,
    walk_on,
)
from kvae_nb.models.vdsm import VDSM, VDSMConfig, on_frames
from kvae_nb.training.annealing import Schedule
from kvae_nb.training.config import TrainConfig
from kvae_nb.training.kinds import kind_of
from kvae_nb.training.runs import preset
from kvae_nb.training.step import make_trainer, train_step

SOMEONE = ["dsvae", "dsvae, full", "identity", "vdsm", "vdsm published"]
STANDARD = Posterior(torch.zeros(2).double(), torch.ones(2).double())


@pytest.fixture(params=SOMEONE, ids=str)
def model(request):
    return awake(request.param).double()


@pytest.fixture
def x(model):
    return torch.rand(3, 6, 3, 16, 16, generator=torch.Generator().manual_seed(3)).double()


@pytest.fixture
def mask():
    return torch.tensor([[True] * 6, [False, True, False, False, True, True], [True, True, True, False, True, False]])


def test_divergences_are_those_of_torch():
    q, p = (Posterior(torch.randn(4, 5).double(), torch.rand(4, 5).double() + 0.1) for _ in range(2))
    N = [Normal(d.mean, d.var.sqrt()) for d in (q, p)]
    torch.testing.assert_close(diagonal_kl(q, p), kl_divergence(*N).sum(-1), rtol=1e-10, atol=1e-10)
    draws = q.sample(torch.randn(200_000, 4, 5).double())
    sampled = p.log_prob(draws)
    error = sampled.std(0) / len(draws) ** 0.5
    assert ((sampled.mean(0) - expected_log(q, p)).abs() < 5 * error).all()
    assert diagonal_kl(q, q).abs().max() < 1e-12 and standard_like(q, 3.0).var.unique().tolist() == [9.0]


# What every model of someone answers.


def test_it_separates(model, x):
    assert isinstance(model, Disentangling)
    found = model.factors(x)
    assert isinstance(found, Factors) and found.identity.mean.shape == (3, model.dim_s)
    assert found.pose.mean.shape == (3, 6, model.config.dim_a)
    assert (found.dynamics is not None) == ("dynamics" in model.latents)
    assert all((v.var > 0).all() for v in found if v is not None)


def test_parts_sum_to_the_whole(model, x, mask):
    for m in (None, mask):
        terms = model.elbo(x, m)
        assert terms.parts.shape == (3, len(model.latents))
        torch.testing.assert_close(terms.parts.sum(1), terms.log_posterior - terms.log_prior)


def test_every_part_is_that_of_its_own_latent(model, x):
    "Identity and dynamics by torch's divergence; what is left is the poses'."
    eps = model.noise(3, 6)
    parts, found = model.elbo(x, noise=eps).parts, model.factors(x)
    part = dict(zip(model.latents, parts.mT))
    kl = lambda q, std: kl_divergence(Normal(q.mean, q.var.sqrt()), Normal(0.0, std)).sum(-1)
    torch.testing.assert_close(part["identity"], kl(found.identity, 1.0 if type(model).__name__ == "DSVAE" else 1 / 4))
    if "dynamics" in part:
        q = found.dynamics if model.proposal is not None else model.reader(found.pose.sample(eps.pose))
        torch.testing.assert_close(part["dynamics"], kl(q, 1.0))


def test_a_swap_is_that_identity_in_those_poses(model, x):
    looks, motions = x[:2], x.flip(0)[:, :5]
    swapped = model.swap(looks, motions).frames
    assert swapped.shape == (3, 2, 5, 3, 16, 16)
    look, motion = model.factors(looks), model.factors(motions)
    one = model.render(look.identity.mean[1:], motion.pose.mean[2:])
    torch.testing.assert_close(swapped[2, 1], one[0], rtol=1e-8, atol=1e-8)
    own = model.swap(x[:1], x[:1]).frames[0]
    torch.testing.assert_close(own, model.decode(model.encode(x[:1])), rtol=1e-8, atol=1e-8)


def test_swaps_see_no_hidden_frame(model, x, mask):
    broken = torch.where(mask[..., None, None, None], x, torch.nan)
    hidden = torch.where(mask[..., None, None, None], x, 0.0)
    one, other = (model.swap(v, v, looks_mask=mask, motions_mask=mask).frames for v in (broken, hidden))
    assert torch.equal(one, other)
    with pytest.raises(InputError, match=r"motions: observed frames hold NaN"):
        model.swap(hidden, broken)


def test_new_films_of_a_motion(model, x):
    generator = lambda: torch.Generator().manual_seed(5)
    if "dynamics" not in model.latents:
        with pytest.raises(InputError, match=f"a {type(model).__name__} has no dynamics"):
            model.swap(x, x, "dynamics")
        return
    one, again = (model.swap(x[:2], x, "dynamics", generator()).frames for _ in range(2))
    assert torch.equal(one, again) and one.shape == (3, 2, 6, 3, 16, 16)
    assert not torch.equal(one, model.swap(x[:2], x).frames)


def test_clips_that_do_not_fit_are_named(model, x):
    for looks, motions, why in (
        (x[..., :8], x, r"looks: frames have the shape"),
        (x, x[:, :, :1], r"motions: frames have the shape"),
        (x[:, :0], x, r"looks: frames have the shape"),
    ):
        with pytest.raises(InputError, match=why):
            model.swap(looks, motions)
    with pytest.raises(InputError, match="do not fit this model"):
        model.render(torch.zeros(2, model.dim_s), torch.zeros(3, 4, model.config.dim_a))
    with pytest.raises(InputError, match=f"together {model.code_length}"):
        model.decode(torch.zeros(2, model.code_length + 1))


def test_codes_are_poses_and_identities(model, x):
    found, code = model.factors(x), model.encode(x)
    torch.testing.assert_close(code, with_identity(found.pose.mean, found.identity.mean))
    assert code.shape[-1] == model.code_length == model.config.dim_a + model.dim_s
    changing = code + 0.1 * torch.randn(code.shape, dtype=code.dtype)  # another identity in every frame
    frames = model.decode(changing)
    pose, identity = changing[1, 2].split([model.config.dim_a, model.dim_s])
    torch.testing.assert_close(frames[1, 2], model.render(identity[None], pose[None, None])[0, 0], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(frames[1, 2], model.decode(changing[1, 2]), rtol=1e-8, atol=1e-8)


def test_a_belief_so_far_is_that_of_the_clip_cut_there(model, x, mask):
    filtered = model.impute(x, mask).filtered
    for t in (1, 2, 5):
        cut = model.factors(x[:, : t + 1], mask[:, : t + 1])
        code = torch.cat([cut.pose.mean[:, t], cut.identity.mean], -1)
        torch.testing.assert_close(filtered.a.mean[:, t], code, rtol=1e-6, atol=1e-8)
        var = torch.cat([cut.pose.var[:, t], cut.identity.var], -1)
        torch.testing.assert_close(filtered.a.cov[:, t].diagonal(dim1=-2, dim2=-1), var, rtol=1e-6, atol=1e-8)


def test_frame_by_frame_is_the_filter(model, x, mask):
    filtered = model.impute(x, mask).filtered
    for row in (1, 2):
        stream = model.filter_stream(frame if seen else None for frame, seen in zip(x[row], mask[row]))
        for t, known in enumerate(stream):
            code = torch.cat([known.factors.pose.mean, known.factors.identity.mean])
            torch.testing.assert_close(code, filtered.a.mean[row, t], rtol=1e-6, atol=1e-8)
            torch.testing.assert_close(known.frame, filtered.frames[row, t], rtol=1e-6, atol=1e-8)
    with pytest.raises(InputError, match="takes no controls"):
        next(model.filter_stream(x[0], x[0]))


def test_nothing_seen_is_the_prior(model, x):
    found = model.factors(x, torch.zeros(3, 6, dtype=torch.bool))
    drawn = model.draw_identity(20_000, torch.Generator().manual_seed(0))
    assert found.identity.mean.abs().max() < 1e-12 or type(model).__name__ == "DSVAE"
    if type(model).__name__ != "DSVAE":
        torch.testing.assert_close(
            found.identity.var, drawn.var() * torch.ones(3, model.dim_s).double(), rtol=0.05, atol=0
        )
    if found.dynamics is not None:
        assert found.dynamics.mean.abs().max() == 0
        torch.testing.assert_close(found.dynamics.var.unique(), torch.tensor([model.dynamics_std**2]).double())


def test_identities_from_the_prior_repeat_themselves(model):
    one, again, other = (model.draw_identity(5, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other) and one.shape == (5, model.dim_s)


# Decoders of experts and the pooling of frames.


def test_experts_are_blended_by_their_shares():
    "A layer against torch's transposed convolution with the weights that the shares give, clip by clip."
    w, h = torch.rand(3, 4).double().softmax(-1), torch.randn(3, 2, 5, 6, 7).double()
    for kernel, stride, padding in ((2, 2, 0), (4, 2, 1), (3, 1, 1)):
        layer = ExpertLayer(4, 7, 2, kernel, stride, padding, bias_std=1.0).double()
        for clip, share, found in zip(h, w, layer(h, w)):
            weight, bias = (torch.tensordot(share, p, 1) for p in (layer.weight, layer.bias))
            right = conv_transpose2d(clip.movedim(-1, 1), weight.permute(0, 3, 1, 2), bias, stride, padding)
            torch.testing.assert_close(found, right.movedim(1, -1))


def test_experts_that_are_told_their_shares_see_them_behind_the_pose():
    told = ExpertDecoder(16, 3, 5, 4, widths=(8, 6), tell=True).double()
    plain = ExpertDecoder(16, 3, 5 + 4, 4, widths=(8, 6)).double()
    plain.load_state_dict(told.state_dict())
    pose, w = torch.randn(2, 3, 5).double(), torch.rand(2, 4).double().softmax(-1)
    both = torch.cat([pose, w[:, None].expand(-1, 3, -1)], -1)
    torch.testing.assert_close(told(pose, w), plain(both, w))


@pytest.mark.parametrize("pool", [pool_product, pool_average], ids=["product", "average"])
def test_what_frames_say_is_pooled(pool):
    "Two of three frames are observed: the product of the prior and two Gaussians, or plain averages."
    mean, var = torch.randn(2, 3, 4).double(), torch.rand(2, 3, 4).double() + 0.1
    q = pool(mean, var, torch.tensor([[True, False, True]] * 2), 0.25)
    m, v = mean[:, [0, 2]], var[:, [0, 2]]
    if pool is pool_average:
        torch.testing.assert_close((q.mean, q.var.sqrt()), (m.mean(1), v.sqrt().mean(1)))
        return
    s = torch.linspace(-6, 6, 4001).double()[:, None, None]
    density = Normal(0.0, 0.5).log_prob(s) + sum(Normal(m[:, k], v[:, k].sqrt()).log_prob(s) for k in range(2))
    weight = density.softmax(0)
    centre = (weight * s).sum(0)
    torch.testing.assert_close(q.mean, centre, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(q.var, (weight * (s - centre).square()).sum(0), rtol=1e-6, atol=1e-8)


# Planted dynamics.


def linear(A, noise):  # a gated transition whose gate is shut
    net = PoseTransition(len(A), 2, 8).double()
    with torch.no_grad():
        for p in (net.gate[2].weight, net.linear.bias, net.spread.weight):
            p.zero_()
        for p, v in ((net.gate[2].bias, torch.tensor(-1e4)), (net.linear.weight, A), (net.spread.bias, noise)):
            p.copy_(v)
    return net


def dense(A, Q, steps):
    n = len(A)
    cov = torch.zeros(steps, n, steps, n).double()
    cov[0, :, 0] = torch.eye(n)
    for t in range(1, steps):
        for s in range(t):
            cov[t, :, s] = A @ cov[t - 1, :, s]
            cov[s, :, t] = cov[t, :, s].mT
        cov[t, :, t] = A @ cov[t - 1, :, t - 1] @ A.mT + Q
    return cov.reshape(steps * n, steps * n)


@pytest.mark.parametrize("hidden", [(), (2,), (2, 3), (0,), (4, 5), (0, 2, 5)])
def test_linear_paths_against_the_dense_joint(hidden):
    """Without hidden steps exactly; with them the bound is below on average and the mean of probabilities, over
    many draws, is the marginal up to its own error."""
    torch.manual_seed(0)
    A = torch.tensor([[0.8, -0.4], [0.5, 0.7]]).double()
    net = linear(A, torch.tensor([0.2, -0.3]).double())
    d = torch.zeros(40, 2).double()
    Q = net(torch.zeros(1, 2).double(), d[:1]).var[0].diag()
    joint = dense(A, Q, 6)
    z = (torch.linalg.cholesky(joint) @ torch.randn(12, 40).double()).mT.unflatten(-1, (6, 2))
    seen = torch.ones(40, 6, dtype=torch.bool)
    seen[:, list(hidden)] = False
    rows = seen[0].repeat_interleave(2)
    zero = torch.zeros(int(rows.sum())).double()
    exact = gaussian_log_prob(z.flatten(1)[:, rows], zero, joint[rows][:, rows])
    if not hidden:
        torch.testing.assert_close(transition_log_prob(net, STANDARD, z, d), exact, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(transition_log_prob(net, STANDARD, z, d, seen), exact, rtol=1e-8, atol=1e-8)
        return
    broken = torch.where(seen[..., None], z, torch.nan)
    many = lambda v: v.expand(4000, *v.shape).flatten(0, 1)
    with torch.no_grad():
        path, told, mask = many(broken), many(d), many(seen)
        path = fill_hidden(net, STANDARD, path, told, mask, torch.randn(path.shape).double())
        draws = transition_log_prob(net, STANDARD, path, told, mask).unflatten(0, (4000, 40))
    top = draws.amax(0)
    share = (draws - top).exp()
    error = share.std(0) / share.mean(0) / len(draws) ** 0.5
    assert (draws.mean(0) <= exact + 4 * draws.std(0) / len(draws) ** 0.5 + 1e-8).all()
    assert (((top + share.mean(0).log()) - exact).abs() < 5 * error + 1e-8).all()


def test_hidden_steps_are_drawn_from_the_step_before():
    net = linear(torch.eye(2).double() * 0.5, torch.zeros(2).double())
    z, d = torch.randn(3, 4, 2).double(), torch.zeros(3, 2).double()
    seen = torch.tensor([[True, False, False, True]]).expand(3, -1)
    means = fill_hidden(net, STANDARD, z, d, seen)
    assert torch.equal(means[:, [0, 3]], z[:, [0, 3]])
    torch.testing.assert_close(means[:, 2], z[:, 0] / 4)
    eps = torch.randn(3, 4, 2).double()
    drawn, std = fill_hidden(net, STANDARD, z, d, seen, eps), net(z, d[:, None].expand(-1, 4, -1)).var[0, 0].sqrt()
    torch.testing.assert_close(drawn[:, 1], z[:, 0] / 2 + std * eps[:, 1])
    torch.testing.assert_close(drawn[:, 2], drawn[:, 1] / 2 + std * eps[:, 2])
    assert fill_hidden(net, STANDARD, z, d, None) is z
    first = fill_hidden(net, Posterior(torch.full((2,), 3.0).double(), STANDARD.var), z, d, ~seen)
    assert (first[:, 0] == 3.0).all()


def test_a_walk_takes_the_steps_of_the_transition():
    torch.manual_seed(0)
    net = PoseTransition(2, 3, 8).double()
    z, d = torch.randn(5, 2).double(), torch.randn(5, 3).double()
    means = walk_on(net, z, d, 3, noise=False)
    torch.testing.assert_close(means[:, 1], net(net(z, d).mean, d).mean)
    path = walk_on(net, z, d, 3, torch.Generator().manual_seed(0))
    eps = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(path[:, 0], net(z, d).sample(eps))
    assert walk_on(net, z, d, 0).shape == (5, 0, 2)
    one = pose_steps(net, STANDARD, z[:, None], d)
    assert torch.equal(one.mean, torch.zeros(5, 1, 2).double()) and torch.equal(one.var, torch.ones(5, 1, 2).double())


def test_a_new_transition_is_nearly_the_identity_and_stationary():
    torch.manual_seed(0)
    net = PoseTransition(4, 3, 64)
    z, d = torch.randn(5000, 4), torch.randn(5000, 3)
    gate = net.gate(torch.cat([z, d], -1)).sigmoid()
    assert abs(gate.mean() - 0.1) < 0.02 and gate.max() < 0.3
    assert torch.equal(net.linear.weight, torch.eye(4)) and (net(z, d).mean - 0.9 * z).abs().max() < 0.3
    assert abs(net(z, d).var.mean() - (1 - 0.9**2)) < 0.005
    for _ in range(30):
        z = net(z, d).sample()
    assert (z.var(0) - 1).abs().max() < 0.15


def test_beliefs_through_a_linear_step_are_exact():
    A = torch.tensor([[0.8, -0.4], [0.5, 0.7]]).double()
    net = linear(A, torch.tensor([0.2, -0.3]).double())
    belief, d = Posterior(torch.randn(7, 2).double(), torch.rand(7, 2).double()), torch.zeros(7, 2).double()
    after, Q = next_belief(net, belief, d), net(belief.mean, d).var
    torch.testing.assert_close(after.mean, belief.mean @ A.mT, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(after.var, belief.var @ A.square().mT + Q, rtol=1e-10, atol=1e-12)


OMEGA, SIGMA = 0.5, 0.3


def turn(z, d):
    c, s = torch.cos(OMEGA * d), torch.sin(OMEGA * d)
    mean = torch.cat([c * z[..., :1] - s * z[..., 1:], s * z[..., :1] + c * z[..., 1:]], -1)
    return Posterior(mean, torch.full_like(mean, SIGMA**2))


def circling(d, steps, generator):
    z = [torch.randn(len(d), 2, generator=generator)]
    for _ in range(steps - 1):
        z.append(turn(z[-1], d).sample(torch.randn(len(d), 2, generator=generator)))
    return torch.stack(z, 1)


def quadrature(z, nodes=200):
    "log p(z) by Gauss-Hermite, each path around the peak of its integrand; float64."
    z, (u, w) = z.double(), torch.from_numpy(np.stack(np.polynomial.hermite.hermgauss(nodes)))

    def log_joint(d):
        tiled = z.repeat_interleave(d.shape[1], 0)
        log_prob = transition_log_prob(turn, STANDARD, tiled, d.reshape(-1, 1)).view_as(d)
        return log_prob - 0.5 * (d.square() + math.log(2 * math.pi))

    grid = torch.linspace(-5, 5, 1001, dtype=torch.float64).expand(len(z), -1)
    weight = log_joint(grid).softmax(1)
    centre = (weight * grid).sum(1, keepdim=True)
    width = 1.3 * (weight * (grid - centre).square()).sum(1, keepdim=True).sqrt()
    return (log_joint(centre + 2**0.5 * width * u) + u.square() + w.log()).logsumexp(1) + (2**0.5 * width[:, 0]).log()


def test_bounds_of_a_rotation_against_quadrature():
    """A reader that was trained for half a minute: the bound is below the integral, by at most .02 nats a step; 1000
    weighted draws reach it within .01; the sign of d is the direction, and that of reversed paths the opposite."""
    torch.manual_seed(0)
    generator, steps = torch.Generator().manual_seed(1), 8
    start = Posterior(torch.zeros(2), torch.ones(2))
    reader = PathReader(2, 1, 32)
    optimiser = torch.optim.Adam(reader.parameters(), lr=6e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 700, 1e-5)
    for _ in range(700):
        z = circling(torch.randn(96, 1, generator=generator), steps, generator)
        loss = -path_bound(turn, start, reader(z), z, torch.randn(1, 96, 1, generator=generator)).mean() / steps
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    z = circling(torch.randn(128, 1, generator=generator), steps, generator)
    exact = quadrature(z)
    with torch.no_grad():
        q, draws = reader(z), torch.randn(1000, 128, 1, generator=generator)
        loose, tight = (path_bound(turn, start, q, z, draws, weighted=w).double() for w in (False, True))
        sign = torch.tensor([-1.0, 1.0]).repeat(100)[:, None]
        paths = circling(1.8 * sign, steps, generator)
        forth, back = reader(paths).mean.sign(), reader(paths.flip(1)).mean.sign()
    gap = (exact - loose) / steps
    assert 0 < gap.mean() <= 0.02 and (gap > -0.01).all()
    assert (exact - tight).mean().abs() / steps <= 0.01
    assert (forth == sign).all() and (back == -sign).float().mean() > 0.98


def test_a_path_bound_is_its_formula():
    torch.manual_seed(0)
    net, z = PoseTransition(2, 3, 8).double(), torch.randn(4, 5, 2).double()
    q, eps = Posterior(torch.randn(4, 3).double(), torch.rand(4, 3).double()), torch.randn(6, 4, 3).double()
    d, p = q.sample(eps), standard_like(q, 0.5)
    log_prob = torch.stack([transition_log_prob(net, STANDARD, z, v) for v in d])
    torch.testing.assert_close(path_bound(net, STANDARD, q, z, eps, 0.5), log_prob.mean(0) - diagonal_kl(q, p))
    ratio = log_prob + p.log_prob(d) - q.log_prob(d)
    weighted = path_bound(net, STANDARD, q, z, eps, 0.5, weighted=True)
    torch.testing.assert_close(weighted.exp(), ratio.exp().mean(0))


def test_a_reader_stops_at_the_last_observed_step():
    torch.manual_seed(0)
    reader, z = PathReader(3, 2, 5, 2, prior_std=0.25).double(), torch.randn(2, 7, 3).double()
    seen = torch.tensor([[True, False, True, True, False, False, False], [False] * 7])
    q, cut = reader(torch.where(seen[..., None], z, torch.nan), seen), reader(z[:1, :4], seen[:1, :4])
    torch.testing.assert_close((q.mean[:1], q.var[:1]), tuple(cut))
    assert (q.mean[1] == 0).all() and torch.allclose(q.var[1], torch.full((2,), 0.0625).double())
    moved = z.clone()
    moved[0, 0] += 1
    assert not torch.equal(reader(moved[:1], seen[:1]).mean, q.mean[:1])  # also what was seen first counts
    torch.testing.assert_close(reader(z).mean, reader(z, torch.ones(2, 7, dtype=torch.bool)).mean)


# VDSM.


@pytest.fixture(params=["frames", "published"])
def vdsm(request):
    torch.manual_seed(0)
    return VDSM(VDSMConfig(posterior=request.param, **PATHS)).double()


def test_the_bound_is_the_sum_of_its_terms(x_three, vdsm):
    """Once more, clip by clip and step by step, without any function of the model but its networks."""
    eps, total = vdsm.noise(3, 4), []
    for i in range(3):
        e = rows_of(eps, slice(i, i + 1))
        frames = x_three[i : i + 1]
        known = IdentityVAE.infer(vdsm, vdsm.read(frames), torch.ones(1, 4, dtype=torch.bool))
        s = known.identity.sample(e.identity)
        kl = kl_divergence(Normal(known.identity.mean, known.identity.var.sqrt()), Normal(0.0, 1 / 4)).sum()
        z = known.pose.sample(e.pose)
        if vdsm.proposal is None:
            q = vdsm.reader(z)
            d = q.sample(e.dynamics)
            log_prior = vdsm.start(d).log_prob(z[:, 0]) + sum(
                vdsm.transition(z[:, t - 1], d).log_prob(z[:, t]) for t in range(1, 4)
            )
            path = (-Normal(known.pose.mean, known.pose.var.sqrt()).entropy()).sum() - log_prior
        else:
            q = vdsm.reader(known.pose.mean)
            d, path, before = q.sample(e.dynamics), 0.0, vdsm.proposal.z0[None]
            h, z = vdsm.proposal.memory(d, 4), []
            for t in range(4):
                p = vdsm.start(d) if t == 0 else vdsm.transition(before, d)
                now = vdsm.proposal(h[:, t], d, before)
                path = path + kl_divergence(Normal(now.mean, now.var.sqrt()), Normal(p.mean, p.var.sqrt())).sum()
                before = now.sample(e.pose[:, t])
                z.append(before)
            z = torch.stack(z, 1)
        kl = kl + kl_divergence(Normal(q.mean, q.var.sqrt()), Normal(0.0, 1.0)).sum() + path
        total.append(vdsm.pixels.log_prob(frames, vdsm.outputs(s, z)).sum() - kl)
    torch.testing.assert_close(vdsm.elbo(x_three, noise=eps).elbo, torch.stack([v.squeeze() for v in total]))


@pytest.fixture
def x_three():
    return torch.rand(3, 4, 3, 16, 16, generator=torch.Generator().manual_seed(4)).double()


def test_hidden_poses_cost_nothing(x_three, vdsm):
    """Frames that are hidden at the end add nothing to the bound: it is that of the clip cut there."""
    eps = vdsm.noise(3, 4)
    seen = torch.tensor([[True, True, False, False]]).expand(3, -1)
    broken = torch.where(seen[..., None, None, None], x_three, torch.nan)
    cut = eps._replace(pose=eps.pose[:, :2])
    whole, alone = vdsm.elbo(broken, seen, noise=eps), vdsm.elbo(x_three[:, :2], noise=cut)
    for one, other in zip(whole[:4], alone[:4]):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(whole.parts, alone.parts)


def test_some_frames_estimate_the_pixels_of_all(x_three, vdsm):
    torch.manual_seed(0)
    eps = vdsm.noise(3, 4)
    every, pairs = vdsm.elbo(x_three, noise=eps), [(a, b) for a in range(4) for b in range(a)]
    some = [vdsm.elbo(x_three, noise=eps._replace(frames=torch.tensor([p] * 3))) for p in pairs]
    mean = torch.stack([t.log_likelihood for t in some]).mean(0)
    torch.testing.assert_close(mean, every.log_likelihood)
    torch.testing.assert_close(some[0].parts, every.parts)


def test_single_frames_stand_for_the_whole_clip(x_three):
    "The identity model reads only the drawn frames; their pixels and poses count as often as the clip is longer."
    model = IdentityVAE(IdentityConfig(**WHO)).double()
    eps, at = model.noise(3, 4), [1, 3]
    some = model.elbo(x_three, noise=eps._replace(frames=torch.tensor([at] * 3)))
    short = model.elbo(x_three[:, at], noise=eps._replace(pose=eps.pose[:, at]))
    torch.testing.assert_close(some.log_likelihood, 2 * short.log_likelihood)
    torch.testing.assert_close(some.parts, short.parts * torch.tensor([1.0, 2.0]).double())


def test_with_exchange_each_half_is_drawn_with_the_identity_of_the_other(x_three):
    "What is paid for and what is drawn comes from what was observed in the other half; hidden frames mean nothing."
    model = IdentityVAE(IdentityConfig(**WHO, exchange=True)).double().train()
    eps = model.noise(3, 4)
    seen = torch.tensor([[False, True, True, True]] * 3)
    dirty = torch.where(seen[..., None, None, None], x_three, torch.nan)
    found = model(dirty, seen, noise=eps)
    torch.testing.assert_close(found, model(x_three, seen, noise=eps), rtol=0, atol=0)
    halves = model.eval().factors(x_three[:, 1:2]).identity, model.factors(x_three[:, 2:]).identity
    right = sum(kl_divergence(Normal(q.mean, q.var.sqrt()), Normal(0.0, 1 / 4)).sum(-1) for q in halves)
    torch.testing.assert_close(found.parts[:, 0], right)
    pose = model.factors(x_three).pose.sample(eps.pose)
    drawn = [
        model.outputs(halves[1].sample(eps.identity), pose[:, 1:2], eps.sharpness),
        model.outputs(halves[0].sample(eps.partner), pose[:, 2:], eps.sharpness),
    ]
    likelihood = [model.pixels.log_prob(x, out).sum(1) for x, out in zip((x_three[:, 1:2], x_three[:, 2:]), drawn)]
    torch.testing.assert_close(found.log_likelihood, sum(likelihood))
    assert found.frames.tolist() == [3.0] * 3


def test_with_exchange_some_frames_of_each_half_stand_for_all(x_three):
    model = IdentityVAE(IdentityConfig(**WHO, exchange=True)).double().train()
    eps = model.noise(3, 4, 2)
    assert ((eps.frames < 2).sum(1) == 1).all() and eps.frames.shape == (3, 2)
    two = model(
        torch.stack([x[at] for x, at in zip(x_three, eps.frames)]),
        noise=eps._replace(frames=None, pose=torch.stack([e[at] for e, at in zip(eps.pose, eps.frames)])),
    )
    found = model(x_three, noise=eps)
    torch.testing.assert_close(found.log_likelihood, 2 * two.log_likelihood)
    torch.testing.assert_close(found.parts, two.parts * torch.tensor([1.0, 2.0]).double())
    with pytest.raises(InputError, match="5 frames.*train.pair"):
        model.noise(3, 5)
    assert model.eval().noise(3, 5).partner is None  # what is measured is the bound of the clip itself
    whole = VDSM(VDSMConfig(exchange=True, **PATHS)).train()  # the sequence model needs the whole clip in its order
    assert whole.noise(3, 5, 1).frames.shape == (3, 1)


def test_clips_that_cannot_be_halved_are_refused_before_the_training():
    films = open_data(config := DataConfig(world="sprites", sequences=30, steps=5, size=32))
    for kind in ("identity", "vdsm"):
        demo, kind = preset("demo", kind), kind_of(kind)
        wanted = replace(demo, data=config, model=replace(demo.model, size=32, widths=(32, 16)))
        assert kind.fit_config(wanted, films).model.exchange  # two clips of a character are joined
        stage = "frames" if hasattr(wanted, "frames") else "train"
        alone = replace(wanted, **{stage: replace(getattr(wanted, stage), pair="")})
        with pytest.raises(InputError, match="5 frames.*train.pair"):
            kind.fit_config(alone, films)
        assert kind.fit_config(replace(alone, model=replace(alone.model, exchange=False)), films)


def test_a_gaussian_identity_is_drawn_as_a_standard_normal():
    model = IdentityVAE(IdentityConfig(**WHO, static="gaussian", static_std=0.5))
    drawn = model.draw_identity(5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        model.weights(drawn, 10.0), torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    )


@pytest.mark.parametrize("posterior", ["frames", "published"])
def test_pixels_teach_a_proposal_even_behind_frozen_frames(x_three, posterior):
    model = VDSM(VDSMConfig(posterior=posterior, freeze=True, **PATHS)).double()
    pixels = model(x_three).log_likelihood.sum()
    assert pixels.requires_grad == (posterior == "published")
    if pixels.requires_grad:
        pixels.backward()
        assert all(p.grad.abs().sum() > 0 for p in model.proposal.parameters())


def test_frozen_frames_stay_bit_for_bit(x_three):
    torch.manual_seed(0)
    identity = IdentityVAE(IdentityConfig(**WHO))
    model = on_frames(identity, dim_d=4, rnn_units=8, transition_units=8)
    before = {name: p.clone() for name, p in model.named_parameters()}
    trainer = make_trainer(model.train(), TrainConfig(device="cpu", join={}))
    train_step(trainer, Batch(x_three.float(), None, None), 0.0, 0)
    for name, p in model.named_parameters():
        frozen = name in identity.state_dict()
        assert p.requires_grad != frozen, name
        assert not frozen or torch.equal(p, identity.state_dict()[name]), name
    moved = [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]
    assert any(n.startswith("reader") for n in moved) and any(n.startswith("transition") for n in moved)
    assert list(model.parts()) == ["frames", "sequence", "dynamics"] and model.parts()["frames"] == []
    open_ = VDSM(VDSMConfig(freeze=False, **PATHS))
    assert len(open_.parts()["frames"]) == len(list(identity.parameters()))


def test_a_model_that_is_no_identity_model_is_refused():
    with pytest.raises(InputError, match="no identity model that a VDSM can be built on"):
        on_frames(VDSM(VDSMConfig(**PATHS, posterior="published")), posterior="frames")


@pytest.mark.parametrize(
    "wrong", [dict(dim_d=0), dict(dropout=0.5), dict(rnn_units=0), dict(transition_units=0), dict(dynamics_std=-1.0)]
)
def test_numbers_that_build_no_vdsm(wrong):
    with pytest.raises(InputError):
        VDSM(VDSMConfig(**(PATHS | wrong)))


def test_reversed_clips_have_the_same_identity_and_other_dynamics(x_three, vdsm):
    forth, back = vdsm.factors(x_three), vdsm.factors(x_three.flip(1))
    torch.testing.assert_close(forth.identity.mean, back.identity.mean)
    torch.testing.assert_close(forth.identity.var, back.identity.var)
    assert (forth.dynamics.mean - back.dynamics.mean).abs().min() > 0


@pytest.mark.parametrize("first, std", [("normal", 0.0), ("learned", 2.0)])
def test_priors_of_dynamics_and_of_the_first_pose(first, std, x_three):
    torch.manual_seed(0)
    model = VDSM(VDSMConfig(first=first, dynamics_std=std, **PATHS)).double()
    assert model.dynamics_std == (std or 1 / 4)
    d = model.dynamics_std * torch.randn(5, 4).double()
    start = model.first_pose(d)
    torch.testing.assert_close(start.mean, torch.zeros(5, 3).double())
    torch.testing.assert_close(start.var, torch.ones(5, 3).double(), rtol=0.01, atol=0)
    assert (model.start is None) == (first == "normal")
    poses = model.walk(40, 400, None, torch.Generator().manual_seed(0))
    assert poses.shape == (400, 40, 3) and (poses.var((0, 1)) - 1).abs().max() < 0.3
    assert not model.walk(3, 2, None, None, noise=False)[:, 0].any()


def test_going_on_starts_from_the_last_pose(x_three, vdsm):
    known = vdsm.factors(x_three)
    poses = vdsm.walk(2, 3, known, None, noise=False)
    one = vdsm.transition(known.pose.mean[:, -1], known.dynamics.mean).mean
    torch.testing.assert_close(poses[:, 0], one)
    fresh = vdsm.new_poses(known, 3, torch.Generator().manual_seed(0))
    eps = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(fresh[:, 0], vdsm.first_pose(known.dynamics.mean).sample(eps))


def test_gaps_are_propagated_from_the_pose_before(x_three, vdsm):
    seen = torch.tensor([[True, False, False, True]]).expand(3, -1)
    found = vdsm.factors(x_three, seen)
    d = found.dynamics.mean
    belief = Posterior(found.pose.mean[:, 0], found.pose.var[:, 0])
    for t in (1, 2):
        belief = next_belief(vdsm.transition, belief, d)
        torch.testing.assert_close(found.pose.mean[:, t], belief.mean)
        torch.testing.assert_close(found.pose.var[:, t], belief.var)
    late = vdsm.factors(x_three, seen.flip(1).roll(1, 1))  # the first step is seen, or
    none = vdsm.factors(x_three, ~seen)  # hidden: then it is that of the prior
    torch.testing.assert_close(none.pose.mean[:, 0], vdsm.first_pose(none.dynamics.mean).mean)
    assert late.pose.mean.isfinite().all()


def test_prices_of_one_are_no_prices(x_three):
    torch.manual_seed(0)
    start = {k: v.clone() for k, v in VDSM(VDSMConfig(**PATHS)).state_dict().items()}
    after = []
    for price in (None, 1.0, 5.0):
        betas = {} if price is None else {name: Schedule(end=price) for name in VDSM.latents}
        model = VDSM(VDSMConfig(**PATHS))
        model.load_state_dict(start)
        trainer = make_trainer(model.train(), TrainConfig(device="cpu", join={}, betas=betas))
        train_step(trainer, Batch(x_three.float(), None, None), 0.0, 0)
        after.append(model.state_dict())
    for name in start:
        torch.testing.assert_close(after[0][name], after[1][name], rtol=1e-5, atol=1e-6)
    assert any(not torch.allclose(after[0][name], after[2][name], atol=1e-5) for name in start)


def test_every_model_of_someone_is_in_the_suite():
    assert set(SOMEONE) <= set(MODELS)


def test_a_training_may_begin_with_single_frames_and_that_is_the_bound_itself(model, x):
    eps = model.noise(*x.shape[:2])
    assert torch.equal(model.frame_elbo(x, None, eps).elbo, model.elbo(x, None, None, eps).elbo)
