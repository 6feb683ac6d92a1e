#!/usr/bin/env python3
"""Makes the golden models of `sdk/tests/transformers_parity.rs`: tiny random models and the logits of Hugging Face transformers.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install torch transformers
    /tmp/venv/bin/python training/tools/make_goldens.py sdk/tests/data/transformers

Each folder is a Hugging Face folder as `save_pretrained` writes it, and `expected.safetensors`: `ids` [T] and `logits` [T, V].
The models are small, but their weights are larger than an initialisation's, so that attention is peaked, norms do not cancel
and a wrong rotation, bias or norm moves the logits by far more than the tolerance. Run again only to add a case.
"""

import argparse
import pathlib
import sys

import torch
import transformers
from safetensors.torch import save_file

TOKENS = 80  # More than one prefill chunk and one KV block of the runtime, which hold 64.

SHAPE = dict(
    vocab_size=48,
    hidden_size=32,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    rms_norm_eps=1e-5,
    bos_token_id=1,
    eos_token_id=2,
    dtype="float32",
)


def cases():
    # head_dim is not hidden_size / heads, the head is not tied, and with these numbers the first frequency is kept, the second
    # is blended and the others are divided.
    yield "llama", transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            **SHAPE,
            head_dim=12,
            max_position_embeddings=512,
            tie_word_embeddings=False,
            **rope(
                10000.0,
                rope_type="llama3",
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=64,
            ),
        )
    )
    yield "llama_bias", transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            **SHAPE,
            max_position_embeddings=128,
            tie_word_embeddings=True,
            attention_bias=True,
            mlp_bias=True,
            **rope(10000.0),
        )
    )
    yield "qwen2", transformers.Qwen2ForCausalLM(
        transformers.Qwen2Config(
            **SHAPE, max_position_embeddings=128, tie_word_embeddings=True, **rope(1000000.0)
        )
    )
    yield "qwen3", transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(
            **SHAPE,
            head_dim=16,
            max_position_embeddings=128,
            tie_word_embeddings=True,
            **rope(1000000.0),
        )
    )


def rope(theta, rope_type="default", **scaling):
    """The rotary fields: one object since transformers 5, two fields before."""
    if int(transformers.__version__.split(".")[0]) >= 5:
        return dict(rope_parameters=dict(rope_type=rope_type, rope_theta=theta, **scaling))
    scaled = dict(rope_scaling=dict(rope_type=rope_type, **scaling)) if scaling else {}
    return dict(rope_theta=theta, **scaled)


def fill(model, generator):
    """Random weights that matter: matrices of gain 1.5, norms around 1, biases around 0."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            values = torch.randn(weight.shape, generator=generator)
            if weight.dim() == 2:
                gain = 1.0 if "embed_tokens" in name or "lm_head" in name else 1.5
                weight.copy_(values * gain / weight.shape[1] ** 0.5)
            elif name.endswith("bias"):
                weight.copy_(values * 0.3)
            else:
                weight.copy_(1.0 + values * 0.3)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path, help="folder to write the model folders to")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    for seed, (name, model) in enumerate(cases()):
        generator = torch.Generator().manual_seed(seed)
        model = model.to(torch.float32).eval()
        fill(model, generator)
        ids = torch.randint(0, SHAPE["vocab_size"], (TOKENS,), generator=generator)
        with torch.no_grad():
            logits = model(ids[None], use_cache=False).logits[0].contiguous()
        folder = out / name
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        save_file(
            {"ids": ids.to(torch.int64), "logits": logits},
            folder / "expected.safetensors",
            {"transformers": transformers.__version__, "torch": torch.__version__, "seed": str(seed)},
        )
        size = sum(file.stat().st_size for file in folder.iterdir())
        print(f"{folder}: {size} bytes, largest logit {logits.abs().max():.2f}", file=sys.stderr)


if __name__ == "__main__":
    main()
