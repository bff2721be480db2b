"""Simulators, in numpy and pymunk; no model."""

from kvae_nb.house import door

__getattr__, __dir__ = door(__name__, "published", "balls", "pendulum", "game", "environments", "agents", "strings", "figures", "wardrobe", "sprites", "swings")
