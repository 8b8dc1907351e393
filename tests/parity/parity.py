#!/usr/bin/env python3
"""Trains the same T5 on the same batches in PyTorch and here, and compares the losses of every step.

    pip install torch transformers safetensors
    python tests/parity/parity.py [--steps 500] [--out docs/parity.svg]

The model is small, its first weights are transformers' own, the batches are spans of the books in data/ restored from bytes, dropout is
off. PyTorch trains twice, in float32 and in float64. Whoever trains in float32 drifts away from float64, step by step, whatever the
program: rounding differs, and training amplifies it. Ours may lie no further from float64 than a small multiple of PyTorch's float32.
"""

import argparse
import copy
import gzip
import json
import math
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import T5Config, T5ForConditionalGeneration
from transformers.optimization import Adafactor

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/golden"))
from families import Exact  # noqa: E402

ROWS, SOURCE, TARGET = 16, 64, 40
RATES = {"adamw": 1e-3, "adafactor": 1e-2}
# How many times PyTorch's own distance from float64 ours may have, over the windows below.
MOST = 4.0
WINDOW = 25


def batches(steps):
    """Bytes with spans of three on average replaced by sentinels, as ByT5 numbers them (259 and up here)."""
    text = gzip.open(ROOT / "data/books_sample.txt.gz").read()
    draw = random.Random(7)
    sources = torch.zeros(steps, ROWS, SOURCE, dtype=torch.int32)
    targets = torch.zeros(steps, ROWS, TARGET, dtype=torch.int32)
    for step in range(steps):
        for row in range(ROWS):
            at = draw.randrange(len(text) - SOURCE)
            raw = [b + 3 for b in text[at : at + draw.randrange(30, SOURCE)]]
            source, target, i, sentinel = [], [], 0, 259
            while i < len(raw):
                if draw.random() < 0.08:
                    span = draw.randrange(1, 6)
                    source.append(sentinel)
                    target += [sentinel, *raw[i : i + span]]
                    i, sentinel = i + span, sentinel + 1
                else:
                    source.append(raw[i])
                    i += 1
            source, target = source[: SOURCE - 1] + [1], target[: TARGET - 1] + [1]
            sources[step, row, : len(source)] = torch.tensor(source)
            targets[step, row, : len(target)] = torch.tensor(target)
    return sources, targets


def optimizer(name, parameters):
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=RATES[name], betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    return Adafactor(parameters, lr=RATES[name], scale_parameter=True, relative_step=False, warmup_init=False)


def train(model, name, sources, targets):
    step_of, losses = optimizer(name, list(model.parameters())), []
    for source, target in zip(sources.long(), targets.long()):
        labels = target.masked_fill(target == 0, -100)
        loss = model(input_ids=source, attention_mask=source.ne(0).long(), labels=labels).loss
        step_of.zero_grad()
        loss.backward()
        step_of.step()
        losses.append(loss.item())
    return losses


