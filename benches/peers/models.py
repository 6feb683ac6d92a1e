"""GGUF files of random weights in the shapes of real models: speed does not depend on what the weights are."""

import gguf
import numpy as np

# Shapes of the published config.json files.
MODELS = {
    "qwen2.5-0.5b": dict(arch="qwen2", layers=24, hidden=896, ff=4864, heads=14, kv_heads=2, vocab=151936),
    "qwen2.5-1.5b": dict(arch="qwen2", layers=28, hidden=1536, ff=8960, heads=12, kv_heads=2, vocab=151936),
    "smollm2-135m": dict(arch="llama", layers=30, hidden=576, ff=1536, heads=9, kv_heads=3, vocab=49152),
}
TYPES = {"q4_0": gguf.GGMLQuantizationType.Q4_0, "q8_0": gguf.GGMLQuantizationType.Q8_0}


def write(path, model, matrices, head):
    """Writes `path`: the matrices in one format, the tied embedding and head in another, as `llama-quantize` does."""
    m = MODELS[model]
    out = gguf.GGUFWriter(path, m["arch"])
    head_dim = m["hidden"] // m["heads"]
    out.add_context_length(32768)
    out.add_embedding_length(m["hidden"])
    out.add_block_count(m["layers"])
    out.add_feed_forward_length(m["ff"])
    out.add_head_count(m["heads"])
    out.add_head_count_kv(m["kv_heads"])
    out.add_layer_norm_rms_eps(1e-6)
    out.add_rope_freq_base(1e6)
    out.add_rope_dimension_count(head_dim)
    out.add_vocab_size(m["vocab"])
    tokenizer(out, m["vocab"])

    rng = np.random.default_rng(1)
    noise = rng.standard_normal((64, 1 << 14), dtype=np.float32) * 0.02

    def matrix(name, rows, cols, kind):
        # One random stretch, quantized once and repeated.
        values = np.resize(noise, (min(rows, 128), cols))
        packed = gguf.quants.quantize(values, TYPES[kind])
        out.add_tensor(name, np.resize(packed, (rows, packed.shape[1])), raw_dtype=TYPES[kind])

    def ones(name, size, value=1.0):
        out.add_tensor(name, np.full(size, value, dtype=np.float32))

    q, kv = m["heads"] * head_dim, m["kv_heads"] * head_dim
    matrix("token_embd.weight", m["vocab"], m["hidden"], head)
    ones("output_norm.weight", m["hidden"])
    for layer in range(m["layers"]):
        name = f"blk.{layer}."
        ones(name + "attn_norm.weight", m["hidden"])
        ones(name + "ffn_norm.weight", m["hidden"])
        for part, rows in (("attn_q", q), ("attn_k", kv), ("attn_v", kv)):
            matrix(f"{name}{part}.weight", rows, m["hidden"], matrices)
            if m["arch"] == "qwen2":
                ones(f"{name}{part}.bias", rows, 0.0)
        matrix(name + "attn_output.weight", m["hidden"], q, matrices)
        matrix(name + "ffn_gate.weight", m["ff"], m["hidden"], matrices)
        matrix(name + "ffn_up.weight", m["ff"], m["hidden"], matrices)
        matrix(name + "ffn_down.weight", m["hidden"], m["ff"], matrices)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def tokenizer(out, size):
    """Bytes, then names that no text contains."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    byte_names = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    merged = byte_names[0] + byte_names[1]
    tokens = (byte_names + [merged] + [f"<unused{i}>" for i in range(size)])[: size - 1] + ["<|end|>"]
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("qwen2")
    out.add_token_list(tokens)
    out.add_token_types([gguf.TokenType.NORMAL] * (size - 1) + [gguf.TokenType.CONTROL])
    # A byte-pair vocabulary needs one merge at least.
    out.add_token_merges([f"{byte_names[0]} {byte_names[1]}"])
    out.add_eos_token_id(size - 1)
    out.add_add_bos_token(False)
