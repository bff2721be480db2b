"""The Kalman variational auto-encoder, derived and implemented step by step in notebooks."""

__version__ = "0.2.0"

from kvae_nb.house import front, keep_old_names

NAMES = {
    "Gaussian": "core.gaussians",
    "InputError": "core.errors",
    "seed_everything": "core.runtime",
    "simulate": "worlds.balls",
    "LGSSM": "inference.lgssm",
    "kalman_filter": "inference.routes",
    "smoother": "inference.routes",
    "log_evidence": "inference.routes",
    "SLDS": "inference.slds",
    "VideoData": "data.films",
    "read_video_data": "data.opening",
    "KVAE": "models.kvae",
    "KVAEConfig": "models.kvae",
    "SwitchingKVAE": "models.skvae",
    "RecurrentVAE": "models.rnn",
    "evaluate": "evaluation.report",
    "RunConfig": "training.runs",
    "preset": "training.runs",
    "fit": "training.loop",
    "load_pretrained": "training.pretrained",
}  # the names that most people use -> where they are defined

__getattr__, __dir__ = front(__name__, NAMES)
keep_old_names()
