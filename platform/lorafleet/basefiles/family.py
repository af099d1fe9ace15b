"""What the UNet of a checkpoint predicts: the file's own tensors say it, else its metadata, else whoever adds it.

Knows the markers that trainers write and the scheduler that goes with each family. Nothing is guessed from names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from lorafleet.basefiles.checkpoint import Checkpoint
from lorafleet.errors import BaseModelError

Kind = Literal["epsilon", "v", "v-zero-snr", "edm"]
KINDS: tuple[Kind, ...] = get_args(Kind)
PREDICTION_KEYS = ("modelspec.prediction_type", "modelspec.predict_key", "prediction_type")
_WORDS: dict[str, Kind] = {"epsilon": "epsilon", "eps": "epsilon", "v": "v", "v_prediction": "v", "v_pred": "v"}
_DISCRETE = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000,
    "interpolation_type": "linear", "steps_offset": 1, "timestep_spacing": "leading", "prediction_type": "epsilon",
}  # fmt: skip
_EDM = {
    "_class_name": "EDMDPMSolverMultistepScheduler",
    "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "rho": 7.0, "num_train_timesteps": 1000,
    "prediction_type": "epsilon", "algorithm_type": "dpmsolver++", "solver_type": "midpoint", "solver_order": 2,
    "final_sigmas_type": "zero", "thresholding": False,
}  # fmt: skip
SCHEDULERS: dict[Kind, dict[str, Any]] = {
    "epsilon": _DISCRETE,
    "v": {**_DISCRETE, "prediction_type": "v_prediction"},
    "v-zero-snr": {  # whose first step must be the last timestep (Lin et al. 2024, section 3.3)
        **_DISCRETE, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing",
    },
    "edm": _EDM,
}  # fmt: skip
PLAYGROUND_MEAN, PLAYGROUND_STD = (-1.6574, 1.886, -1.383, 2.5155), (8.4927, 5.9022, 6.5498, 5.2299)
"""Of Playground v2.5's latents, as its VAE's configuration has them."""
PLAYGROUND_FACTOR = 0.5


@dataclass(frozen=True)
class Family:
    """What a UNet predicts, and how that is known."""

    kind: Kind
    reason: str

    def __str__(self) -> str:
        return f"{self.kind} ({self.reason})"

    @property
    def scheduler(self) -> dict[str, Any]:
        """The configuration of the scheduler that the base gets."""
        return SCHEDULERS[self.kind]


def family_of(checkpoint: Checkpoint, asked: Kind | None = None) -> Family:
    """The family of a checkpoint; `asked` is what whoever adds it says.

    Tensors come first, because somebody put them there for this, then `asked`, then metadata, which merging programs
    copy from one of what they merge; a file that says nothing is epsilon, as SDXL is. Raises BaseModelError if `asked`
    contradicts the tensors, or the file says something that is no family.
    """
    marked = _marked(checkpoint)
    if marked is not None:
        if asked not in (None, marked.kind):
            raise BaseModelError(
                f"{checkpoint.path} predicts {marked}, and --prediction is {asked}; leave the option out"
            )
        return marked
    if asked is not None:
        return Family(asked, "--prediction says so")
    for key in PREDICTION_KEYS:
        if (word := checkpoint.metadata.get(key)) is not None:
            if word.lower() not in _WORDS:
                raise BaseModelError(
                    f"{checkpoint.path}: its metadata says {key} {word!r}; allowed are {', '.join(_WORDS)}; say it "
                    f"with --prediction {'|'.join(KINDS)}"
                )
            return Family(_WORDS[word.lower()], f"its metadata's {key} says so")
    return Family("epsilon", "nothing in the file says another; you may, with --prediction")


def _marked(checkpoint: Checkpoint) -> Family | None:
    there = [name for name in ("edm_mean", "edm_std", "v_pred", "ztsnr") if name in checkpoint.tensors]
    kinds: dict[tuple[str, ...], Kind] = {
        ("edm_mean", "edm_std"): "edm", ("v_pred",): "v", ("v_pred", "ztsnr"): "v-zero-snr",
    }  # fmt: skip
    if not there:
        return None
    if tuple(there) not in kinds:
        raise BaseModelError(
            f"{checkpoint.path} has the marker tensors {', '.join(there)}; known are "
            f"{', '.join(map(' with '.join, kinds))}; fetch it again, or remove what is wrong"
        )
    says = "tensors {} and {} say" if len(there) > 1 else "tensor {} says"
    return Family(kinds[tuple(there)], f"its {says.format(*there)} so")


def vae_statistics(mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    """What Playground's VAE configuration has and SDXL's has not: mean and std of each latent channel, and 0.5."""
    return {"latents_mean": list(mean), "latents_std": list(std), "scaling_factor": PLAYGROUND_FACTOR}
