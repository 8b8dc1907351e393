#!/usr/bin/env python3
"""Records what the frozen workloads of `t5 bench suite` must give, with PyTorch in float64.

    pip install torch transformers numpy
    python tests/golden/workloads.py src/bench/expected.json [MODEL ...]

Without models all are recorded; else only these, and the file keeps the others. T5-large needs 14 GiB of memory. The
weights and token ids are made here anew, from the rules of docs/benchmarks.md and not from the program's code. Beside
each result stands `noise`: how far the same PyTorch code in float32 lies from it. The file in the repository came
from torch 2.15 and transformers 5.24.
"""

import gc
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import T5Config, T5ForConditionalGeneration
from transformers.models.t5 import modeling_t5

SEED = 1
PURPOSE = 10
VOCAB = 32128
EXAMPLES = 2
SAMPLES = 64
LEARNING_RATE = 1e-5

MODELS = {
    "tiny": dict(d_model=32, d_kv=64, d_ff=64, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu",
                 tie_word_embeddings=False),
    "t5-small": dict(d_model=512, d_kv=64, d_ff=2048, num_layers=6, num_heads=8),
    "t5-base": dict(d_model=768, d_kv=64, d_ff=3072, num_layers=12, num_heads=12),
    "t5-large": dict(d_model=1024, d_kv=64, d_ff=4096, num_layers=24, num_heads=16),
}
# Source tokens and batch; source tokens and new tokens; batch, source and target tokens.
SIZES = {
    "tiny": dict(enc=(64, 4), dec=(64, 16), train=(4, 64, 24)),
    None: dict(enc=(512, 8), dec=(512, 64), train=(8, 512, 114)),
}

MASK = (1 << 64) - 1
GAMMA = 0x9E3779B97F4A7C15


def mix(x):
    """SplitMix64's output function, of Python's integers or of numpy's arrays of uint64."""
    limit = MASK if isinstance(x, int) else np.uint64(MASK)
    number = (lambda n: n) if isinstance(x, int) else np.uint64
    x = ((x ^ (x >> number(30))) * number(0xBF58476D1CE4E5B9)) & limit
    x = ((x ^ (x >> number(27))) * number(0x94D049BB133111EB)) & limit
    return x ^ (x >> number(31))


def fnv1a(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & MASK
    return value


def numbers(name, tags, count):
    """The stream of 64-bit numbers of a name."""
    key = mix((SEED + GAMMA) & MASK)
    for tag in [PURPOSE, fnv1a(name.encode()), *tags]:
        key = mix((key * 3 + mix((tag + GAMMA) & MASK)) & MASK)
    with np.errstate(over="ignore"):
        return mix(np.uint64(key) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GAMMA))


def weights(name, shape, config):
    """See docs/benchmarks.md."""
    module = name.removesuffix(".weight").rsplit(".", 1)[-1]
    inner = config.num_heads * config.d_kv
    variance, gain = {
        "shared": (1, 1), "relative_attention_bias": (1, 1), "final_layer_norm": (1, 1), "q": (config.d_model * config.d_kv, 1), "o": (inner, 1),
        "wo": (config.d_ff, 4),
    }.get(module, (config.d_model, 1))
    is_norm = module == "layer_norm"
    step = np.float32((0.5 if is_norm else np.sqrt(3.0 / variance) * gain) / 8388608.0)
    count = int(np.prod(shape))
    whole = (numbers(name, [], count) >> np.uint64(40)).astype(np.int64) - 8388608
    data = whole.astype(np.float32) * step
    if is_norm:
        data = np.float32(1) + data
    return torch.from_numpy(data.reshape(shape))


def ids(side, row, count):
    return [2 + int(n >> np.uint64(32)) % (VOCAB - 2) for n in numbers(side, [row], count)]


def norm_in_full_precision(self, states):
    """transformers takes the variance in float32 whatever the model's type is."""
    variance = states.pow(2).mean(-1, keepdim=True)
    return self.weight * (states * torch.rsqrt(variance + self.variance_epsilon))


def build(kind, dtype):
    torch.set_default_dtype(dtype)
    config = T5Config(vocab_size=VOCAB, dropout_rate=0.0, decoder_start_token_id=0, attn_implementation="eager",
                      **MODELS[kind])
    model = T5ForConditionalGeneration(config).eval()
    # Versions of transformers differ in what they tie for T5 1.1: say it.
    for stack in (model.encoder, model.decoder):
        stack.embed_tokens.weight = model.shared.weight
    if MODELS[kind].get("tie_word_embeddings", True):
        model.lm_head.weight = model.shared.weight
    else:
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.shared.weight))
    with torch.no_grad():
        for name, p in parameters_of(model):
            p.copy_(weights(name, tuple(p.shape), config))
    return model


def parameters_of(model):
    """Each parameter once; a tied head is the embedding."""
    return [(n, p) for n, p in model.named_parameters() if "embed_tokens" not in n]


def tensor(rows):
    return torch.tensor(rows, dtype=torch.int64)


def encode(model, source):
    rows = [model.encoder(input_ids=tensor([ids("source", row, source[0])])).last_hidden_state[0] for row in
            range(EXAMPLES)]
    return torch.stack(rows)


