"""Long and weighted prompts: against a chunk-by-chunk oracle, and bit for bit where nothing is weighted or long."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorafleet.bases import find_base
from lorafleet.errors import RequestError
from lorafleet.loaded import LoadedBase
from lorafleet.numerics.long_prompts import Weighted, chunks, encode_prompt, lengthened
from lorafleet.numerics.text import Conditioning

ROOM = 30  # the toy bases read 32 tokens, start and end included
LONG = "a red mug " * 25  # 75 tokens


@pytest.fixture(scope="module")
def encoder():
    return LoadedBase.load(find_base("toy-sdxl")).prompts


@pytest.fixture(scope="module")
def vectors():
    generator = torch.Generator().manual_seed(4)
    return torch.randn(80, 48, generator=generator), torch.randn(80, 64, generator=generator)


def plain(*pieces):
    return [Weighted(piece) for piece in pieces]


def by_hand(encoder, bodies, vectors=None):
    """Start, body, end, padding of each chunk, encoded alone and put side by side; pooled of the first."""
    parts = []
    for one, two in bodies:
        framed = []
        for tokenizer, body in zip(encoder.tokenizers, (one, two), strict=True):
            ids = [tokenizer.bos_token_id, *body, tokenizer.eos_token_id]
            framed.append(torch.tensor([ids + [tokenizer.pad_token_id] * (ROOM + 2 - len(ids))]))
        parts.append(encoder.encode(tuple(framed), vectors))
    return Conditioning(torch.cat([part.context for part in parts], dim=1), parts[0].pooled)


def ids_of(encoder, text):
    return [tokenizer(text, add_special_tokens=False).input_ids for tokenizer in encoder.tokenizers]


@torch.no_grad()
@pytest.mark.parametrize(
    "pieces", [[], [""], ["a photo of a dog!"], ["a ", (0, 1), " dog"], ["a red dog " * 10]], ids=str
)
def test_one_chunk_of_weight_1_is_the_training_s_encoding_to_the_bit(encoder, vectors, pieces):
    assert [len(chunks(encoder, i, plain(*pieces))) for i in (0, 1)] == [1, 1]
    ours, training = encode_prompt(encoder, plain(*pieces), vectors), encoder.encode(encoder.token_ids(pieces), vectors)
    assert torch.equal(ours.context, training.context)
    assert torch.equal(ours.pooled, training.pooled)


@torch.no_grad()
def test_a_long_prompt_is_its_chunks_side_by_side(encoder):
    ones, twos = ids_of(encoder, LONG)
    assert len(ones) == len(twos) == 75
    ours = encode_prompt(encoder, plain(LONG))
    hand = by_hand(encoder, [(ones[at : at + ROOM], twos[at : at + ROOM]) for at in (0, 30, 60)])
    assert ours.context.shape[1] == 3 * (ROOM + 2)
    assert torch.equal(ours.context, hand.context)
    assert torch.equal(ours.pooled, hand.pooled)


@torch.no_grad()
def test_what_a_trigger_stands_for_is_never_cut_in_two(encoder, vectors):
    size = encoder.embeddings[0].base.num_embeddings
    words = "dog " * 29
    first, second = chunks(encoder, 0, plain(words, (3, 4, 5), " mug"))
    assert len(first) == 29
    assert [token for token, _ in second[:3]] == [size + 3, size + 4, size + 5]
    fitting = chunks(encoder, 0, plain("dog " * 27, (3, 4, 5), " mug"))
    assert [len(chunk) for chunk in fitting] == [30, 1]
    with pytest.raises(RequestError, match="31 learned tokens; at most 30"):
        encode_prompt(encoder, plain(tuple(range(31))), vectors)


def test_a_prompt_has_at_most_eight_chunks(encoder):
    assert len(chunks(encoder, 0, plain("dog " * 240))) == 8
    with pytest.raises(RequestError, match="241 tokens; at most 240"):
        encode_prompt(encoder, plain("dog " * 241))


@torch.no_grad()
@pytest.mark.parametrize("weight", [0.0, 0.4, 1.3])
def test_weights_move_hidden_states_away_from_the_empty_prompt_s(encoder, weight):
    weighted = encode_prompt(encoder, [Weighted("a "), Weighted("red", weight), Weighted(" dog")])
    usual, empty = encode_prompt(encoder, plain("a red dog")), encode_prompt(encoder, [])
    z, z0 = usual.context[0], empty.context[0]
    assert torch.equal(weighted.context[0, :2], z[:2])  # start and "a"
    assert torch.equal(weighted.context[0, 3:], z[3:])  # "dog", end and padding
    torch.testing.assert_close(weighted.context[0, 2], (1 - weight) * z0[2] + weight * z[2], atol=1e-6, rtol=1e-6)
    assert not torch.allclose(weighted.context[0, 2], z[2])
    assert torch.equal(weighted.pooled, usual.pooled)


@torch.no_grad()
def test_a_weight_in_the_second_chunk_leaves_the_first_alone(encoder):
    weighted = encode_prompt(encoder, [Weighted("dog " * 35), Weighted("red", 1.5)]).context
    usual = encode_prompt(encoder, plain("dog " * 35 + "red")).context
    changed = (weighted != usual).any(dim=-1)[0].nonzero().flatten().tolist()
    assert changed == [(ROOM + 2) + 1 + 5]


@torch.no_grad()
def test_the_shorter_of_two_prompts_is_filled_up_with_the_empty_one(encoder):
    long, short, empty = (encode_prompt(encoder, plain(text)) for text in (LONG, "a dog", ""))
    two = lengthened(short, long.context.shape[1], lambda: empty)
    assert torch.equal(two.context, torch.cat([short.context, empty.context, empty.context], dim=1))
    assert torch.equal(two.pooled, short.pooled)
    assert lengthened(short, ROOM + 2, pytest.fail) is short


PAIRS = st.tuples(st.integers(0, 9), st.integers(0, 9))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(["dog ", "a red mug ", "é!"]), PAIRS), max_size=60))
def test_chunks_lose_nothing_and_are_as_full_as_can_be(encoder, pieces):
    for i in (0, 1):
        found = chunks(encoder, i, plain(*pieces))
        whole = [token for piece in pieces for token in encoder.piece_ids(i, piece)]
        assert [token for chunk in found for token, _ in chunk] == whole
        assert all(len(chunk) >= ROOM - 1 for chunk in found[:-1])
        assert all(len(chunk) <= ROOM for chunk in found)
