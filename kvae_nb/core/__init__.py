"""Gaussians, errors, seeds, devices and files: what everything else is built on."""

from kvae_nb.house import door

__getattr__, __dir__ = door(__name__, "errors", "gaussians", "roots", "runtime", "files")
