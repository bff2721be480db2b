"""Frames per CPU second in training, one thread: the fused path of a sequence model, the same model step by step, and a
plain PyTorch version of the deep Markov model with the sizes of pyro's tutorial, written as an obvious loop.

    python benchmarks/sequences.py
"""

import time

import torch
from torch import nn
from torch.nn.functional import softplus

from kvae_nb.models.sequence import SequenceVAE
from kvae_nb.models.sequence_parts import SequenceConfig

BATCH, STEPS, NOTES, ROUNDS = 20, 60, 88, 8
SIZES = dict(dim_z=100, rnn_units=(600,), encoder=(NOTES,), decoder=(100, 100), latent_layers=(200,))
SMALL = dict(dim_z=32, rnn_units=(128,), encoder=(128,), decoder=(128,), latent_layers=(128,))


def layers(*sizes):
    return nn.Sequential(*[m for a, b in zip(sizes, sizes[1:]) for m in (nn.Linear(a, b), nn.ReLU())][:-1])


class ObviousDMM(nn.Module):
    "Everything inside the loop: prior, posterior, a drawn divergence, the decoder."

    def __init__(self, z=100, hidden=200, rnn=600, emit=100):
        super().__init__()
        self.gate, self.bend = layers(z, hidden, z), layers(z, hidden, z)
        self.keep, self.spread = nn.Linear(z, z), nn.Linear(z, z)
        self.join, self.mean, self.std = nn.Linear(z, rnn), nn.Linear(rnn, z), nn.Linear(rnn, z)
        self.back, self.decoder = nn.RNN(NOTES, rnn, batch_first=True), layers(z, emit, emit, NOTES)
        self.z0 = nn.Parameter(torch.zeros(z))

    def forward(self, x):
        "Minus the bound, in nats a frame."
        h, z, total = self.back(x.flip(1))[0].flip(1), self.z0.expand(len(x), -1), 0
        for t in range(x.shape[1]):
            g, b = self.gate(z).sigmoid(), self.bend(z)
            p = torch.distributions.Normal((1 - g) * self.keep(z) + g * b, softplus(self.spread(b.relu())) + 1e-4)
            joint = (self.join(z).tanh() + h[:, t]) / 2
            q = torch.distributions.Normal(self.mean(joint), softplus(self.std(joint)) + 1e-4)
            z = q.rsample()
            emission = torch.distributions.Bernoulli(logits=self.decoder(z))
            total = total + (p.log_prob(z) - q.log_prob(z)).sum() + emission.log_prob(x[:, t]).sum()
        return -total / x.shape[0] / x.shape[1]


def stepwise(model, x):
    "Minus the bound of the same model through its steps: nothing is computed for all steps at once but e and a."
    told = model.begin(x)
    state, total = model.start(told), 0
    for t in range(x.shape[1]):
        prior, q = model.propose(told, t, state)
        state, found = model.advance(told, t, state, q.sample(torch.randn_like(q.mean)))
        total = total + (found - q.kl(prior)).sum()
    return -total / x.shape[0] / x.shape[1]


def candidates():
    "Name -> (model, its loss)."
    found = {}
    for latent, sizes, name in (("srnn", SIZES, ""), ("markov", SIZES, ""), ("srnn", SMALL, "small ")):
        model = SequenceVAE(SequenceConfig(latent, f"bernoulli({NOTES})", **sizes))
        found[f"{name}{latent}, all at once"] = model, lambda x, m=model: -m(x).per_frame
        found[f"{name}{latent}, step by step"] = model, lambda x, m=model: stepwise(m, x)
    model = ObviousDMM()
    return found | {"DMM of pyro's sizes, obvious loop": (model, model)}


def main():
    torch.set_num_threads(1)
    x = (torch.rand(BATCH, STEPS, NOTES) < 0.045).float()
    runs = {k: (loss, torch.optim.Adam(m.parameters(), 1e-4)) for k, (m, loss) in candidates().items()}
    spent = {k: [] for k in runs}
    for _ in range(ROUNDS):  # interleaved, so that all meet the same disturbances
        for name, (loss, optimiser) in runs.items():
            start = time.process_time()
            loss(x).backward()
            optimiser.step()
            optimiser.zero_grad()
            spent[name].append(time.process_time() - start)
    for name, seconds in spent.items():
        median = sorted(seconds[1:])[len(seconds[1:]) // 2]
        print(f"{name:36} {median:.3f} CPU s a step, {BATCH * STEPS / median:6.0f} frames per CPU s")


if __name__ == "__main__":
    main()
