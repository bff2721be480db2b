"""Filters, smoothers and samplers for linear-Gaussian and switching systems: functions on tensors."""

from kvae_nb.house import door

__getattr__, __dir__ = door(
    __name__, "lgssm", "irregular", "routes", "batched", "checks", "linear", "square_root", "parallel",
    "kernel_algebra", "cpu_kernel", "lanes", "gpu_code", "gpu_kernel", "particles", "particle_parts",
    "particle_smoother", "chains", "slds", "slds_smoother", "regime_particles"
)