def places(length, width):
    return [(i * length // SAMPLES, i * 97 % width) for i in range(SAMPLES)]


def greedy(model, length, count):
    """The likeliest tokens one after the other."""
    encoded = model.encoder(input_ids=tensor([ids("source", 0, length)]))
    token, past, found = 0, None, []
    for _ in range(count):
        out = model(encoder_outputs=encoded, decoder_input_ids=tensor([[token]]), past_key_values=past,
                    use_cache=True)
        past = out.past_key_values
        token = int(out.logits[0, -1].argmax())
        found.append(token)
    return found


def logits_of(model, length, found):
    encoded = model.encoder(input_ids=tensor([ids("source", 0, length)]))
    return model(encoder_outputs=encoded, decoder_input_ids=tensor([[0] + found[:-1]])).logits[0]


def token_losses(model, length, count):
    rows = []
    for row in range(EXAMPLES):
        labels = tensor([ids("target", row, count)])
        logits = model(input_ids=tensor([ids("source", row, length)]), labels=labels).logits[0]
        rows.append(torch.nn.functional.cross_entropy(logits, labels[0], reduction="none"))
    return rows


def training_step(model, length, count):
    """Losses of all tokens, the gradient's norm, and the losses after a step of AdamW; gradients stay in the model."""
    parameters = [p for _, p in parameters_of(model)]
    before = []
    # Recomputes activations in the backward pass; there is no dropout that training would switch on.
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    for row in range(EXAMPLES):
        labels = tensor([ids("target", row, count)])
        logits = model(input_ids=tensor([ids("source", row, length)]), labels=labels).logits[0]
        losses = torch.nn.functional.cross_entropy(logits, labels[0], reduction="none")
        (losses.sum() / (EXAMPLES * count)).backward()
        before.append(losses.detach())
    model.eval()
    norm = torch.sqrt(sum(p.grad.double().pow(2).sum() for p in parameters)).item()
    return torch.cat(before), norm, parameters


def step(model, parameters, length, count):
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    for p in parameters:
        # One tensor at a time: the moments of all would need twice the memory of the model.
        torch.optim.AdamW([p], lr=LEARNING_RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01).step()
        p.grad = None
    with torch.no_grad():
        return torch.cat(token_losses(model, length, count))


def rounded(values):
    return [float(f"{v:.9g}") for v in values]


def record(kind):
    sizes = SIZES.get(kind, SIZES[None])
    (source, batch), (prompt, new), (rows, src, tgt) = sizes["enc"], sizes["dec"], sizes["train"]
    names = [f"{kind}/enc-{source}x{batch}", f"{kind}/dec-b1-s{prompt}-n{new}", f"{kind}/train-{rows}x{src}+{tgt}"]
    results = {}
    model = build(kind, torch.float64)
    with torch.no_grad():
        states = encode(model, sizes["enc"])
        found = greedy(model, prompt, new)
        logits = logits_of(model, prompt, found)
    assert logits.argmax(-1).tolist() == found
    top = logits.topk(2, -1).values
    margin = (top[:, 0] - top[:, 1]).min().item()
    log_probs = logits.log_softmax(-1)[range(new), found]
    losses, norm, parameters = training_step(model, src, tgt)
    # In files and rounded, far below float32's noise: models and gradients of both kinds fit no small machine.
    folder = tempfile.TemporaryDirectory()
    for i, p in enumerate(parameters):
        np.save(f"{folder.name}/{i}.npy", p.grad.float().numpy())
    after = step(model, parameters, src, tgt)
    del model, parameters
    gc.collect()

    model = build(kind, torch.float32)
    with torch.no_grad():
        states32 = encode(model, sizes["enc"])
        logits32 = logits_of(model, prompt, found)
    losses32, _, parameters = training_step(model, src, tgt)
    exact = lambda i: torch.from_numpy(np.load(f"{folder.name}/{i}.npy"))
    difference = sum((p.grad - exact(i)).double().pow(2).sum().item() for i, p in enumerate(parameters)) ** 0.5
    after32 = step(model, parameters, src, tgt)

    spots = places(source, states.shape[-1])
    apart = lambda a, b: (a.double() - b.double()).abs().max().item()
    results[names[0]] = {
        "kind": "encoder", "states": [rounded(row[t, d].item() for t, d in spots) for row in states],
        "noise": apart(states32, states),
    }
    results[names[1]] = {
        "kind": "decode", "ids": found, "log_probs": rounded(log_probs.tolist()), "margin": margin,
        "noise": apart(logits32.log_softmax(-1)[range(new), found], log_probs), "logits_noise": apart(logits32, logits),
    }
    results[names[2]] = {
        "kind": "train", "loss": losses.mean().item(), "loss_noise": apart(losses32, losses), "gradient_norm": norm,
        "gradient_noise": difference / norm, "loss_after": after.mean().item(), "loss_after_noise": apart(after32, after),
    }
    distinct = len(set(found))
    print(f"{kind}: {distinct} distinct ids of {new}, margin {margin:.3g}, loss {losses.mean():.6f} -> {after.mean():.6f}, "
          f"float32's mean losses apart by {abs(losses32.double().mean() - losses.mean()):.2g}, "
          f"{abs(after32.double().mean() - after.mean()):.2g}")
    for name in names:
        noise = {k: v for k, v in results[name].items() if "noise" in k}
        print("   ", name, noise)
    return results


def main(path, kinds):
    modeling_t5.T5LayerNorm.forward = norm_in_full_precision
    path = Path(path)
    known = json.loads(path.read_text()) if path.exists() else {}
    for kind in kinds or MODELS:
        known |= record(kind)
        gc.collect()
        lines = [f"  {json.dumps(name)}: {json.dumps(result)}" for name, result in known.items()]
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")


if __name__ == "__main__":
    if len(sys.argv) < 2 or not set(sys.argv[2:]) <= set(MODELS):
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
