"""Prompt encoding against StableDiffusionXLPipeline with textual inversion loaded the stock way."""

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from hypothesis import given, settings
from hypothesis import strategies as st

from lorafleet.bases import find_base
from lorafleet.errors import RequestError
from lorafleet.numerics.text import PromptEncoder, new_vectors, split_prompt

TOKENS = {"<dog-rex>": (0, 1), "<mug>": (2,), "TOK": (0, 1)}


def pipeline() -> StableDiffusionXLPipeline:
    path = find_base("toy-sdxl").path
    return StableDiffusionXLPipeline.from_pretrained(path, dtype=torch.float32, use_safetensors=True)


@pytest.fixture(scope="module")
def encoder():
    pipe = pipeline()
    return PromptEncoder((pipe.tokenizer, pipe.tokenizer_2), (pipe.text_encoder, pipe.text_encoder_2))


@pytest.fixture(scope="module")
def vectors():
    generator = torch.Generator().manual_seed(4)
    return torch.randn(3, 48, generator=generator), torch.randn(3, 64, generator=generator)


@pytest.fixture(scope="module")
def stock(vectors):
    """The same vectors as tokens <s0>, <s1>, <s2> of a stock pipeline."""
    pipe = pipeline()
    names = [f"<s{i}>" for i in range(3)]
    for i, (tokenizer, text_encoder) in enumerate(
        ((pipe.tokenizer, pipe.text_encoder), (pipe.tokenizer_2, pipe.text_encoder_2))
    ):
        rows = list(vectors[i])
        pipe.load_textual_inversion(rows, token=names, tokenizer=tokenizer, text_encoder=text_encoder)
    return pipe


def by_stock(pipe, prompt, clip_skip=None):
    context, _, pooled, _ = pipe.encode_prompt(
        prompt, device="cpu", do_classifier_free_guidance=False, clip_skip=clip_skip
    )
    return context, pooled


