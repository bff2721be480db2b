"""Films: containers, readers, masks, batches, shards."""

from kvae_nb.house import door

__getattr__, __dir__ = door(__name__, "clips", "films", "levels", "readers", "shards", "batches", "opening", "irregular", "sequences", "music", "midi", "chorales", "rollouts", "audio", "text", "sources", "factors", "sheets", "pickles", "someone")
