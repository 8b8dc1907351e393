#!/usr/bin/env python3
"""Saves a reference folder's model once more in the formats of other programs, with the packages that define these.

    pip install torch safetensors gguf numpy msgpack sentencepiece protobuf
    python tests/golden/formats.py tests/golden/mt5 bin tests/data/sources/mt5-bin
    python tests/golden/formats.py tests/golden/mt5 shards tests/data/sources/mt5-shards
    python tests/golden/formats.py - views tests/data/sources/views

Formats: bin (torch.save), shards (transformers' pytorch_model-0000n-of-0000m.bin), gguf (llama.cpp's names and
keys), hf-gguf (HuggingFace's names, no keys), flax (flax_model.msgpack), t5x (T5X's checkpoint); and small files that hold
no model: views (odd tensors of torch.save), vocabulary (two of SentencePiece, in GGUF), blocks (every kind of GGUF's quantized blocks,
with numpy's values of them), quantized (numbers, and the blocks that numpy makes of them).
"""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file


def torch_bin(tensors, config, out):
    import torch

    torch.save({n: torch.from_numpy(t) for n, t in tensors.items()}, out / "pytorch_model.bin")


def torch_shards(tensors, config, out):
    import torch

    names = sorted(tensors)
    parts, weight_map = [names[: len(names) // 2], names[len(names) // 2 :]], {}
    for k, part in enumerate(parts):
        name = f"pytorch_model-{k + 1:05}-of-{len(parts):05}.bin"
        torch.save({n: torch.from_numpy(tensors[n]) for n in part}, out / name)
        weight_map |= {n: name for n in part}
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": weight_map}
    (out / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=1, sort_keys=True) + "\n")


def torch_views(_, __, out):
    """Tensors that share storages, views with strides and offsets, several types; an old file; files to be refused."""
    import torch

    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    tensors = {
        "module.shared.weight": base,
        "module.lm_head.weight": base,
        "module.transposed": base.t(),
        "module.columns": base[:, 1:4],
        "module.offset": base[2],
        "module.every_second": base.reshape(-1)[::2],
        "module.expanded": torch.tensor([[1.5], [2.5]]).expand(2, 3),
        "module.half": base.half(),
        "module.bf16": base.bfloat16() / 3,
        "module.double": base.double() / 7,
        "module.ids": torch.tensor([7, -100]),
        "module.scalar": torch.tensor(-1.25),
        "module.parameter": torch.nn.Parameter(base[:1]),
    }
    torch.save(tensors, out / "views.bin")
    torch.save({"state_dict": tensors}, out / "nested.bin")
    torch.serialization.set_crc32_options(False)
    torch.save(tensors, out / "unchecked.bin")
    torch.serialization.set_crc32_options(True)
    torch.save(tensors, out / "legacy.bin", _use_new_zipfile_serialization=False)
    torch.save({"a": torch.zeros(3).to_sparse()}, out / "sparse.bin")
    torch.save({"a": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)}, out / "quantized.bin")
    torch.save({"a": Path("x"), "b": base}, out / "object.bin")


LLAMA_CPP = {
    "shared": "token_embd", "lm_head": "output", "encoder.final_layer_norm": "enc.output_norm",
    "decoder.final_layer_norm": "dec.output_norm",
}
ATTENTION = {"q": "q", "k": "k", "v": "v", "o": "o", "relative_attention_bias": "rel_b"}


def llama_cpp_name(name, gated):
    """As llama.cpp's convert_hf_to_gguf.py names it."""
    stem = name.removesuffix(".weight")
    if stem in LLAMA_CPP:
        return LLAMA_CPP[stem] + ".weight"
    stack, _, block, _, layer, *what = stem.split(".")
    stack = stack[:3]
    if what[0] == "layer_norm":
        norms = ["attn_norm", "ffn_norm"] if stack == "enc" else ["attn_norm", "cross_attn_norm", "ffn_norm"]
        part = norms[int(layer)]
    elif what[0] == "DenseReluDense":
        part = {"wi": "ffn_up", "wi_0": "ffn_gate", "wi_1": "ffn_up", "wo": "ffn_down"}[what[1]]
    else:
        part = ("cross_attn_" if what[0] == "EncDecAttention" else "attn_") + ATTENTION[what[1]]
    return f"{stack}.blk.{block}.{part}.weight"


