"""LPIPS with AlexNet (Zhang et al. 2018, 1801.03924, eq. 1; the published v0.1), from two local weight files.

The `lpips` package would bring torchvision, whose build must match torch's, and would download AlexNet.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lorafleet.errors import BaseModelError, first_line

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
# By torchvision's index in AlexNet: channels in and out, kernel, stride, padding. Before the second and third the
# features are max-pooled.
CONVOLUTIONS = {
    0: (3, 64, 11, 4, 2), 3: (64, 192, 5, 1, 2), 6: (192, 384, 3, 1, 1),
    8: (384, 256, 3, 1, 1), 10: (256, 256, 3, 1, 1),
}  # fmt: skip
POOLED_BEFORE = (3, 6)


@dataclass(frozen=True, eq=False)
class Lpips:
    """AlexNet's five convolutions and the weight of each channel, [1, c, 1, 1]."""

    convolutions: dict[int, nn.Conv2d]
    weights: list[Tensor]

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Lpips:
        """Reads `alexnet*.pth` (torchvision's) and `alex.pth` (lpips v0.1); BaseModelError says what is not there."""
        trunk = _read(next(iter(sorted(folder.glob("alexnet*.pth"))), folder / "alexnet.pth"))
        heads = _read(folder / "alex.pth")
        convolutions = {}
        try:
            for index, (n_in, n_out, kernel, stride, padding) in CONVOLUTIONS.items():
                layer = nn.Conv2d(n_in, n_out, kernel, stride, padding).requires_grad_(False)
                layer.load_state_dict({key: trunk[f"features.{index}.{key}"] for key in ("weight", "bias")})
                convolutions[index] = layer.to(device)
            weights = [heads[f"lin{i}.model.1.weight"].to(device) for i in range(len(CONVOLUTIONS))]
        except (KeyError, RuntimeError) as problem:
            raise BaseModelError(
                f"--lpips {folder}: not AlexNet's and LPIPS v0.1's tensors ({problem}); give torchvision's alexnet and "
                "the alex.pth of lpips 0.1"
            ) from None
        return cls(convolutions, weights)

    @torch.no_grad()
    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """LPIPS of each pair, [n] on the CPU; pictures [n, 3, h, w] in [0, 1] of at least 64 pixels a side."""
        total: Tensor | float = 0.0
        for one, two, weight in zip(self._features(a), self._features(b), self.weights, strict=True):
            total = total + (weight * (one - two).square()).sum(dim=1).mean(dim=(1, 2))
        assert isinstance(total, Tensor)  # there are five layers
        return total.cpu()

    def _features(self, pictures: Tensor) -> list[Tensor]:
        device = self.weights[0].device
        shift, scale = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (SHIFT, SCALE))
        x = (2 * pictures.to(device) - 1 - shift) / scale
        normalised = []
        for index, layer in self.convolutions.items():
            x = F.max_pool2d(x, 3, 2) if index in POOLED_BEFORE else x
            x = F.relu(layer(x))
            normalised.append(x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10))
        return normalised


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file; nothing else in it is unpickled."""
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, UnpicklingError) as problem:
        line = first_line(problem, 200)
        raise BaseModelError(
            f"--lpips: cannot read {path} ({line}); the folder holds torchvision's alexnet-owt-7be5be79.pth and the "
            "alex.pth of lpips 0.1"
        ) from None
