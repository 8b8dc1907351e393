#!/usr/bin/env python3
"""Optional check: a folder saved by `t5 train` loads in HuggingFace transformers and generates the same greedy ids.

    pip install torch transformers
    python tests/hf_roundtrip.py MODEL_DIR TEXT [TEXT ...]      # uses target/release/t5, or $T5

Exits with 1 and shows the difference if any id differs.
"""

import json
import os
import subprocess
import sys

MAX_NEW_TOKENS = 32


def ours(model_dir, texts):
    t5 = os.environ.get("T5", "target/release/t5")
    command = [t5, "generate", "--model", model_dir, "--json", "--max-new-tokens", str(MAX_NEW_TOKENS), *texts]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return [json.loads(line)["ids"] for line in lines]


def theirs(model_dir, texts):
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModelForSeq2SeqLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    answers = []
    for text in texts:
        batch = tokenizer(text, return_tensors="pt")
        ids = model.generate(**batch, num_beams=1, do_sample=False, max_new_tokens=MAX_NEW_TOKENS)[0].tolist()[1:]
        end = tokenizer.eos_token_id
        answers.append(ids[: ids.index(end)] if end in ids else ids)
    return answers


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    model_dir, texts = sys.argv[1], sys.argv[2:]
    different = 0
    for text, a, b in zip(texts, ours(model_dir, texts), theirs(model_dir, texts), strict=True):
        if a != b:
            different += 1
            print(f"{text!r}\n  t5           {a}\n  transformers {b}")
    print(f"{len(texts) - different} of {len(texts)} texts give the same ids")
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
