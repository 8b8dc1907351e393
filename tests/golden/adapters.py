#!/usr/bin/env python3
"""LoRA and IA3 against PyPI's peft: makes a folder on a golden model and its logits in float64, and checks folders that were made here.

    pip install torch transformers peft safetensors
    python tests/golden/adapters.py make lora tests/golden/lora
    python tests/golden/adapters.py make ia3 tests/golden/ia3
    python tests/golden/adapters.py check FOLDER LOGITS.safetensors

`make` wrote tests/golden/lora and tests/golden/ia3 (torch 2.15, transformers 5.24, peft 0.21). `check` loads FOLDER on the model that it
names, and compares the logits with those of the file, which `t5_wgpu` made of the same ids (tests/peft.rs writes both where T5_PEFT_OUT
says, in a folder for each kind).
"""

import json
import sys
from pathlib import Path

import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM

HERE = Path(__file__).parent


def load(folder):
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    return model.eval()


def logits(model, ids):
    with torch.no_grad():
        return model.double()(input_ids=ids["input_ids"], attention_mask=ids["attention_mask"],
                              decoder_input_ids=ids["decoder_input_ids"]).logits


def batch(base):
    tensors = load_file(base / "golden.safetensors")
    return {name: tensors[name].long() for name in ["input_ids", "attention_mask", "decoder_input_ids"]}


def settings_of(kind):
    match kind:
        case "lora":
            return LoraConfig(task_type="SEQ_2_SEQ_LM", r=3, lora_alpha=5, use_rslora=True, target_modules=["q", "v", "wi_1", "wo"])
        case "ia3":
            return IA3Config(task_type="SEQ_2_SEQ_LM", target_modules=["k", "v", "wo"], feedforward_modules=["wo"])


def make(kind, out):
    base = HERE / "flan"
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(3)
    model = get_peft_model(load(base), settings_of(kind))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.copy_(0.3 * torch.randn_like(p))
            if "ia3_l" in name:
                p.copy_(1 + 0.3 * torch.randn_like(p))
    model.save_pretrained(out)
    # Folders of repositories lie anywhere, so that this one is named from the repository's root.
    settings = json.loads((out / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = "tests/golden/flan"
    (out / "adapter_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    (out / "README.md").unlink(missing_ok=True)
    ids = batch(base)
    ids["logits"] = logits(model, {**ids})
    save_file(ids, out / "golden.safetensors")


def check(folder, file):
    settings = json.loads((folder / "adapter_config.json").read_text())
    model = PeftModel.from_pretrained(load(settings["base_model_name_or_path"]), folder).eval()
    found = load_file(file)
    ids = {name: found[name].long() for name in ["input_ids", "attention_mask", "decoder_input_ids"]}
    expected = logits(model, ids)
    with model.disable_adapter():
        plain = logits(model, ids)
    error = ((found["logits"].double() - expected).abs().max() / expected.abs().max()).item()
    change = ((plain - expected).abs().max() / expected.abs().max()).item()
    print(f"largest difference {error:.2e} of the largest logit; the adapter changes it by {change:.2e}")
    if not (error < 1e-5 < change):
        sys.exit("the logits differ, or the adapter does nothing")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["make", "lora" | "ia3" as kind, out]:
            make(kind, Path(out))
        case ["check", folder, file]:
            check(Path(folder), Path(file))
        case _:
            sys.exit(__doc__)
