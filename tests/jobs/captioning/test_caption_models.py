"""The models' own code, on tiny ones made from their configurations: words are random, one text for each picture."""

import csv
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lorafleet.errors import CaptionerError
from lorafleet.toy.subjects import write_subjects
from lorafleet_jobs.captioning import blip, florence, tags, toy_words

RANDOM = np.random.default_rng(0)
PICTURES = [
    Image.fromarray(RANDOM.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in ((40, 50), (33, 20), (8, 9))
]
MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]"]
WORDS = [*MARKS, "a", "photo", "of", "dog", "cat", "on", "the", "beach", "grass", "sits", "red"]


@pytest.fixture(scope="module")
def tiny_blip(tmp_path_factory) -> Path:
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipProcessor
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    folder = tmp_path_factory.mktemp("blip")
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        **shape, "vocab_size": len(WORDS), "encoder_hidden_size": 16, "max_position_embeddings": 64, "bos_token_id": 5,
        "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0, "projection_dim": 16,
    }  # fmt: skip
    vision = {**shape, "image_size": 32, "patch_size": 16, "projection_dim": 16}
    torch.manual_seed(0)
    network = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision, projection_dim=16))
    network.save_pretrained(folder)
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}, additional_special_tokens=["[DEC]"])
    BlipProcessor(BlipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny_florence(tmp_path_factory) -> Path:
    from transformers import BartTokenizer, Florence2Config, Florence2ForConditionalGeneration, Florence2Processor
    from transformers.convert_slow_tokenizer import bytes_to_unicode
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    folder = tmp_path_factory.mktemp("florence")
    known = ["<s>", "<pad>", "</s>", "<unk>", *bytes_to_unicode().values()]
    vocabulary = {word: i for i, word in enumerate(known)}
    tokenizer = BartTokenizer(vocab=vocabulary, merges=[], extra_special_tokens={"image_token": "<image>"})
    side = {"height": 64, "width": 64}
    images = CLIPImageProcessorPil(size=side, crop_size=side, do_center_crop=False)
    images.image_seq_length = 5
    Florence2Processor(images, tokenizer, num_additional_image_tokens=1).save_pretrained(folder)
    vision = {
        "depths": (1, 1, 1, 1), "embed_dim": (8, 8, 16, 16), "num_heads": (1, 1, 2, 2), "num_groups": (1, 1, 2, 2),
        "window_size": 2, "projection_dim": 16,
    }  # fmt: skip
    text = {
        "model_type": "bart", "vocab_size": len(tokenizer), "d_model": 16, "encoder_layers": 1, "decoder_layers": 1,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
        "max_position_embeddings": 256,
    }  # fmt: skip
    torch.manual_seed(0)
    config = Florence2Config(vision_config=vision, text_config=text, image_token_id=tokenizer.image_token_id)
    Florence2ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def test_blip(tiny_blip) -> None:
    captioner = blip.load(str(tiny_blip))
    said = captioner.caption(PICTURES)
    assert len(said) == 3
    assert all(set(text.split()) <= set(WORDS) - {"[DEC]", "[SEP]"} for text in said)
    assert any(said)
    assert captioner.caption(PICTURES) == said
    assert captioner.caption(PICTURES[:1]) == said[:1]


def test_florence(tiny_florence) -> None:
    captioner = florence.load(str(tiny_florence))
    said = captioner.caption(PICTURES)
    assert len(said) == 3
    assert any(said)
    assert not any("<" in text for text in said)
    assert captioner.caption(PICTURES) == said


def test_toy(tmp_path) -> None:
    """The judge names what the renderer drew, nearly always."""
    [subject] = write_subjects(tmp_path, ["boat"], pictures=12)
    said = toy_words.load(None).caption(subject.pictures())
    drawn = [path.read_text().split("boat ")[1].strip() for path in sorted(subject.folder.glob("*.txt"))]
    assert sum("boat" in text and text.endswith(place) for text, place in zip(said, drawn, strict=True)) >= 10


def varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


def field(number: int, value: bytes | int) -> bytes:
    """One field of a protocol buffer."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor_type(name: bytes, *sides: int | bytes) -> bytes:
    dims = b"".join(field(1, field(1, side) if isinstance(side, int) else field(2, side)) for side in sides)
    return field(1, name) + field(2, field(1, field(1, 1) + field(2, dims)))


def mean_of_each_channel() -> bytes:
    """An ONNX file of one node: [n, 8, 8, 3] levels of 255 to [n, 3] means, divided by 255."""
    axes = field(1, b"axes") + field(8, 1) + field(8, 2) + field(20, 7)
    keep = field(1, b"keepdims") + field(3, 0) + field(20, 2)
    mean = field(1, b"pixels") + field(2, b"mean") + field(4, b"ReduceMean") + field(5, axes) + field(5, keep)
    divide = field(1, b"mean") + field(1, b"levels") + field(2, b"scores") + field(4, b"Div")
    levels = field(2, 1) + field(8, b"levels") + field(9, struct.pack("<f", 255.0))
    graph = field(1, mean) + field(1, divide) + field(2, b"g") + field(5, levels)
    graph += field(11, tensor_type(b"pixels", b"n", 8, 8, 3)) + field(12, tensor_type(b"scores", b"n", 3))
    return field(1, 8) + field(7, graph) + field(8, field(2, 13))


@pytest.fixture
def tagger(tmp_path) -> Path:
    (tmp_path / "model.onnx").write_bytes(mean_of_each_channel())
    with (tmp_path / "selected_tags.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([("tag_id", "name", "category", "count"), (1, "blue_sky", 0, 9), (2, "a_person", 4, 9)])
        writer.writerow((3, "^_^", 0, 9))
    return tmp_path


def test_wd14(tagger) -> None:
    """Channels come as blue, green, red; the second output is a person's name, and is not said."""
    pictures = [Image.new("RGB", (5, 5), colour) for colour in ("#0000ff", "#ff0000", "#c800ff", "#00ff00", "black")]
    said = tags.load(str(tagger)).caption(pictures)
    assert said == ["blue sky", "^_^", "blue sky, ^_^", "", ""]


def test_wd14_pads_with_white() -> None:
    x = tags.as_input(Image.new("RGB", (40, 20), (10, 20, 30)), 8, 8)
    assert (x.shape, x.dtype) == ((1, 8, 8, 3), np.float32)
    assert x[0, 0, 4].tolist() == [255, 255, 255]
    assert x[0, 4, 4] == pytest.approx([30, 20, 10], abs=5)


def test_wd14_without_its_list_of_tags(tagger) -> None:
    (tagger / "selected_tags.csv").write_text("a,b\n1,2\n")
    with pytest.raises(CaptionerError, match="no list of tags with the columns name and category"):
        tags.load(str(tagger))
