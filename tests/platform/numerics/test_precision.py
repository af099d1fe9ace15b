"""What is rounded to a base's precision, and what is not."""

import pytest
import torch

from lorafleet.bases import find_base
from lorafleet.loaded import LoadedBase
from lorafleet.numerics.sampling import Noise


@torch.no_grad()
def test_time_ids_reach_the_unet_unrounded():
    """bf16 would make 340, 684 and 1368 of 341, 683 and 1365; training and previews ask through `predict` too."""
    loaded, seen = LoadedBase.load(find_base("toy-sdxl"), precision="bf16"), []
    handle = loaded.unet.add_time_proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].tolist()))
    ids = [341, 683, 1365, 257, 513, 8191]
    output = loaded.predict(
        torch.zeros(1, 4, 8, 8), torch.tensor([500]), loaded.unconditional(1), torch.tensor([ids]).float()
    )
    handle.remove()
    assert seen == [ids]
    assert output.dtype == torch.float32
    assert loaded.unet.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("side", [64, 125])
def test_a_seed_is_one_noise_in_every_precision(dtype, side):
    """A latent of 1000 px is no multiple of 16 numbers: drawn in half precision, the last ones were others."""
    noise = Noise([5, 6], (4, side, side), dtype=dtype)
    draws = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    for _ in range(2):
        expected = torch.cat([torch.randn(1, 4, side, side, generator=own) for own in draws])
        assert torch.equal(noise.draw(), expected.to(dtype).float())
