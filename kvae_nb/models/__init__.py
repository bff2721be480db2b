"""Encoders, decoders, dynamics, and the models made of them."""

from kvae_nb.house import door

__getattr__, __dir__ = door(
    __name__, "protocol", "parts", "networks", "vae", "dynamics", "continuous", "masked", "stable", "sources", "kvae", "fivo", "particles",
    "slds", "skvae", "switching_particles", "rnn", "stream",
    "distributions", "mixtures", "audio_networks", "sequence_steps", "sequence_inputs", "sequence_parts", "sequence_latents", "sequence", "sequence_going", "sequence_use", "policy",
    "factors", "dsvae", "experts", "identity", "transitions", "vdsm"
)

from kvae_nb.models import particles, sequence_going, sequence_use, stream, switching_particles  # noqa: E402, F401: they give models methods