def add_vocabulary(writer, spiece, rows):
    """As llama.cpp's converter does it: filled up to the rows of the embedding with tokens that are never used."""
    from sentencepiece import sentencepiece_model_pb2 as pb

    model = pb.ModelProto()
    model.ParseFromString(Path(spiece).read_bytes())
    filling = [(f"[PAD{i}]", -10000.0, 5) for i in range(len(model.pieces), rows)]
    tokens = [(p.piece, p.score, p.type) for p in model.pieces] + filling
    writer.add_tokenizer_model("t5")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([t for t, _, _ in tokens])
    writer.add_token_scores([s for _, s, _ in tokens])
    writer.add_token_types([k for _, _, k in tokens])
    writer.add_add_space_prefix(model.normalizer_spec.add_dummy_prefix)
    writer.add_remove_extra_whitespaces(model.normalizer_spec.remove_extra_whitespaces)
    if model.normalizer_spec.precompiled_charsmap:
        writer.add_precompiled_charsmap(model.normalizer_spec.precompiled_charsmap)
    writer.add_eos_token_id(model.trainer_spec.eos_id)
    writer.add_unk_token_id(model.trainer_spec.unk_id)
    writer.add_pad_token_id(max(model.trainer_spec.pad_id, 0))


def gguf_llama_cpp(tensors, config, out):
    import gguf

    writer = gguf.GGUFWriter(out / "model.gguf", "t5")
    writer.add_context_length(512)
    writer.add_embedding_length(config["d_model"])
    writer.add_feed_forward_length(config["d_ff"])
    writer.add_block_count(config["num_layers"])
    writer.add_decoder_block_count(config.get("num_decoder_layers", config["num_layers"]))
    writer.add_head_count(config["num_heads"])
    writer.add_key_length(config["d_kv"])
    writer.add_value_length(config["d_kv"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    writer.add_relative_attn_buckets_count(config["relative_attention_num_buckets"])
    writer.add_layer_norm_rms_eps(config["layer_norm_epsilon"])
    writer.add_decoder_start_token_id(config["decoder_start_token_id"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    gated = any("wi_0" in name for name in tensors)
    for name, tensor in tensors.items():
        writer.add_tensor(llama_cpp_name(name, gated), tensor)
    finish(writer)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_huggingface(tensors, config, out):
    """As candle's tool writes it: HuggingFace's names, and no settings of a model."""
    import gguf

    writer = gguf.GGUFWriter(out / "model.gguf", "")
    writer.kv_data[0].clear()
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor.astype(np.float16) if name == "lm_head.weight" else tensor)
    finish(writer)


def gguf_vocabulary(_, __, out):
    import gguf

    tokenizers = Path(__file__).parent.parent / "data/tokenizers"
    for name, spiece, rows in [("vocabulary", "sp_test_model.model", 1128), ("vocabulary-small", "rules.spiece.model", 168)]:
        writer = gguf.GGUFWriter(out / f"{name}.gguf", "t5")
        add_vocabulary(writer, tokenizers / spiece, rows)
        finish(writer)


def gguf_blocks(_, __, out):
    """Random blocks of every kind with gguf's own numpy values of them, and all plain types."""
    import gguf
    from gguf.quants import dequantize
    from safetensors.numpy import save_file

    random, expected = np.random.default_rng(7), {}
    writer = gguf.GGUFWriter(out / "blocks.gguf", "none")
    halves = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}
    for name, places in halves.items():
        kind = gguf.GGMLQuantizationType[name]
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        rows, per_row = 3, 512 // elements
        blocks = random.integers(0, 256, (rows * per_row, size), dtype=np.uint8)
        for at in places:
            scales = random.normal(0, 0.02, (rows * per_row, 1)).astype(np.float16)
            blocks[:, at : at + 2] = scales.view(np.uint8)
        blocks = blocks.reshape(rows, per_row * size)
        expected[name] = dequantize(blocks, kind)
        writer.add_tensor(name, blocks, raw_dtype=kind)
    plain = random.normal(0, 1, (2, 5)).astype(np.float32)
    bf16 = (plain.view(np.uint32) >> 16).astype(np.uint16)
    for name, tensor in {"f32": plain, "f16": plain.astype(np.float16), "f64": plain.astype(np.float64)}.items():
        expected[name] = tensor.astype(np.float32)
        writer.add_tensor(name, tensor)
    expected["bf16"] = (bf16.astype(np.uint32) << 16).view(np.float32)
    writer.add_tensor("bf16", bf16.view(np.uint8).reshape(2, 10), raw_dtype=gguf.GGMLQuantizationType.BF16)
    finish(writer)
    save_file({n: np.ascontiguousarray(t) for n, t in expected.items()}, out / "blocks.safetensors")


def gguf_quantized(_, __, out):
    """Numbers of many magnitudes, and what gguf's numpy code makes of them."""
    import gguf
    from safetensors.numpy import save_file

    random = np.random.default_rng(5)
    numbers = random.standard_normal((6, 256), dtype=np.float32)
    numbers *= np.float32(10) ** np.repeat(np.arange(48, dtype=np.float32) % 9 - 6, 32).reshape(6, 256)
    # Halfway cases, a block of zeros, one of equal numbers, and one with a largest magnitude of either sign.
    numbers[0, :32] = np.arange(32) - 16
    numbers[1, :32] = 0
    numbers[2, :32] = 0.7
    numbers[3, :32] = np.where(np.arange(32) % 2, 1.5, -1.5)
    save_file({"numbers": numbers}, out / "quantized.safetensors")
    writer = gguf.GGUFWriter(out / "quantized.gguf", "none")
    for name in ["Q8_0", "Q4_0", "Q4_1"]:
        kind = gguf.GGMLQuantizationType[name]
        writer.add_tensor(name, gguf.quants.quantize(numbers, kind), raw_dtype=kind)
    finish(writer)


def flax_bytes(tree):
    """What flax.serialization.msgpack_serialize makes: extension 1 is a packed (shape, type, bytes)."""
    import msgpack

    def pack(x):
        return msgpack.ExtType(1, msgpack.packb((x.shape, x.dtype.name, x.tobytes("C")), use_bin_type=True))

    return msgpack.packb(tree, default=pack, strict_types=True)


def nested(flat):
    tree = {}
    for name, value in flat.items():
        *path, last = name.split("/")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[last] = value
    return tree


def flax_huggingface(tensors, config, out):
    def renamed(name, t):
        stem = name.removesuffix(".weight").replace(".", "/")
        if t.ndim == 1:
            return stem + "/weight", t
        if stem == "shared" or stem.endswith("bias"):
            return stem + "/embedding", t
        return stem + "/kernel", np.ascontiguousarray(t.T)

    tree = nested(dict(renamed(n, t) for n, t in tensors.items()))
    (out / "flax_model.msgpack").write_bytes(flax_bytes(tree))


def t5x(tensors, config, out):
    """As T5X's checkpoints.py lays out a state whose arrays are small: all in one msgpack, with version and optimizer."""
    flat = {}
    for name, t in tensors.items():
        stem = name.removesuffix(".weight")
        top = {"shared": "token_embedder/embedding", "lm_head": "decoder/logits_dense/kernel",
               "encoder.final_layer_norm": "encoder/encoder_norm/scale", "decoder.final_layer_norm": "decoder/decoder_norm/scale"}
        if stem in top:
            new = top[stem]
        else:
            stack, _, block, _, layer, what, *part = stem.split(".")
            self_attention = "attention" if stack == "encoder" else "self_attention"
            norms = ["pre_attention", "pre_mlp"] if stack == "encoder" else ["pre_self_attention", "pre_cross_attention", "pre_mlp"]
            projections = {"q": "query", "k": "key", "v": "value", "o": "out"}
            if what == "layer_norm":
                new = f"{stack}/layers_{block}/{norms[int(layer)]}_layer_norm/scale"
            elif what == "DenseReluDense":
                new = f"{stack}/layers_{block}/mlp/{part[0]}/kernel"
            elif part[0] == "relative_attention_bias":
                new = f"{stack}/relpos_bias/rel_embedding"
            else:
                module = self_attention if what == "SelfAttention" else "encoder_decoder_attention"
                new = f"{stack}/layers_{block}/{module}/{projections[part[0]]}/kernel"
        flat["target/" + new] = np.ascontiguousarray(t.T) if new.endswith(("kernel", "rel_embedding")) else t
    # One array in chunks, as flax stores those beyond a gigabyte.
    table = flat["target/token_embedder/embedding"]
    chunks = {str(i): c for i, c in enumerate(np.array_split(table.reshape(-1), 3))}
    flat["target/token_embedder/embedding"] = {
        "__msgpack_chunked_array__": True, "shape": {str(i): n for i, n in enumerate(table.shape)}, "chunks": chunks}
    state = {"step": np.array(7, np.int32), "param_states": {"decoder": {"x": {"v": np.ones(3, np.float32)}}}}
    tree = {"version": 3, "optimizer": {**nested(flat), "state": state}}
    (out / "checkpoint").write_bytes(flax_bytes(tree))


FORMATS = {"bin": torch_bin, "shards": torch_shards, "views": torch_views, "gguf": gguf_llama_cpp,
           "hf-gguf": gguf_huggingface, "vocabulary": gguf_vocabulary, "blocks": gguf_blocks, "quantized": gguf_quantized, "flax": flax_huggingface, "t5x": t5x}


def main(source, kind, out):
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if source == "-":
        return FORMATS[kind]({}, {}, out)
    source = Path(source)
    config = json.loads((source / "config.json").read_text())
    FORMATS[kind](load_file(source / "model.safetensors"), config, out)


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[2] not in FORMATS:
        sys.exit(__doc__)
    main(*sys.argv[1:])
