"""The linear update that every sampler is an instance of, and each sampler's coefficients. Knows no scheduler.

    x0 = c_skip x + c_out F(c_in x, t)            the denoised latent from the network's output F
    x' = A x + B x0 + C x0_prev + D z             the step, z ~ N(0, I) from the row's own generator

Latents are x = z + sigma n ("exploding") or x = alpha z + sqrt(1 - alpha^2) n ("preserving", alpha^2 the cumulated
alpha of DDPM). All coefficients are float64, one of each for every step.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Preconditioning:
    """x0 = c_skip x + c_out F(c_in x), each [n]."""

    c_in: Tensor
    c_skip: Tensor
    c_out: Tensor


@dataclass(frozen=True)
class Update:
    """x' = A x + B x0 + C x0_prev + D z, each [n]."""

    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor


@dataclass(frozen=True)
class Level:
    """How noisy a latent is, x = alpha z + sigma n, each [n]: of the latent before each of n steps."""

    alpha: Tensor
    sigma: Tensor

    @classmethod
    def exploding(cls, sigma: Tensor) -> Level:
        """Of x = z + sigma n."""
        return cls(torch.ones_like(sigma), sigma)

    @classmethod
    def preserving(cls, alpha: Tensor) -> Level:
        """Of x = alpha z + sqrt(1 - alpha^2) n."""
        return cls(alpha, (1 - alpha**2).sqrt())


@dataclass(frozen=True)
class SamplerTable:
    """The coefficients of `n` steps, each [n] float64, and the scale of the first latent's noise."""

    t: Tensor  # what the UNet takes as timestep
    alpha: Tensor  # the latent before the step is alpha z + sigma n
    sigma: Tensor
    c_in: Tensor
    c_skip: Tensor
    c_out: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    init_noise_sigma: float

    @classmethod
    def of(
        cls, t: Tensor, level: Level, network: Preconditioning, update: Update, init_noise_sigma: float
    ) -> SamplerTable:
        """The table of a latent's level and a step's two halves, preconditioning and update."""
        return cls(t.double(), **vars(level), **vars(network), **vars(update), init_noise_sigma=init_noise_sigma)

    def begun_at(self, step: int) -> SamplerTable:
        """The table of the steps from `step` on where sampling begins there: the first has no x0 before it.

        Hence it is of first order: B x0 + C x0_prev of a multistep update is first-order where both x0 are one.
        """
        if step == 0:
            return self
        names = [field.name for field in fields(self) if field.name != "init_noise_sigma"]
        cut = replace(self, **{name: getattr(self, name)[step:].clone() for name in names})
        cut.B[0] += cut.C[0]
        cut.C[0] = 0
        return cut

    def noised(self, z: Tensor, n: Tensor, step: int) -> Tensor:
        """A clean latent with noise, as noisy as the latent before a step is; `z` itself after the last step."""
        return z if step == len(self) else float(self.alpha[step]) * z + float(self.sigma[step]) * n

    @property
    def stochastic(self) -> bool:
        """Whether any step adds noise. If so z is drawn at every step, at the last one too, where D is 0."""
        return bool(self.D.any())

    @property
    def finite(self) -> bool:
        """Whether every coefficient is finite."""
        tensors = [getattr(self, field.name) for field in fields(self) if field.name != "init_noise_sigma"]
        return bool(torch.isfinite(torch.stack(tensors)).all())

    def __len__(self) -> int:
        return len(self.t)


def edm(sigma: Tensor, sigma_data: float) -> Preconditioning:
    """EDM's network on exploding latents: Karras et al. 2022, table 1."""
    total = sigma**2 + sigma_data**2
    return Preconditioning(total.rsqrt(), sigma_data**2 / total, sigma * sigma_data * total.rsqrt())


def exploding(sigma: Tensor, prediction: str) -> Preconditioning:
    """A network trained on preserving latents, on exploding ones: epsilon (Ho et al. 2020), v (Salimans & Ho 2022)."""
    c_in = (sigma**2 + 1).rsqrt()
    if prediction == "v_prediction":
        return Preconditioning(c_in, c_in**2, -sigma * c_in)
    return Preconditioning(c_in, torch.ones_like(sigma), -sigma)


