#!/usr/bin/env python3
"""Makes a reference folder for `t5 verify --golden` with PyTorch: a small random model and its results in float64.

    pip install torch transformers safetensors
    python tests/golden/make.py umt5 tests/golden/umt5

README.md beside this file says what the folder holds. This script made `umt5` and `mt5` (torch 2.15, transformers
5.23); the other folders came from an older script of the same kind. Beam search results are not made here.
"""

import copy
import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import MT5Config, MT5ForConditionalGeneration, UMT5Config, UMT5ForConditionalGeneration
from transformers.optimization import Adafactor

KINDS = {
    # Per-layer bias tables; unequal depths; heads * d_kv differs from d_model; an odd d_kv.
    "umt5": (UMT5ForConditionalGeneration, UMT5Config, dict(d_model=40, d_kv=7, num_heads=5, d_ff=56, num_layers=2,
             num_decoder_layers=3, vocab_size=97, relative_attention_num_buckets=16, relative_attention_max_distance=64)),
    "mt5": (MT5ForConditionalGeneration, MT5Config, dict(d_model=24, d_kv=6, num_heads=3, d_ff=40, num_layers=2,
            num_decoder_layers=2, vocab_size=130)),
}
OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01),
    "adafactor_fixed": lambda p: Adafactor(p, lr=1e-3, scale_parameter=True, relative_step=False, warmup_init=False),
    "adafactor_relative": lambda p: Adafactor(p, lr=None, scale_parameter=True, relative_step=True, warmup_init=True),
}


def random_model(kind):
    model_class, config_class, sizes = KINDS[kind]
    torch.manual_seed(17)
    config = config_class(**sizes, dropout_rate=0.0, tie_word_embeddings=False, attn_implementation="eager")
    model = model_class(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "layer_norm" in name:
                p.copy_(1 + 0.1 * torch.randn_like(p))
            elif "relative_attention_bias" in name:
                p.copy_(0.5 * torch.randn_like(p))
            elif "lm_head" in name:
                p.copy_(torch.randn_like(p) * config.d_model**-0.5 * 3)
    return model


def toy_batch(vocab, rows, src_len, tgt_len):
    """Sources of different lengths; the target is the reversed end of the source."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.zeros(rows, src_len, dtype=torch.int64)
    labels = torch.full((rows, tgt_len), -100)
    for r in range(rows):
        n = src_len - 3 * r
        ids[r, : n - 1] = torch.randint(3, vocab, (n - 1,), generator=generator)
        ids[r, n - 1] = 1
        m = tgt_len - 2 * r
        labels[r, : m - 1] = ids[r, : n - 1].flip(0)[: m - 1]
        labels[r, m - 1] = 1
    return ids, (ids != 0).long(), labels


def train_on_toy_task(model, vocab):
    """So that generation ends and no result hangs on rounding."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(9)
    model.train()
    for _ in range(500):
        n = int(torch.randint(4, 12, (1,), generator=generator))
        ids = torch.randint(3, vocab, (32, n), generator=generator)
        ids[:, -1] = 1
        labels = torch.cat([ids[:, :-1].flip(1)[:, :5], torch.ones(32, 1, dtype=torch.int64)], 1)
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


def forward(model, ids, mask, labels):
    encoded = model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
    out = model(input_ids=ids, attention_mask=mask, labels=labels)
    return encoded, out.logits, out.loss


def gradients(model, batch):
    model.zero_grad()
    forward(model, *batch)[2].backward()
    return {n: p.grad.clone() for n, p in unique_parameters(model)}


def unique_parameters(model):
    return [(n, p) for n, p in model.named_parameters() if "embed_tokens" not in n]


def optimizer_run(model, batch, make):
    model = copy.deepcopy(model)
    before = {n: p.detach().clone() for n, p in unique_parameters(model)}
    optimizer = make([p for _, p in unique_parameters(model)])
    losses = []
    for step in range(11):
        loss = forward(model, *batch)[2]
        losses.append(loss.item())
        if step < 10:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return losses, {n: p.detach() - before[n] for n, p in unique_parameters(model)}


def relative(a, b):
    return (torch.linalg.norm(a.double() - b.double()) / torch.linalg.norm(b.double()).clamp_min(1e-60)).item()


def main(kind, folder):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model = random_model(kind)
    vocab = model.config.vocab_size
    train_on_toy_task(model, vocab)
    # The files must not depend on which rule a version of transformers follows for the output's scale: say it.
    scaled = kind == "umt5"
    weights = {n: p.detach().clone().contiguous() for n, p in unique_parameters(model)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_dict()
    config.update(architectures=[type(model).__name__], scale_decoder_outputs=scaled)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")

    exact = copy.deepcopy(model).double()
    batch = toy_batch(vocab, 3, 17, 9)
    long_ids, _, _ = toy_batch(vocab, 1, 200, 8)
    long_labels = long_ids[:, :8].clone()
    tensors = {"input_ids": batch[0], "attention_mask": batch[1], "labels": batch[2]}
    start = torch.zeros(3, 1, dtype=torch.int64)
    tensors["decoder_input_ids"] = torch.cat([start, batch[2][:, :-1].clamp_min(0)], 1)
    with torch.no_grad():
        encoded, logits, loss = forward(exact, *batch)
        encoded32, logits32, loss32 = forward(model, *batch)
        long_encoded, long_logits, long_loss = forward(exact, long_ids, torch.ones_like(long_ids), long_labels)
        greedy = exact.generate(input_ids=batch[0], attention_mask=batch[1], max_new_tokens=20, num_beams=1, do_sample=False,
                                use_cache=False)
    tensors |= {"encoder_last_hidden_state": encoded, "logits": logits, "generate.input_ids": batch[0],
                "generate.attention_mask": batch[1], "generate.greedy": greedy, "long.input_ids": long_ids,
                "long.labels": long_labels, "long.encoder_last_hidden_state": long_encoded, "long.logits": long_logits}
    grads, grads32 = gradients(exact, batch), gradients(model, batch)
    tensors |= {f"grad/{n}": g for n, g in grads.items()}
    scalars = {
        "model": kind,
        "tool": {"torch": torch.__version__, "transformers": transformers.__version__},
        "loss": loss.item(),
        "long.loss": long_loss.item(),
        "float32_noise": {
            "loss": abs(loss32.item() - loss.item()),
            "encoder_last_hidden_state_max_abs": (encoded32.double() - encoded).abs().max().item(),
            "logits_max_abs": (logits32.double() - logits).abs().max().item(),
            "grad_max_relative_l2": max(relative(grads32[n], g) for n, g in grads.items()),
        },
        "greedy": {"max_new_tokens": 20},
        "optimizers": {},
    }
    for name, make in OPTIMIZERS.items():
        losses, delta = optimizer_run(exact, batch, make)
        _, delta32 = optimizer_run(model, batch, make)
        tensors |= {f"{name}.delta/{n}": d for n, d in delta.items()}
        worst = max(relative(delta32[n], d) for n, d in delta.items())
        scalars["optimizers"][name] = {"losses": losses, "float32_noise": {"delta_relative_l2_worst_tensor": worst}}
    stored = {n: (t if t.dtype == torch.int64 else t.float()).clone().contiguous() for n, t in tensors.items()}
    save_file(stored, folder / "golden.safetensors")
    (folder / "golden.json").write_text(json.dumps(scalars, indent=1) + "\n")
    print(f"{folder}: loss {loss.item():.4f}, greedy {greedy.tolist()}")


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in KINDS:
        sys.exit(__doc__)
    main(*sys.argv[1:])
