"""What must not change while adapters are trained and served: the base's own weights."""

import hashlib

import torch


def weights_hash(loaded):
    """sha256 over every tensor of a base's UNet and VAE."""
    digest = hashlib.sha256()
    for tensor in (*loaded.unet.state_dict().values(), *loaded.vae.state_dict().values()):
        digest.update(tensor.contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
