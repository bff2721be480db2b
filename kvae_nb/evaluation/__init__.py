"""What is measured of a model, and how it is drawn."""

from kvae_nb.house import door

__getattr__, __dir__ = door(
    __name__, "imputation", "scores", "report", "checks", "probes", "calibration", "proper_scores", "plots", "videos",
    "bounds", "baselines", "judge", "swaps", "codes", "someone"
)
