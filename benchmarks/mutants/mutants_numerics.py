"""Faults in the numerics, and the tests that should notice them."""

from __future__ import annotations

from mutant import Mutant

MUTANTS = (
    Mutant(
        "min-SNR's gamma always 5",
        "platform/lorafleet/numerics/build_objective.py",
        "MinSNR(recipe.min_snr_gamma or GAMMA)",
        "MinSNR(GAMMA)",
        "tests/platform/numerics/test_objectives.py",
    ),
    Mutant(
        "levels outside a base's own",
        "platform/lorafleet/numerics/objectives.py",
        "self.distribution.draw(count, generator).clamp(float(sigmas[0]), float(sigmas[sigmas.isfinite()][-1]))",
        "self.distribution.draw(count, generator)",
        "tests/platform/numerics/test_objectives.py",
    ),
    Mutant(
        "timesteps between levels rounded down",
        "platform/lorafleet/numerics/objectives.py",
        "return low + ((wanted - logs[low]) / (logs[low + 1] - logs[low])).clamp(0, 1)",
        "return low + 0 * wanted",
        "tests/platform/numerics/test_objectives.py",
    ),
    Mutant(
        "TCD's middle timestep rounded",
        "platform/lorafleet/numerics/samplers.py",
        "torch.floor((1 - TCD_GAMMA) * after)",
        "torch.round((1 - TCD_GAMMA) * after)",
        "tests/platform/numerics/test_samplers.py",
        "TCD takes timesteps 20 k - 1 alone, and 0.7 (20 k - 1) = 14 k - 0.7 rounds to what it is floored to",
    ),
    Mutant(
        "pooled output of the last chunk",
        "platform/lorafleet/numerics/long_prompts.py",
        "encoded[0].pooled)",
        "encoded[-1].pooled)",
        "tests/platform/numerics/test_long_prompts.py",
    ),
    Mutant(
        "prompt weights one token early",
        "platform/lorafleet/numerics/long_prompts.py",
        "weights[1 : len(chunk) + 1]",
        "weights[: len(chunk)]",
        "tests/platform/numerics/test_long_prompts.py",
    ),
    Mutant(
        "DoRA's gain forgets adapters before it",
        "platform/lorafleet/numerics/factors.py",
        "            Bs = [before * gain[:, None].to(before) for before in Bs]\n",
        "",
        "tests/platform/numerics/test_rowlora.py",
    ),
    Mutant(
        "DoRA at scale 0 kept",
        "platform/lorafleet/numerics/factors.py",
        "[(layers, scale) for layers, scale in group if scale]",
        "[(layers, scale) for layers, scale in group]",
        "tests/platform/numerics/test_rowlora.py",
    ),
    Mutant(
        "one dropout mask for all layers",
        "platform/lorafleet/numerics/rowlora.py",
        "(seed * 1009 + layer)",
        "(seed * 1009)",
        "tests/platform/numerics/test_rowlora.py",
    ),
    Mutant(
        "shorter triggers win",
        "platform/lorafleet/numerics/text.py",
        "sorted(triggers, key=len, reverse=True)",
        "sorted(triggers, key=len)",
        "tests/platform/numerics/test_text.py",
    ),
    Mutant(
        "learned tokens stay in the table",
        "platform/lorafleet/numerics/text.py",
        "            finally:\n                self.embeddings[i].held = ()\n",
        "            finally:\n                pass\n",
        "tests/platform/numerics/test_text.py",
    ),
    Mutant(
        "new tokens of standard deviation 1",
        "platform/lorafleet/numerics/text.py",
        " * table.std().item()",
        "",
        "tests/platform/numerics/test_text.py",
    ),
    Mutant(
        "exclamation marks lost",
        "platform/lorafleet/numerics/text.py",
        "        ids += [tokenizer.pad_token_id] if i else []\n",
        "",
        "tests/platform/numerics/test_text.py",
    ),
)
