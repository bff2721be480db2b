"""Encoders, decoders, dynamics, and the models made of them."""

from kvae_nb.house import door

__getattr__, __dir__ = door(__name__, "protocol", "vae", "dynamics", "kvae", "slds", "skvae", "rnn", "stream")
