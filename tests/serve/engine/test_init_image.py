"""Image-to-image and inpainting: the pictures of stock diffusers, alone and beside anything else."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLInpaintPipeline
from PIL import Image

from lorafleet.bundle.bundle import WEIGHTS
from lorafleet.errors import RequestError
from lorafleet.numerics.captured import CapturedCalls
from lorafleet.numerics.samplers import TCD_GAMMA, scheduler_for
from lorafleet_serve.engine.engine import StepEngine
from lorafleet_serve.engine.init_image import InitImage, Picture
from lorafleet_serve.engine.pipeline import Pipeline
from lorafleet_serve.engine.requests import GenerateRequest, nearest_size, with_defaults
from lorafleet_serve.engine.rows import shared_call
from lorafleet_serve.engine.stepper import Stepper

BAR = 2


def photo(size=(32, 32), seed=0):
    """Smooth colours with an edge."""
    y, x = np.mgrid[0 : size[1], 0 : size[0]] / max(size)
    waves = [np.sin(5 * x + seed), np.cos(4 * y - seed), np.sin(3 * (x + y))]
    levels = np.stack(waves, axis=-1) * 100 + 128
    levels[size[1] // 4 : size[1] // 2, size[0] // 4 :] = (220, 40, 40)
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


def spot(size=(32, 32)):
    """White, which is made anew, in a black frame; its edges are on no latent's."""
    levels = np.zeros(size[::-1], dtype=np.uint8)
    levels[6 : size[1] - 7, 9 : size[0] - 3] = 255
    return Image.fromarray(levels)


def init(strength, mask=False, size=(32, 32), seed=0):
    wanted = Picture.of(spot(size)) if mask else None
    return InitImage.of(Picture.of(photo(size, seed)), size, strength, wanted)


def pixels(image):
    return np.asarray(image).astype(int)


def distance(one, other):
    return np.abs(pixels(one) - pixels(other)).max()


class InpaintPipeline(StableDiffusionXLInpaintPipeline):
    """Diffusers' own with Playground's standardised latents, which its img2img knows and its inpainting forgets."""

    def _encode_vae_image(self, image, generator):
        z, config = super()._encode_vae_image(image, generator), self.vae.config
        if config.latents_mean is None:
            return z
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (config.latents_mean, config.latents_std))
        return (z - mean * config.scaling_factor) / std


@pytest.fixture(scope="module")
def stock(engine, bundle_root):
    """stock(request): its picture by diffusers' own pipelines."""
    base = engine.model.base
    whole = StableDiffusionXLImg2ImgPipeline.from_pretrained(base.path, dtype=torch.float32, use_safetensors=True)
    for name in ("plain", "few-steps"):
        whole.load_lora_weights(bundle_root / base.name / name, weight_name=WEIGHTS, adapter_name=peft_name(name))
    pipes = (whole, InpaintPipeline(**whole.components))

    def picture(request):
        begun, uses = request.init, request.adapters
        pipe = pipes[begun.mask is not None]
        pipe.set_progress_bar_config(disable=True)
        pipe.scheduler = scheduler_for(request.scheduler, base.scheduler)
        pipe.unet.disable_adapters()
        if uses:
            pipe.unet.enable_adapters()
            pipe.set_adapters([peft_name(use.adapter.name) for use in uses], [use.scale for use in uses])
        width, height = begun.size
        sized = begun.mask and {
            "mask_image": Image.frombytes("L", begun.size, begun.mask), "width": width, "height": height,
        }  # fmt: skip
        return pipe(
            prompt=request.prompt, negative_prompt=request.negative_prompt, strength=begun.strength,
            image=Image.frombytes("RGB", begun.size, begun.rgb), num_inference_steps=request.steps,
            guidance_scale=request.guidance_scale, guidance_rescale=request.guidance_rescale,
            eta=TCD_GAMMA if request.scheduler == "tcd" else 0.0,
            generator=torch.Generator().manual_seed(request.seed), **(sized or {}),
        ).images[0]  # fmt: skip

    return picture


def peft_name(name):
    return name.replace("-", "_")


STRENGTHS = (0.3, 0.65, 1.0)


@pytest.mark.parametrize("mask", [False, True], ids=["whole", "masked"])
def test_alone_equals_stock_diffusers_with_every_sampler(engine, use, stock, mask):
    """At several strengths: from the last steps on, where a multistep sampler has no step before, to all of them."""
    for number, sampler in enumerate(engine.model.samplers):
        uses = (use(engine, "plain", 0.8),) if number % 2 else ()
        for strength in STRENGTHS:
            request = GenerateRequest(
                "a red dog", 3 + number, steps=5, scheduler=sampler, guidance_scale=4.0, adapters=uses,
                init=init(strength, mask),
            )  # fmt: skip
            made = engine.submit(request).result(60).image
            assert distance(made, stock(request)) <= BAR, (sampler, strength)


def test_other_sizes_guidance_and_several_adapters_equal_stock_diffusers(engine, use, stock):
    uses = (use(engine, "plain"), use(engine, "few-steps", -0.5))
    for mask, guidance, rescale in ((False, 1.0, 0.0), (True, 6.0, 0.7)):
        request = GenerateRequest(
            "a dog", 1, steps=6, scheduler=engine.model.samplers[0], guidance_scale=guidance, guidance_rescale=rescale,
            negative_prompt="blurry", adapters=uses, init=init(0.5, mask, (48, 40)),
        )  # fmt: skip
        made = engine.submit(request).result(60).image
        assert made.size == (48, 40)
        assert distance(made, stock(request)) <= BAR


