"""Which files an artifact may hold. Weights are safetensors; nothing that runs code when it is opened gets in.

Called by `registry.store` before anything is written, and before anything is loaded.
"""

import json
import pathlib
import struct

from trimtab.core import errors

ALLOWED = frozenset({".safetensors", ".json", ".jsonl", ".txt", ".jinja", ".model", ".toml"})
_RUNS_CODE = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".py", ".joblib", ".npy", ".npz"})
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit


def check(path: pathlib.Path, name: str) -> None:
    """ArtifactCorrupt, naming the file, when it may not be part of an artifact."""
    check_name(name)
    if path.suffix == ".safetensors":
        problem = _safetensors_problem(path)
        if problem:
            raise errors.ArtifactCorrupt(f"{name!r} is no safetensors file: {problem}; write it again.")


def check_name(name: str) -> None:
    """The same by the name alone."""
    suffix = pathlib.PurePosixPath(name).suffix
    if suffix in _RUNS_CODE:
        raise errors.ArtifactCorrupt(
            f"{name!r} can run code when it is opened and is never loaded; convert the weights to safetensors."
        )
    if suffix not in ALLOWED:
        kinds = ", ".join(sorted(ALLOWED))
        raise errors.ArtifactCorrupt(f"{name!r} is of no kind that an artifact holds; leave it out or use {kinds}.")


def _safetensors_problem(path: pathlib.Path) -> str:
    """What is wrong with the header (8 bytes of length, JSON, data without gaps at the end); empty when nothing is."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            return "it is shorter than its header"
        (length,) = struct.unpack("<Q", prefix)
        if length > min(_MAX_HEADER_BYTES, size - 8):
            return "its header is longer than the file"
        raw = file.read(length)
    try:
        header = json.loads(raw)
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as problem:
        return f"its header does not parse ({problem})"
    expected = 8 + length + max(ends, default=0)
    return "" if expected == size else f"its header promises {expected} bytes and it has {size}"