def ours(program, folder, name):
    done = subprocess.run([*program, str(folder), name, str(RATES[name])], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return [float(line) for line in done.stdout.split()]


def windows(losses, exact):
    """Root mean square of the distance, for each window of steps."""
    far = [(a - b) ** 2 for a, b in zip(losses, exact)]
    return [math.sqrt(sum(far[i : i + WINDOW]) / WINDOW) for i in range(0, len(far), WINDOW)]


STYLE = """<style>text{font:12px system-ui,sans-serif;fill:#555}.g{stroke:#ddd}.a{stroke:#0072b2}.b{stroke:#d55e00}.c{stroke:#009e73}
path{fill:none;stroke-width:1.6}@media(prefers-color-scheme:dark){text{fill:#aab}.g{stroke:#333}.a{stroke:#56a8e8}.b{stroke:#f28c45}
.c{stroke:#2fc79c}}</style>"""


def panel(left, top, title, curves, low, high, label):
    width, height = 380, 200
    out = [f'<text x="{left}" y="{top - 10}">{title}</text>']
    for i in range(5):
        value, y = low + (high - low) * i / 4, top + height * (1 - i / 4)
        out.append(f'<line class="g" x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{label(value)}</text>')
    for klass, values in curves:
        place = lambda i, v: f"{left + width * i / (len(values) - 1):.1f},{top + height * (1 - (v - low) / (high - low)):.1f}"
        out.append(f'<path class="{klass}" d="M' + "L".join(place(i, v) for i, v in enumerate(values)) + '"/>')
    return "".join(out)


def draw(results, steps):
    parts = []
    for row, (name, r) in enumerate(results.items()):
        top = 40 + row * 270
        smooth = lambda v: [sum(v[max(0, i - 9) : i + 1]) / len(v[max(0, i - 9) : i + 1]) for i in range(len(v))]
        curves = [("a", smooth(r["float32"])), ("b", smooth(r["ours"]))]
        high = math.ceil(max(max(v) for _, v in curves))
        parts.append(panel(50, top, f"{name}: loss, mean of 10 steps (one over the other)", curves, 0, high, lambda v: f"{v:.1f}"))
        far = [("a", r["float32_far"]), ("b", r["ours_far"])]
        logs = [(k, [math.log10(max(v, 1e-12)) for v in values]) for k, values in far]
        low, high = math.floor(min(min(v) for _, v in logs)), math.ceil(max(max(v) for _, v in logs))
        title = f"{name}: distance from float64, {WINDOW} steps each"
        parts.append(panel(510, top, title, logs, low, high, lambda v: f"1e{v:g}"))
    y = 40 + len(results) * 270 - 20
    parts.append(f'<path class="a" d="M50,{y}h24"/><text x="80" y="{y + 4}">PyTorch, float32</text>')
    parts.append(f'<path class="b" d="M220,{y}h24"/><text x="250" y="{y + 4}">t5-wgpu</text>')
    parts.append(f'<text x="510" y="{y + 4}">{steps} steps from left to right</text>')
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 920 {y + 20}">{STYLE}{"".join(parts)}</svg>\n'


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    arguments.add_argument("--steps", type=int, default=500)
    arguments.add_argument("--out", type=Path, help="the picture")
    arguments.add_argument("--program", type=Path, help="examples/parity.rs where it is built already")
    args = arguments.parse_args()
    built = ["cargo", "run", "--release", "--quiet", "--example", "parity", "--"]
    program = [str(args.program.resolve())] if args.program else built
    torch.manual_seed(11)
    config = T5Config(vocab_size=320, d_model=64, d_kv=16, num_heads=4, d_ff=128, num_layers=2, dropout_rate=0.0,
                      feed_forward_proj="gated-gelu", tie_word_embeddings=False, attn_implementation="eager")
    config.decoder_start_token_id = config.pad_token_id
    model = T5ForConditionalGeneration(config)
    sources, targets = batches(args.steps)
    results, failed = {}, []
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        save_file({"sources": sources.float(), "targets": targets.float()}, Path(folder) / "batches.safetensors")
        for name in RATES:
            found = {"ours": ours(program, folder, name), "float32": train(copy.deepcopy(model), name, sources, targets)}
            with Exact():
                found["float64"] = train(copy.deepcopy(model).double(), name, sources, targets)
            for who in ("ours", "float32"):
                found[f"{who}_far"] = windows(found[who], found["float64"])
            ratio = math.sqrt(sum(v * v for v in found["ours_far"]) / sum(v * v for v in found["float32_far"]))
            results[name] = found
            ends = {who: sum(found[who][-WINDOW:]) / WINDOW for who in ("ours", "float32", "float64")}
            print(json.dumps({"optimizer": name, "steps": args.steps, "loss of the last steps": ends,
                              "distance from float64": {"ours": found["ours_far"][-1], "PyTorch float32": found["float32_far"][-1]},
                              "ratio over all steps": ratio}))
            if not ratio < MOST:
                failed.append(name)
    if args.out:
        args.out.write_text(draw(results, args.steps))
    sys.exit(f"further from float64 than {MOST} times PyTorch's float32: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
