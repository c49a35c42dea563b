"""Regenerates protos/gen from protos/trimtabapi. `--check` fails when what is committed differs.

Run by `make protos` and `make check`. Needs grpcio-tools and mypy-protobuf.
"""

import filecmp
import os
import pathlib
import shutil
import sys
import tempfile

import grpc_tools
from grpc_tools import protoc

PROTOS = pathlib.Path(__file__).parents[1] / "protos"
GENERATED = PROTOS / "gen"


def generate(into: pathlib.Path) -> None:
    # protoc looks for its mypy plugins on PATH; they lie beside this interpreter, whose environment need not be active.
    os.environ["PATH"] = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ.get("PATH", "")])
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.glob("trimtabapi/**/*.proto"))
    well_known = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    services = [name for name in sources if name.endswith("_service.proto")]
    arguments = ["protoc", f"-I{PROTOS}", f"-I{well_known}"]
    if protoc.main([*arguments, f"--python_out={into}", f"--mypy_out=quiet:{into}", *sources]):
        sys.exit("protoc failed on the messages")
    if protoc.main([*arguments, f"--grpc_python_out={into}", f"--mypy_grpc_out=quiet:{into}", *services]):
        sys.exit("protoc failed on the services")
    for folder in [into / "trimtabapi", *(into / "trimtabapi").rglob("*")]:
        if folder.is_dir():
            (folder / "__init__.py").touch()
    (into / "trimtabapi" / "py.typed").touch()


def differences(comparison: filecmp.dircmp[str], prefix: str = "") -> list[str]:
    found = [prefix + name for name in (*comparison.left_only, *comparison.right_only, *comparison.diff_files)]
    for name, inner in comparison.subdirs.items():
        found += differences(inner, f"{prefix}{name}/")
    return [name for name in found if "__pycache__" not in name]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        fresh = pathlib.Path(folder)
        generate(fresh)
        if "--check" in sys.argv[1:]:
            changed = differences(filecmp.dircmp(GENERATED / "trimtabapi", fresh / "trimtabapi"))
            if changed:
                sys.exit("protos/gen is out of date, run `make protos`: " + ", ".join(sorted(changed)))
            return
        shutil.rmtree(GENERATED / "trimtabapi", ignore_errors=True)
        shutil.copytree(fresh / "trimtabapi", GENERATED / "trimtabapi")


if __name__ == "__main__":
    main()