def test_the_bar_can_fail(engine):
    """Every option of an init image shows in the picture by far more than the bar."""
    options = [(0.4, True, 0), (0.8, True, 0), (0.8, False, 0), (0.8, True, 1)]
    begun = [init(strength, mask, seed=seed) for strength, mask, seed in options]
    made = [engine.submit(GenerateRequest("a dog", 1, steps=6, init=one)).result(60).image for one in begun]
    for i, one in enumerate(made):
        for other in made[i + 1 :]:
            assert distance(one, other) > 10 * BAR


def test_a_mask_keeps_what_is_black_and_makes_anew_what_is_white(engine):
    """Beside the mask is the picture as the VAE gives it back; seeds differ where it is white, and there alone."""
    one, other = (
        pixels(engine.submit(GenerateRequest("a dog", seed, steps=6, init=init(1.0, True))).result(60).image)
        for seed in (1, 2)
    )
    white = pixels(spot()) > 0
    assert np.abs(one - other)[white].mean() > 5
    far = np.zeros_like(white)
    far[:, :4] = True  # decoders look a few pixels to the side
    assert np.abs(one - pixels(photo()))[far].mean() < 20
    assert np.abs(one - other)[far].mean() < np.abs(one - other)[white].mean() / 2


def test_images_of_one_picture_encode_it_once(playground):
    engine = StepEngine(Pipeline(playground.model.loaded), max_rows=4)
    calls = []
    handle = playground.model.loaded.vae.encoder.register_forward_pre_hook(lambda *_: calls.append(None))
    begun = [init(0.5), init(0.5), init(0.8, True), init(0.5, seed=1)]
    images = [engine.submit(GenerateRequest("a", 1, steps=3, init=one)) for one in begun]
    images = [future.result(60).image.tobytes() for future in images]
    handle.remove()
    engine.close()
    assert len(calls) == 2
    assert images[0] == images[1]


def test_nothing_is_recorded_anew_for_pictures_and_masks(playground):
    """What a recorded step reads is the same for every kind of row: text-to-image steps stay what they are."""
    engine, calls = StepEngine(playground.model, max_rows=4), CapturedCalls(playground.model.loaded.device)
    engine.stepper = Stepper(playground.model, shared_call, calls)
    kinds, recorded = (None, init(0.5), init(1.0, True), init(0.7, True, seed=1)), []
    for begun in kinds:
        request = GenerateRequest("a dog", 1, steps=4, guidance_scale=3.0, init=begun)
        made = engine.submit(request).result(60).image
        recorded.append(calls.recorded)
        assert distance(made, playground.submit(request).result(60).image) <= BAR
    engine.close()
    assert recorded == [1] * len(kinds)


@pytest.mark.parametrize(("init", "options", "says"), [
    (init(0.1), {"steps": 9}, "strength is 0.1, which leaves none of 9 steps to take; with so many allowed are 0.112"),
    (init(0.5), {"width": 40}, "the init image is 32x32 and the image 40x32; scale it"),
    (init(0.5, size=(36, 32)), {}, "width is 36; allowed are multiples of 8"),
], ids=["strength", "size", "side"])  # fmt: skip
def test_what_cannot_be_begun_is_refused(playground, init, options, says):
    with pytest.raises(RequestError, match=says):
        with_defaults(GenerateRequest("a", 1, init=init, **options), playground.model.base, playground.model.samplers)


@pytest.mark.parametrize("strength", [0, -0.5, 1.01, float("nan")])
def test_strengths_are_above_0_and_at_most_1(strength):
    with pytest.raises(RequestError, match=r"init\.strength is"):
        GenerateRequest("a", 1, init=init(strength))


def test_a_picture_is_scaled_to_cover_the_size_and_cropped_evenly():
    wide = Image.new("RGB", (64, 16), "red")
    wide.paste((0, 255, 0), (24, 0, 40, 16))
    begun = InitImage.of(Picture.of(wide), (32, 32), 0.5)
    middle = Image.frombytes("RGB", begun.size, begun.rgb).crop((8, 0, 24, 32))
    assert middle.getcolors() == [(16 * 32, (0, 255, 0))]


def test_a_mask_is_what_is_transparent_or_else_white():
    grey = Image.new("L", (32, 32), 127)
    grey.paste(128, (0, 0, 16, 32))
    clear = photo().convert("RGBA")
    clear.putalpha(Image.eval(grey, lambda level: 255 - level))
    masks = [InitImage.of(Picture.of(photo()), (32, 32), 0.5, Picture.of(mask)).mask for mask in (grey, clear)]
    assert masks[0] == masks[1] == grey.point(lambda level: 255 * (level > 127)).tobytes()


def test_sizes_of_pictures_are_those_that_the_base_was_trained_on(playground):
    base = playground.model.base
    assert nearest_size(base, 3000, 3000) == (base.resolution, base.resolution)
    (width, height), (tall, taller) = nearest_size(base, 4000, 3000), nearest_size(base, 3000, 4000)
    assert (width, height) == (taller, tall)
    assert width > height
