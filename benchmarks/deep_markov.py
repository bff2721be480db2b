"""Two deep Markov models (Krishnan, Shalit and Sontag 2017) with the sizes of pyro's tutorial (emission 100, transition
200, RNN 600, z 100), which benchmarks/sequences.py measures ours against: one in pyro, one in PyTorch alone. Both are
written as the equations stand in the paper, everything in one loop over time, and share their networks.
"""

import torch
from torch import nn
from torch.nn.functional import softplus

NOTES, Z, EMISSION, TRANSITION, RNN = 88, 100, 100, 200, 600


def layers(*sizes):
    "Linear layers with ReLU between them."
    return nn.Sequential(*[m for a, b in zip(sizes, sizes[1:]) for m in (nn.Linear(a, b), nn.ReLU())][:-1])


class Networks(nn.Module):
    "Prior, posterior and decoder of one step, and the network that reads the notes backwards."

    def __init__(self):
        super().__init__()
        self.gate, self.bend = layers(Z, TRANSITION, Z), layers(Z, TRANSITION, Z)
        self.keep, self.spread = nn.Linear(Z, Z), nn.Linear(Z, Z)
        self.join, self.mean, self.std = nn.Linear(Z, RNN), nn.Linear(RNN, Z), nn.Linear(RNN, Z)
        self.back = nn.RNN(NOTES, RNN, batch_first=True, nonlinearity="relu")
        self.decoder = layers(Z, EMISSION, EMISSION, NOTES)
        self.z0, self.z0_posterior = nn.Parameter(torch.zeros(Z)), nn.Parameter(torch.zeros(Z))

    def prior(self, z):
        "Mean and standard deviation of z_t given z_{t-1}."
        g, b = self.gate(z).sigmoid(), self.bend(z)
        return (1 - g) * self.keep(z) + g * b, softplus(self.spread(b.relu()))

    def posterior(self, z, h):
        "Mean and standard deviation of z_t given z_{t-1} and what was read backwards."
        joint = 0.5 * (self.join(z).tanh() + h)
        return self.mean(joint), softplus(self.std(joint))

    def read(self, x, lengths):
        "The states of the backward network at each step; it starts at the last step of each sequence."
        t, last = torch.arange(x.shape[1]), lengths[:, None]
        turn = torch.where(t < last, last - 1 - t, t)[..., None]
        states = self.back(x.gather(1, turn.expand_as(x)))[0]
        return states.gather(1, turn.expand_as(states))


class PlainDMM(Networks):
    "Without pyro: prior, posterior, a drawn divergence and the decoder in the loop."

    def loss(self, x, lengths):
        "Minus the bound of a batch, in nats."
        h, z, total = self.read(x, lengths), self.z0.expand(len(x), -1), 0
        seen = torch.arange(x.shape[1]) < lengths[:, None]
        for t in range(x.shape[1]):
            p = torch.distributions.Normal(*self.prior(z), validate_args=False)
            q = torch.distributions.Normal(*self.posterior(z, h[:, t]), validate_args=False)
            z = q.rsample()
            emission = torch.distributions.Bernoulli(logits=self.decoder(z), validate_args=False)
            found = (p.log_prob(z) - q.log_prob(z)).sum(-1) + emission.log_prob(x[:, t]).sum(-1)
            total = total + (found * seen[:, t]).sum()
        return -total


def pyro_step():
    "A function of notes and lengths that takes one step of pyro's stochastic variational inference."
    import pyro
    import pyro.distributions as dist
    from pyro.infer import SVI, Trace_ELBO
    from pyro.optim import ClippedAdam

    net = Networks()
    notes = lambda z: dist.Bernoulli(logits=net.decoder(z))

    def model(x, lengths, seen):
        pyro.module("dmm", net)
        z = net.z0.expand(len(x), -1)
        with pyro.plate("sequences", len(x)):
            for t in pyro.markov(range(x.shape[1])):
                now = seen[:, t, None]
                z = pyro.sample(f"z{t}", dist.Normal(*net.prior(z)).mask(now).to_event(1))
                pyro.sample(f"x{t}", notes(z).mask(now).to_event(1), obs=x[:, t])

    def guide(x, lengths, seen):
        pyro.module("dmm", net)
        h, z = net.read(x, lengths), net.z0_posterior.expand(len(x), -1)
        with pyro.plate("sequences", len(x)):
            for t in pyro.markov(range(x.shape[1])):
                found = dist.Normal(*net.posterior(z, h[:, t])).mask(seen[:, t, None])
                z = pyro.sample(f"z{t}", found.to_event(1))

    pyro.enable_validation(False)  # the faster way
    optimiser = ClippedAdam({"lr": 3e-4, "betas": (0.96, 0.999), "clip_norm": 10.0, "lrd": 0.99996})
    inference = SVI(model, guide, optimiser, Trace_ELBO())

    def step(x, lengths):
        return inference.step(x, lengths, torch.arange(x.shape[1]) < lengths[:, None])

    step.parameters = sum(p.numel() for p in net.parameters())
    return step
