"""Writes `golden` anew: `python -m tests.contract.training.regenerate` runs TRL in environments of its own."""

import os
import pathlib
import subprocess

from tests.benchmarks import peers

GOLDEN = pathlib.Path(__file__).parent / "golden"
FILES = {"trl.json": ("trl", "sft", "reward", "dpo", "kto", "grpo", "rloo"), "trl_ppo.json": ("trl-with-ppo", "ppo")}

if __name__ == "__main__":
    for name, (peer, *methods) in FILES.items():
        command = [str(peers.python_of(peer)), "-m", "tests.contract.training.golden_of_trl", str(GOLDEN / name)]
        offline = {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "TOKENIZERS_PARALLELISM": "false"}
        root = peers.CACHE.parent
        subprocess.run([*command, *methods], check=True, cwd=root, env={**os.environ, **offline})
