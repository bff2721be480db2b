"""The command line, the panels to explore a model, and models of your own series."""

from kvae_nb.house import door

__getattr__, __dir__ = door(__name__, "cli", "command", "series", "explore", "canvas")
