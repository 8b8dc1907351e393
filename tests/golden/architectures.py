#!/usr/bin/env python3
"""Makes tests/golden/architectures: tiny models of the architectures that only this crate has files for (config.json's key
`architecture`), with what transformers' own T5 layers make of them in float64. README.md beside this file says what each folder holds.

    pip install torch transformers==4.57.6 safetensors
    python tests/golden/architectures.py [NAME ...]

No batches, no caches and no padding of sources: each example is run by itself, source and target one behind the other, with the mask
written out as a matrix. Weights are random, from the first seed whose greedy answers do not hang on rounding.
"""

import copy
import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from torch import nn
from transformers import T5Config
from transformers.models.t5.modeling_t5 import T5LayerCrossAttention, T5LayerFF, T5LayerNorm, T5LayerSelfAttention

from families import Exact, batch

HERE = Path(__file__).parent / "architectures"
SMALL = dict(d_model=12, d_kv=4, num_heads=2, d_ff=20, num_layers=2, vocab_size=40, dropout_rate=0.0,
             decoder_start_token_id=0, attn_implementation="eager")
GATED = dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
# name: (sizes, model_type, architecture). UMT5 has a table of biases in every block.
KINDS = {
    "shared": (dict(SMALL), "t5", "shared"),
    "umt5-shared": (dict(SMALL, **GATED, relative_attention_num_buckets=8, relative_attention_max_distance=20), "umt5", "shared"),
    "language-model": (dict(SMALL, **GATED), "t5", "language-model"),
    "prefix-lm": (dict(SMALL, relative_attention_num_buckets=8, relative_attention_max_distance=20), "t5", "prefix-lm"),
    "umt5-prefix-lm": (dict(SMALL, d_kv=3, num_heads=3, **GATED), "umt5", "prefix-lm"),
}
HIDDEN = -1e9
NEW = 12


class Model(nn.Module):
    """One set of blocks. Of a shared model they are run twice, and the second time with cross-attention between."""

    def __init__(self, config, model_type, architecture):
        super().__init__()
        self.config, self.architecture = config, architecture
        layers = range(config.num_layers)
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        table = [i == 0 or model_type == "umt5" for i in layers]
        self.self_attention = nn.ModuleList(T5LayerSelfAttention(config, table[i], layer_idx=i) for i in layers)
        self.feed_forward = nn.ModuleList(T5LayerFF(config) for _ in layers)
        self.norm = T5LayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        cross = layers if architecture == "shared" else []
        self.cross_attention = nn.ModuleList(T5LayerCrossAttention(config, layer_idx=i) for i in cross)
        tied = config.tie_word_embeddings
        self.head = None if tied else nn.Linear(config.d_model, config.vocab_size, bias=False)

    def names(self):
        """(name in the file, parameter)"""
        own = "encoder" if self.architecture == "shared" else "decoder"
        yield "shared.weight", self.embedding.weight
        for place, modules in [(f"{own}.block.{{}}.layer.0", self.self_attention),
                               (f"{own}.block.{{}}.layer.1", self.feed_forward),
                               ("decoder.block.{}.layer.1", self.cross_attention)]:
            for i, module in enumerate(modules):
                for name, parameter in module.named_parameters():
                    yield f"{place.format(i)}.{name}", parameter
        yield f"{own}.final_layer_norm.weight", self.norm.weight
        if self.head is not None:
            yield "lm_head.weight", self.head.weight

    def stack(self, ids, visible, bidirectional, encoded=None):
        """States of one row of ids, where `visible[query, key]` says who sees whom."""
        x, bias, n = self.embedding(ids)[None], None, len(ids)
        mask = torch.zeros(n, n, dtype=x.dtype).masked_fill(~visible, HIDDEN)
        for i in range(self.config.num_layers):
            attention = self.self_attention[i].SelfAttention
            if attention.has_relative_attention_bias:
                attention.is_decoder = not bidirectional
                bias = attention.compute_bias(n, n)
            x = self.self_attention[i](x, position_bias=bias + mask)[0]
            if encoded is not None:
                nothing = torch.zeros(1, 1, n, encoded.shape[1], dtype=x.dtype)
                x = self.cross_attention[i](x, key_value_states=encoded, position_bias=nothing)[0]
            x = self.feed_forward[i](x)
        return self.norm(x)

    def forward(self, source, target_in):
        """The encoder's states, if there is one, and logits: both of one example."""
        causal = torch.ones(len(target_in), len(target_in)).tril().bool()
        encoded = None
        if self.architecture == "shared":
            everything = torch.ones(len(source), len(source)).bool()
            encoded = self.stack(source, everything, bidirectional=True)
            states = self.stack(target_in, causal, bidirectional=False, encoded=encoded)[0]
        else:
            row = torch.cat([source, target_in])
            visible = torch.ones(len(row), len(row)).tril().bool()
            is_prefix = self.architecture == "prefix-lm"
            if is_prefix:
                visible[: len(source), : len(source)] = True
            states = self.stack(row, visible, bidirectional=is_prefix)[0, len(source):]
        if self.head is None:
            return encoded, states * self.config.d_model ** -0.5 @ self.embedding.weight.T
        return encoded, self.head(states)

    def loss(self, ids, mask, labels):
        """What the golden files call encoder_last_hidden_state, logits and loss, of a batch."""
        encoded, logits = [], []
        for row, seen, label in zip(ids, mask, labels):
            target_in = torch.cat([torch.zeros(1, dtype=torch.int64), label[:-1].clamp_min(0)])
            states, scores = self(row[: seen.sum()], target_in)
            logits.append(scores)
            if states is not None:
                encoded.append(nn.functional.pad(states[0], (0, 0, 0, len(row) - len(states[0]))))
        logits = torch.stack(logits)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
        return torch.stack(encoded) if encoded else None, logits, loss

    def greedy(self, ids, mask):
        """Ids from the start token on, 0 behind the end token; and the least distance between the likeliest and the next."""
        rows, least = [], float("inf")
        for row, seen in zip(ids, mask):
            made = torch.zeros(1, dtype=torch.int64)
            while len(made) <= NEW and made[-1] != self.config.eos_token_id:
                top = self(row[: seen.sum()], made)[1][-1].topk(2)
                least = min(least, (top.values[0] - top.values[1]).item())
                made = torch.cat([made, top.indices[:1]])
            rows.append(made)
        return nn.utils.rnn.pad_sequence(rows, batch_first=True), least


