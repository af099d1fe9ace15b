"""The README of a bundle: what the adapter is, how to prompt it anywhere, and under which licence."""

from __future__ import annotations

import yaml

from lorafleet.base_record import licence_front_matter
from lorafleet.bases import HUB, Base
from lorafleet.bundle.bundle import AdapterCard


def model_card(card: AdapterCard, base: Base) -> str:
    """Markdown with Hugging Face's front matter."""
    record = base.record
    origin = card.base if record is None or not record.from_hub else record.origin
    hub_id = HUB.get(origin, origin)
    front = {
        **licence_front_matter(card.licence),
        "base_model": hub_id,
        "instance_prompt": card.instance_prompt,
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["text-to-image", "diffusers", "lora", "template:sd-lora"],
    }
    return TEMPLATE.format(
        front=yaml.safe_dump(front, sort_keys=False).strip(),
        name=card.name,
        noun=card.class_noun,
        images=card.images,
        steps=card.steps,
        kind=_kind(card),
        base=card.base,
        licence=card.licence,
        made_of=f" ({record.made_of})" if record is not None else "",
        prompt=f"a photo of <{card.name}> {card.class_noun} on the beach",
        diffusers=_diffusers(card, hub_id, base),
    )


def _diffusers(card: AdapterCard, hub_id: str, base: Base) -> str:
    where = f"platform/lorafleet/toy/weights/{base.path.name}" if base.is_toy else hub_id  # toys are in the repository
    if base.record is not None:
        where = str(base.path)  # with its own VAE and scheduler, which the hub does not have
    tokens = [row for trigger in card.triggers for row in trigger.tokens]
    subject = "".join(f"<s{row}>" for row in card.triggers[0].tokens) or card.triggers[0].text
    lines = [
        "import torch",
        "from diffusers import StableDiffusionXLPipeline",
        "",
        f'pipe = StableDiffusionXLPipeline.from_pretrained("{where}")',
    ]
    if card.rank:
        lines.append('pipe.load_lora_weights(".", weight_name="pytorch_lora_weights.safetensors")')
    if tokens:
        lines += [
            "from safetensors.torch import load_file",
            'tokens = load_file("embeddings.safetensors")',
            f"names = {[f'<s{row}>' for row in tokens]!r}",
            'for key, part in (("clip_l", ""), ("clip_g", "_2")):',
            '    encoder, tokenizer = getattr(pipe, "text_encoder" + part), getattr(pipe, "tokenizer" + part)',
            "    pipe.load_textual_inversion(tokens[key], names, text_encoder=encoder, tokenizer=tokenizer)",
        ]
    lines += [
        f'image = pipe("a photo of {subject} {card.class_noun} on the beach", guidance_scale={base.default_guidance},',
        f"             num_inference_steps={base.default_steps}).images[0]",
    ]
    return "\n".join(lines)


def _kind(card: AdapterCard) -> str:
    """What was learned, in words: "A DoRA (rank 8) with 2 learned tokens"."""
    count = sum(len(trigger.tokens) for trigger in card.triggers)
    tokens = f"{count} learned token{'s' * (count != 1)}"
    if not card.rank:
        return f"{tokens[0].upper()}{tokens[1:]} (textual inversion)"
    both = " on UNet and text encoders" if card.text_encoder_rank else ""
    where = both if card.targets else " on the text encoders"
    return f"A {'DoRA' if card.dora else 'LoRA'} (rank {card.rank}){where}" + (f" with {tokens}" if count else "")


TEMPLATE = """---
{front}
---

# {name}

{kind} of one {noun}, trained by lorafleet on {images} images for {steps} steps over `{base}`.

![base | words only | adapter](preview.png)

## Use it

**lorafleet**, over HTTP or in process:

```
lorafleet generate "{prompt}" --adapter {name}
```

**diffusers**, in this folder:

```python
{diffusers}
```

**A1111, Forge, ComfyUI**: `lorafleet adapters export {name} --format kohya --out FOLDER` writes a LoRA under the names
these read and one embedding file for each word that was learned. Put both where they belong, and write an embedding's
file name where this card writes the subject's token.

## Licence

`{licence}`, as the base's weights{made_of}. The subject's photos were yours; so is the duty to have the right
to use them.
"""
