"""ONNX Runtime Web, which runs a network in a browser: fetched once with npm, checked, unpacked."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from mura_utils.errors import UserError
from mura_utils.paths import atomic_write, cache_dir

VERSION = "1.30.0"
"""Of the npm package ``onnxruntime-web`` (MIT license)."""

INTEGRITY = "sha512-" + (
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
)
"""What the package's file must hash to, as npm writes it."""

FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
"""What a page on one thread of the CPU needs of it."""

_PACKAGE = f"onnxruntime-web-{VERSION}.tgz"
_SECONDS = 900  # 40 MB on a slow line


def write_runtime(folder: Path) -> None:
    """Write `FILES` into a folder, which is made if need be.

    The package is kept in ``cache/``, and fetched with npm where it is not there.

    Raises:
        UserError: there is no npm, npm cannot fetch the package, or it is not the one that this
            version was made with.
    """
    package = cache_dir() / _PACKAGE
    if not package.is_file():
        _fetch(package)
    _check(package)
    os.utime(package)  # `mura cache` lists when it was last used
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(package) as archive:
        for name in FILES:
            content = archive.extractfile(f"package/dist/{name}")
            assert content is not None, name
            with atomic_write(folder / name) as temporary:
                temporary.write_bytes(content.read())


def _fetch(package: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            f"The page needs ONNX Runtime Web, and there is no npm here to fetch it: install "
            f"Node.js, or put {_PACKAGE} of npm into {package.parent}."
        )
    print(f"npm fetches ONNX Runtime Web {VERSION}, once.")
    package.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=package.parent, prefix=".npm-") as place:
        command = [npm, "pack", f"onnxruntime-web@{VERSION}", "--pack-destination", place]
        try:
            done = subprocess.run(
                [*command, "--silent"], capture_output=True, text=True, timeout=_SECONDS
            )
            why = " ".join((done.stderr or done.stdout).split())[-200:]
        except subprocess.TimeoutExpired:
            why = f"no answer in {_SECONDS} seconds"
        fetched = Path(place) / _PACKAGE
        if not fetched.is_file():
            raise UserError(
                f"npm could not fetch ONNX Runtime Web ({why}): try again with a network, or put "
                f"{_PACKAGE} of npm into {package.parent}."
            )
        _check(fetched)
        fetched.replace(package)


def _check(package: Path) -> None:
    with package.open("rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    if f"sha512-{base64.b64encode(digest).decode()}" != INTEGRITY:
        raise UserError(
            f"{package.name} in {package.parent} is not the ONNX Runtime Web {VERSION} that this "
            "version was made with (its SHA-512 differs): remove it, and it is fetched again."
        )