@torch.no_grad()
@pytest.mark.parametrize("prompt", [
    "", "a photo of a dog", "  Two   spaces, and Capitals! ", "!dog! what!!", "naïve café — 東京",
    " ".join(["dog"] * 30),
])  # fmt: skip
def test_plain_prompts(encoder, stock, prompt):
    conditioning = encoder.encode(encoder.token_ids(split_prompt(prompt, {})))
    context, pooled = by_stock(stock, prompt)
    torch.testing.assert_close(conditioning.context, context, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(conditioning.pooled, pooled, atol=1e-6, rtol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("clip_skip", [None, 0, 1, 2])
def test_skipped_layers(encoder, stock, vectors, clip_skip):
    ids = encoder.token_ids(split_prompt("a photo of <dog-rex>", TOKENS))
    conditioning = encoder.encode(ids, vectors, clip_skip)
    context, pooled = by_stock(stock, "a photo of <s0><s1>", clip_skip)
    torch.testing.assert_close(conditioning.context, context, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(conditioning.pooled, pooled, atol=1e-6, rtol=1e-6)
    usual = encoder.encode(ids, vectors)
    assert torch.equal(conditioning.context, usual.context) == (not clip_skip)


def test_what_does_not_fit_is_refused_and_never_cut_off(encoder):
    with pytest.raises(RequestError, match="250 tokens; at most 30 fit here"):
        encoder.token_ids([" ".join(["a very long prompt that does not fit"] * 10)])


@torch.no_grad()
@pytest.mark.parametrize(("prompt", "by_name"), [
    ("a photo of <dog-rex> on a beach", "a photo of <s0><s1> on a beach"),
    ("TOK", "<s0><s1>"),
    ("a photo of TOK, dog", "a photo of <s0><s1>, dog"),
    ("<mug> beside <dog-rex>", "<s2> beside <s0><s1>"),
    ("a<mug>b", "a<s2>b"),
    ("<dog-rex> " + "red dog " * 6 + "<mug>", "<s0><s1> " + "red dog " * 6 + "<s2>"),
])  # fmt: skip
def test_learned_tokens(encoder, stock, vectors, prompt, by_name):
    conditioning = encoder.encode(encoder.token_ids(split_prompt(prompt, TOKENS)), vectors)
    context, pooled = by_stock(stock, by_name)
    torch.testing.assert_close(conditioning.context, context, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(conditioning.pooled, pooled, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_nothing_stays_behind_between_calls(encoder, vectors):
    plain = encoder.token_ids(["a dog"])
    before = encoder.encode(plain)
    learned = encoder.token_ids(["a ", (0, 1)])
    first = encoder.encode(learned, vectors)
    other = encoder.encode(learned, (vectors[0] + 1, vectors[1] + 1))
    assert not torch.allclose(first.context, other.context)
    assert torch.equal(encoder.encode(learned, vectors).context, first.context)
    assert torch.equal(encoder.encode(plain).context, before.context)
    assert torch.equal(encoder.encode(plain, vectors).context, before.context)
    assert all(embedding.held == () for embedding in encoder.embeddings)


def test_of_two_triggers_at_one_place_the_longer_is_meant():
    triggers = {"red": (0,), "red dog": (1,), "red dog (small)": (2,)}
    assert split_prompt("a red dog", triggers) == ["a ", (1,)]
    assert split_prompt("a red dog (small), a red mug", triggers) == ["a ", (2,), ", a ", (0,), " mug"]


@torch.no_grad()
def test_typed_special_tokens_are_plain_text(encoder):
    size = encoder.embeddings[0].base.num_embeddings
    ids = encoder.token_ids(["a <|endoftext|> dog <|startoftext|>"])[0][0].tolist()
    start, end = encoder.tokenizers[0].bos_token_id, encoder.tokenizers[0].eos_token_id
    assert ids.count(start) == 1
    body = ids[1 : ids.index(end)]
    assert len(body) > 6
    assert max(body) < min(start, end) < size


def test_gradients_reach_the_vectors_that_the_prompt_names(encoder):
    made = new_vectors(encoder, 3, torch.Generator().manual_seed(0))
    encoder.encode(encoder.token_ids(["a ", (0, 2), " dog"]), made).context.sum().backward()
    for rows in made:
        assert rows.grad[0].any()
        assert not rows.grad[1].any()
        assert rows.grad[2].any()


def test_new_vectors_start_from_a_word_or_at_the_vocabulary_s_scale(encoder):
    words = new_vectors(encoder, 2, torch.Generator(), init="dog")
    ids = encoder.tokenizers[1]("dog", add_special_tokens=False).input_ids
    assert torch.equal(words[1][0], encoder.embeddings[1].base.weight[ids].mean(dim=0))
    drawn = new_vectors(encoder, 64, torch.Generator().manual_seed(0))
    for rows, table in zip(drawn, encoder.embeddings, strict=True):
        assert rows.std().item() == pytest.approx(table.base.weight.std().item(), rel=0.1)


def test_a_trigger_is_found_whole_only():
    triggers = {"TOK": (0,), "TOK2": (1,), "<a>": (2,), "<a/TOK2>": (3,), "mug": "red mug"}
    assert split_prompt("a TOK and TOK2", triggers) == ["a ", (0,), " and ", (1,)]
    assert split_prompt("STOK TOKS", triggers) == ["STOK TOKS"]
    assert split_prompt("<a><a/TOK2>", triggers) == [(2,), (3,)]
    assert split_prompt("a mug here", triggers) == ["a red mug here"]
    assert split_prompt("<b> TOK", {}) == ["<b> TOK"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["<a>", "<a/TOK2>", "TOK", "dog", " ", "x<", "é"]), max_size=12))
def test_splitting_loses_nothing(parts):
    prompt = "".join(parts)
    triggers = {"<a>": (0,), "<a/TOK2>": (1,), "TOK": (2,)}
    back = {rows: text for text, rows in triggers.items()}
    pieces = split_prompt(prompt, triggers)
    assert "".join(piece if isinstance(piece, str) else back[piece] for piece in pieces) == prompt
    assert all(piece != "" for piece in pieces)
