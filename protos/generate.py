"""Generate `secfed/wire/pb` from the schema in this folder: `python protos/generate.py`.

The generated files are checked in, so that an installation needs no compiler. A test runs this
into a temporary folder and compares byte for byte.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent
PACKAGE = PROTOS.parent / "secfed" / "wire" / "pb"
INIT = '"""Generated from `protos/` by `protos/generate.py`; never edited. Only `wire` imports it."""\n'

_PROTO_PACKAGE = re.compile(r"^(from|import) secfed\.v1\b", re.MULTILINE)


def generate(target: Path) -> None:
    """Write the generated package into `target`, which exists.

    Raises:
        RuntimeError: The compiler refused the schema.
    """
    well_known = Path(protoc.__file__).parent / "_proto"
    sources = sorted(str(path) for path in PROTOS.glob("secfed/v1/*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        # By its path, so that it is found in an environment that is not on PATH.
        plugin = f"--plugin=protoc-gen-mypy={Path(sys.executable).parent / 'protoc-gen-mypy'}"
        outputs = [plugin, f"--python_out={folder}", f"--mypy_out={folder}"]
        code = protoc.main(["protoc", f"-I{PROTOS}", f"-I{well_known}", *outputs, *sources])
        if code != 0:
            raise RuntimeError(f"protoc ended with {code}")
        for path in sorted(Path(folder, "secfed", "v1").iterdir()):
            text = path.read_text(encoding="utf-8")
            # The schema's package is secfed.v1; the code lives where nothing shadows `secfed`.
            text = _PROTO_PACKAGE.sub(r"\1 secfed.wire.pb", text)
            (target / path.name).write_text(text, encoding="utf-8")
    (target / "__init__.py").write_text(INIT, encoding="utf-8")


if __name__ == "__main__":
    PACKAGE.mkdir(parents=True, exist_ok=True)
    for old in PACKAGE.glob("*.py*"):
        old.unlink()
    generate(PACKAGE)
    sys.stdout.write(f"wrote {PACKAGE}\n")
