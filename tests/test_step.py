"""A training step: what is hidden stays hidden, and what it reports is the plain bound."""

import torch

from kvae_nb.data.films import Batch
from kvae_nb.models.kvae import KVAE, KVAEConfig
from kvae_nb.training.config import TrainConfig
from kvae_nb.training.step import draw, make_trainer, reseed, update

TINY = KVAEConfig(size=16, filters=4, alpha="mlp", alpha_units=8)


def test_a_frame_is_seen_where_the_data_show_it_and_the_training_does_not_hide_it():
    trainer, seen = make_trainer(KVAE(TINY), TrainConfig(device="cpu", join={}, drop=0.5)), []
    trainer.bare.register_forward_pre_hook(lambda model, given: seen.append(given[1]))
    mask = torch.rand(6, 12, generator=torch.Generator().manual_seed(0)) > 0.4
    reseed(trainer.config, "train", 0)
    draws = draw(trainer, 6, 12, (1, 16, 16))
    taken = update(trainer, Batch((torch.rand(6, 12, 1, 16, 16) > 0.8).float(), mask, None), draws, 0)
    both = mask & draws.kept
    assert torch.equal(seen[0], both) and not torch.equal(both, mask) and not torch.equal(both, draws.kept)
    assert torch.equal(taken.terms.frames, both.sum(1).float())


def test_a_step_on_weighted_samples_reports_the_mean_of_their_bounds():
    config = TrainConfig(device="cpu", join={}, samples=4, bound="iwae")
    trainer = make_trainer(KVAE(TINY), config)
    x = (torch.rand(3, 6, 1, 16, 16) > 0.8).float()
    reseed(config, "train", 0)
    draws = draw(trainer, 3, 6, (1, 16, 16))
    with torch.no_grad():
        every = trainer.bare(x.repeat_interleave(4, 0), None, None, draws.noise).elbo.view(3, 4)
    told = update(trainer, Batch(x, None, None), draws, 0).terms.elbo
    torch.testing.assert_close(told, every.mean(1), rtol=1e-5, atol=1e-3)
    assert not torch.allclose(told, (every.softmax(1) * every).sum(1), rtol=1e-5, atol=1e-3)
