"""The real suite with encoders of random weights: the plumbing, the formulas, and what it says without weights."""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, ViTConfig, ViTModel

from lorafleet.bases import SHIPPED
from lorafleet.errors import BaseModelError
from lorafleet_jobs.evaluate.encoders import Clip, Dino, Preparation
from lorafleet_jobs.evaluate.lpips import CONVOLUTIONS, Lpips
from lorafleet_jobs.evaluate.pictures import ArmSamples, Prompt, SubjectPictures
from lorafleet_jobs.evaluate.real import RealSuite, Weights

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The folders a user would give, with small random models."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("weights")
    ViTModel(ViTConfig(image_size=32, patch_size=8, **SMALL), add_pooling_layer=False).save_pretrained(root / "dino")
    (root / "dino" / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]})
    )
    tokenizer = CLIPTokenizer.from_pretrained(SHIPPED["toy-sdxl"] / "tokenizer")
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = CLIPConfig(
        text_config={"vocab_size": len(tokenizer), "max_position_embeddings": 32, **ends, **SMALL},
        vision_config={"image_size": 32, "patch_size": 8, **SMALL},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(root / "clip")
    tokenizer.save_pretrained(root / "clip")
    (root / "lpips").mkdir()
    trunk, heads = {}, {}
    for i, (index, (n_in, n_out, kernel, _, _)) in enumerate(CONVOLUTIONS.items()):
        trunk[f"features.{index}.weight"] = torch.randn(n_out, n_in, kernel, kernel) / (n_in * kernel**2) ** 0.5
        trunk[f"features.{index}.bias"] = torch.randn(n_out) * 0.1
        heads[f"lin{i}.model.1.weight"] = torch.rand(1, n_out, 1, 1)
    torch.save(trunk, root / "lpips" / "alexnet-owt-7be5be79.pth")
    torch.save(heads, root / "lpips" / "alex.pth")
    return Weights(root / "dino", root / "clip", root / "lpips")


def pictures(n, seed, side=64):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_dino_is_the_class_token_of_prepared_pictures(weights):
    given = pictures(18, 1)
    found = Dino.load(weights.dino).embed(given)
    model = ViTModel.from_pretrained(weights.dino, add_pooling_layer=False).eval()
    prepared = (F.interpolate(given, (32, 32), mode="bicubic", antialias=True).clamp(0, 1) - 0.5) / 0.25
    with torch.no_grad():
        expected = F.normalize(model(prepared).last_hidden_state[:, 0], dim=-1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_clip_is_transformers_own_image_and_text_similarity(weights):
    clip, given = Clip.load(weights.clip), pictures(3, 2)
    texts = ["a photo of a mug", "a dog in the snow"]
    model, tokenizer = CLIPModel.from_pretrained(weights.clip).eval(), CLIPTokenizer.from_pretrained(weights.clip)
    with torch.no_grad():
        ids = tokenizer(texts, padding=True, return_tensors="pt")
        output = model(**ids, pixel_values=clip.prepare(given))
    torch.testing.assert_close(clip.embed(given), output.image_embeds, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(clip.embed_texts(texts), output.text_embeds, rtol=1e-4, atol=1e-5)


def test_preparation_by_hand():
    grey = torch.full((1, 3, 8, 8), 0.5)
    found = Preparation(4, ((0.5, 0.4, 0.3), (0.1, 0.2, 0.4)))(grey)
    torch.testing.assert_close(found[0, :, 0, 0], torch.tensor([0.0, 0.5, 0.5]))


def test_lpips_is_equation_1_over_alexnets_features(weights):
    """Against torchvision's layout of AlexNet as one `nn.Sequential`, cut after each ReLU."""
    trunk = torch.load(weights.lpips / "alexnet-owt-7be5be79.pth", weights_only=True)
    heads = torch.load(weights.lpips / "alex.pth", weights_only=True)
    features = nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(),
        nn.MaxPool2d(3, 2), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
    )  # fmt: skip
    features.load_state_dict({key.removeprefix("features."): value for key, value in trunk.items()})
    a, b = pictures(2, 3, 96), pictures(2, 4, 96)
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x, y = ((2 * one - 1 - shift[:, None, None]) / scale[:, None, None] for one in (a, b))
    expected, layer = torch.zeros(2), 0
    with torch.no_grad():
        for module in features:
            x, y = module(x), module(y)
            if isinstance(module, nn.ReLU):
                difference = (F.normalize(x, dim=1, eps=1e-10) - F.normalize(y, dim=1, eps=1e-10)).square()
                expected += F.conv2d(difference, heads[f"lin{layer}.model.1.weight"]).mean(dim=(1, 2, 3))
                layer += 1
    lpips = Lpips.load(weights.lpips)
    torch.testing.assert_close(lpips.distance(a, b), expected, rtol=1e-4, atol=1e-6)
    assert lpips.distance(a, a).tolist() == [0.0, 0.0]


def test_the_suite_scores_copies_as_perfect_and_has_every_number(weights):
    subjects = [
        SubjectPictures(name, "dog", pictures(4, seed), pictures(4, seed)) for name, seed in (("a", 1), ("b", 2))
    ]
    suite = RealSuite.load("sdxl", subjects, weights)
    prompts = (Prompt("a photo of {subject} in the snow"), Prompt("a photo of {subject} on the beach"))
    copied = ArmSamples(prompts, subjects[0].training.unflatten(0, (2, 2)), subjects[1].training)
    scores = suite.of_made(subjects[0], copied)
    assert None not in scores.as_json().values()
    assert scores.dino > suite.of_made(subjects[1], copied).dino
    assert scores.memorisation > suite.of_made(subjects[1], copied).memorisation
    real = suite.of_real(subjects[0])
    assert real.dino < scores.dino, "no picture is compared with itself"
    assert real.clip_t is None
    assert suite.title == "sdxl; DINO from dino, CLIP from clip"
    without = RealSuite.load("sdxl", subjects[:1], Weights(weights.dino, weights.clip))
    alone = without.of_made(subjects[0], copied)
    assert (alone.diversity, alone.top_1) == (None, None)


def test_without_weights_it_says_which_folders_to_give(weights, tmp_path):
    with pytest.raises(BaseModelError, match=r"'sdxl'.*--dino FOLDER.*--clip FOLDER"):
        RealSuite.load("sdxl", [], Weights(dino=weights.dino))
    with pytest.raises(BaseModelError, match=r"--dino .*nowhere.*dino-vits16"):
        RealSuite.load("sdxl", [], Weights(tmp_path / "nowhere", weights.clip))
    with pytest.raises(BaseModelError, match=r"alexnet"):
        RealSuite.load("sdxl", [], Weights(weights.dino, weights.clip, tmp_path))