def random_model(kind, seed):
    sizes, model_type, architecture = KINDS[kind]
    torch.manual_seed(seed)
    model = Model(T5Config(**sizes, is_decoder=True), model_type, architecture).eval()
    with torch.no_grad():
        for name, p in model.names():
            if "layer_norm" in name:
                p.copy_(1 + 0.1 * torch.randn_like(p))
            elif "relative_attention_bias" in name:
                p.copy_(0.5 * torch.randn_like(p))
            elif name == "shared.weight":
                p.copy_(torch.randn_like(p))
            else:
                p.copy_(torch.randn_like(p) * p.shape[-1] ** -0.5)
    return model


def gradients(model, inputs):
    model.zero_grad()
    model.loss(*inputs)[2].backward()
    return {name: p.grad.clone() for name, p in model.names()}


def relative(a, b):
    return (torch.linalg.norm(a.double() - b) / torch.linalg.norm(b).clamp_min(1e-60)).item()


def main(kind):
    folder = HERE / kind
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(1000):
        model = random_model(kind, seed)
        exact = copy.deepcopy(model).double()
        inputs = batch(model)
        # And one source longer than the largest distance.
        long = batch(model, rows=1, src_len=200, tgt_len=8)
        with torch.no_grad():
            rough = [model.loss(*inputs), model.loss(*long)]
            with Exact():
                found = [exact.loss(*inputs), exact.loss(*long)]
                greedy, least = exact.greedy(inputs[0], inputs[1])
        far = [max((r[i] - f[i]).abs().max().item() for r, f in zip(rough, found)) for i in (1, 2)]
        # Answers that differ, and say more than one thing; a tied head likes to repeat.
        varied = all(len(row.unique()) > (2 if model.head is None else 4) for row in greedy)
        if least > 1e-3 and varied and len(greedy.unique(dim=0)) == len(greedy):
            break
    else:
        sys.exit(f"no seed makes a {kind} whose answers do not hang on rounding")
    (encoded, logits, loss), (long_encoded, long_logits, long_loss) = found
    long_ids, _, long_labels = long
    grads32 = gradients(model, inputs)
    with Exact():
        grads = gradients(exact, inputs)
    ids, mask, labels = inputs
    tensors = {"input_ids": ids, "attention_mask": mask, "labels": labels, "logits": logits, "generate.input_ids": ids,
               "generate.attention_mask": mask, "generate.greedy": greedy, "long.input_ids": long_ids,
               "long.labels": long_labels, "long.logits": long_logits}
    noise = {"loss": far[1], "logits_max_abs": far[0],
             "grad_max_relative_l2": max(relative(grads32[n], g) for n, g in grads.items())}
    if encoded is not None:
        tensors |= {"encoder_last_hidden_state": encoded, "long.encoder_last_hidden_state": long_encoded}
        noise["encoder_last_hidden_state_max_abs"] = max((r[0] - f[0]).abs().max().item() for r, f in zip(rough, found))
    tensors |= {f"grad/{n}": g for n, g in grads.items()}
    sizes, model_type, architecture = KINDS[kind]
    config = {k: v for k, v in sizes.items() if k != "attn_implementation"}
    config |= {"model_type": f"{model_type}-wgpu", "architecture": architecture, "eos_token_id": 1, "pad_token_id": 0,
               "scale_decoder_outputs": model.head is None, "tie_word_embeddings": model.head is None,
               "feed_forward_proj": sizes.get("feed_forward_proj", "relu")}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    weights = {n: p.detach().clone().contiguous() for n, p in model.names()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    stored = {n: (t if t.dtype == torch.int64 else t.float()).clone().contiguous() for n, t in tensors.items()}
    save_file(stored, folder / "golden.safetensors")
    about = {"model": kind, "seed": seed, "tool": {"torch": torch.__version__, "transformers": transformers.__version__},
             "loss": loss.item(), "long.loss": long_loss.item(), "float32_noise": noise, "greedy": {"max_new_tokens": NEW}}
    (folder / "golden.json").write_text(json.dumps(about, indent=1) + "\n")
    print(kind, seed, sum(p.numel() for p in weights.values()), noise, greedy.tolist())


if __name__ == "__main__":
    for kind in sys.argv[1:] or KINDS:
        main(kind)
