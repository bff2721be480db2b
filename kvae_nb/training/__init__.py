"""Schedules, the training step, the loop, runs and their files."""

from kvae_nb.house import door

__getattr__, __dir__ = door(__name__, "annealing", "config", "step", "loop", "kinds", "few", "sequence_runs", "runs", "records", "checkpoints", "session", "watch", "starts", "pretrained", "scaling", "play", "particle_bound", "identity_runs", "pretrained_sequences")