def preserving(alpha: Tensor, prediction: str) -> Preconditioning:
    """The same network on preserving latents. Epsilon has no x0 at alpha 0: infinite there (Lin et al. 2024, 3.3)."""
    noise = (1 - alpha**2).sqrt()
    if prediction == "v_prediction":
        return Preconditioning(torch.ones_like(alpha), alpha, -noise)
    return Preconditioning(torch.ones_like(alpha), 1 / alpha, -noise / alpha)


def consistency(network: Preconditioning, t: Tensor, scaling: float, sigma_data: float = 0.5) -> Preconditioning:
    """A network's x0 under the boundary condition of consistency models: Song et al. 2023, eq. 5 and app. C."""
    scaled = t.double() * scaling
    c_skip = sigma_data**2 / (scaled**2 + sigma_data**2)
    c_out = scaled * (scaled**2 + sigma_data**2).rsqrt()
    return Preconditioning(network.c_in, c_skip + c_out * network.c_skip, c_out * network.c_out)


def euler(sigma: Tensor) -> Update:
    """Karras et al. 2022, algorithm 1 without churn, on exploding latents; `sigma` [n + 1]."""
    ratio = sigma[1:] / sigma[:-1]
    zero = torch.zeros_like(ratio)
    return Update(ratio, 1 - ratio, zero, zero)


def euler_ancestral(sigma: Tensor) -> Update:
    """Euler down to sigma_down, then fresh noise up to the next sigma: Song et al. 2021 (DDIM), eq. 16 with eta 1.

    sigma_up = sigma' sqrt(1 - (sigma' / sigma)^2) and sigma_down = sigma'^2 / sigma; `sigma` [n + 1].
    """
    ratio = sigma[1:] / sigma[:-1]
    return Update(ratio**2, 1 - ratio**2, torch.zeros_like(ratio), sigma[1:] * (1 - ratio**2).sqrt())


def exploding_2m(sigma: Tensor) -> Update:
    """DPM++ 2M (Lu et al. 2022, 2211.01095, algorithm 2) on exploding latents; `sigma` [n + 1], the last 0."""
    step, (now, before) = euler(sigma), _second_order(sigma)
    return Update(step.A, step.B * now, step.B * before, step.D)


def preserving_2m(sigma: Tensor) -> Update:
    """DPM++ 2M on preserving latents with alpha = (1 + sigma^2)^-1/2; `sigma` [n + 1], the last 0."""
    alpha = (1 + sigma**2).rsqrt()
    noise = alpha * sigma
    first_order = alpha[1:] * (1 - sigma[1:] / sigma[:-1])
    now, before = _second_order(sigma)
    return Update(noise[1:] / noise[:-1], first_order * now, first_order * before, torch.zeros_like(first_order))


def _second_order(sigma: Tensor) -> tuple[Tensor, Tensor]:
    """DPM++ 2M's weights of x0 and x0_prev, in first-order weights; the first and last steps are first order."""
    h = (sigma[:-1] / sigma[1:]).log()  # lambda_{i+1} - lambda_i; infinite at the last step
    one_over_2r = torch.zeros_like(h)
    one_over_2r[1:-1] = 0.5 * h[1:-1] / h[:-2]
    return 1 + one_over_2r, -one_over_2r


def ddim(alpha: Tensor, alpha_next: Tensor) -> Update:
    """Song et al. 2021 (DDIM), eq. 12 with eta 0, on preserving latents."""
    A = (1 - alpha_next**2).sqrt() / (1 - alpha**2).sqrt()
    zero = torch.zeros_like(A)
    return Update(A, alpha_next - alpha * A, zero, zero)


def multistep_consistency(alpha_next: Tensor) -> Update:
    """x0 noised anew for the next step, and kept at the last: Song et al. 2023 (consistency models), algorithm 1.

    `alpha_next` [n], the last 1.
    """
    zero = torch.zeros_like(alpha_next)
    return Update(zero, alpha_next, zero, (1 - alpha_next**2).sqrt())


def strategic(alpha: Tensor, alpha_s: Tensor, alpha_next: Tensor) -> Update:
    """DDIM down to s below the next step, then fresh noise up to it: TCD's strategic stochastic sampling.

    Zheng et al. 2024, 2402.19159. The last step has `alpha_s` = `alpha_next`, so nothing is added. Each [n].
    """
    down = ddim(alpha, alpha_s)
    kept = alpha_next / alpha_s
    return Update(kept * down.A, kept * down.B, down.C, (1 - kept**2).sqrt())
