"""Schedules, the training step, the loop, runs and their files."""

from kvae_nb.house import door

__getattr__, __dir__ = door(
    __name__,
    "annealing",
    "step",
    "loop",
    "runs",
    "records",
    "checkpoints",
    "watch",
    "session",
    "starts",
    "pretrained",
    "scaling",
)
