"""nano's data packages: a pinned list, installed by pip, each admitted only by its licence."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

from codetune.errors import SourceError

# The licences nano may learn from. Zlib, 0BSD and CC0 occur only as parts of expressions such
# as numpy's, whose main licence is BSD.
ALLOWED = frozenset(
    [
        "MIT",
        "MIT-0",
        "MIT-CMU",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "0BSD",
        "Apache-2.0",
        "PSF-2.0",
        "Python-2.0",
        "ISC",
        "Zlib",
        "CC0-1.0",
        "BSL-1.0",
        "LLVM-exception",
    ]
)
_FAMILIES = (
    (re.compile(r"\b(A?GPL|LGPL|General Public|MPL|Mozilla|EPL|Eclipse|CeCILL|EUPL|CC[- ]BY|"
                r"Proprietary|Commons Clause|SSPL|BUSL|Business Source)", re.I), None),
    (re.compile(r"apache", re.I), "Apache-2.0"),
    (re.compile(r"\bMIT\b|Permission is hereby granted, free of charge", re.I), "MIT"),
    (re.compile(r"\bBSD\b|Redistribution and use in source and binary", re.I), "BSD-3-Clause"),
    (re.compile(r"\bISC\b", re.I), "ISC"),
    (re.compile(r"Python Software Foundation|\bPSF\b", re.I), "PSF-2.0"),
)  # fmt: skip


@dataclass(frozen=True)
class Pin:
    """One line of the package list: `name==version`, then flags `sdist` and `held-out`."""

    name: str
    version: str
    sdist: bool = False
    held_out: bool = False


@dataclass(frozen=True)
class Package:
    """An installed package whose licence was checked."""

    name: str
    version: str
    licence: str
    folder: Path


def read_pins(text: str) -> list[Pin]:
    """The pinned packages of a list file; `#` starts a comment."""
    pins = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split("#")[0].split()
        if not words:
            continue
        name, separator, version = words[0].partition("==")
        unknown = set(words[1:]) - {"sdist", "held-out"}
        if not separator or unknown:
            raise SourceError(
                f"Package list, line {number}: '{line.strip()}' is not understood.",
                advice="Write name==version, then 'sdist' or 'held-out' if it applies.",
            )
        pins.append(Pin(name, version, "sdist" in words, "held-out" in words))
    return pins


def licence_of(metadata: str, licence_text: str = "") -> str | None:
    """The permissive licence that a package's METADATA states, or None: not admitted.

    `License-Expression` decides alone when it is there (every part must be allowed; for an OR
    one side is enough). Otherwise the classifiers and the `License` field must name a known
    permissive licence and nothing else; a package that states nothing is judged by its file.
    """
    headers = HeaderParser().parsestr(metadata)
    expression = headers.get("License-Expression")
    if expression:
        return expression if _expression_allowed(expression) else None
    classifiers = [
        value
        for value in headers.get_all("Classifier", [])
        if value.startswith("License ::") and value != "License :: OSI Approved"
    ]
    stated = "\n".join([*classifiers, (headers.get("License") or "").strip()]).strip()
    # Some put the whole licence text, with the licences of bundled parts, into the field.
    judged = "\n".join(classifiers) if classifiers and len(stated) > 1000 else stated
    for text in (judged, licence_text[:2000]):
        if not text.strip() or text.strip().lower() == "unknown":
            continue
        for pattern, licence in _FAMILIES:
            if pattern.search(text):
                return licence
    return None


def _expression_allowed(expression: str) -> bool:
    words = re.sub(r"[()]", " ", expression)
    return any(
        all(part.strip() in ALLOWED for part in re.split(r"\s+(?:AND|WITH)\s+", side))
        for side in re.split(r"\s+OR\s+", words)
    )


def install(pins: list[Pin], folder: Path, jobs: int = 4) -> None:
    """Bring every package into its own folder below `folder`, with pip; what is there stays."""
    with ThreadPoolExecutor(jobs) as pool:
        for future in [pool.submit(_install_one, pin, folder) for pin in pins]:
            future.result()


def _install_one(pin: Pin, folder: Path) -> None:
    target = folder / f"{pin.name}-{pin.version}"
    if (target / ".complete").exists():
        return
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    requirement = f"{pin.name}=={pin.version}"
    if pin.sdist:
        options = ["download", "--no-deps", "--no-binary", ":all:", "--dest", str(target)]
    else:
        options = ["install", "--no-deps", "--no-compile", "--upgrade", "--target", str(target)]
    done = subprocess.run(
        [*pip, *options, requirement], check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise SourceError(
            f"pip could not bring {requirement}: {done.stderr.strip()[-300:]}",
            advice="Check the package index, or remove the line from the package list.",
        )
    for archive in [*target.glob("*.tar.gz")]:
        with tarfile.open(archive) as tar:
            tar.extractall(target, filter="data")
        archive.unlink()
    (target / ".complete").touch()


def admitted(pins: list[Pin], folder: Path) -> list[Package]:
    """The installed packages, licences checked.

    Raises:
        SourceError: a package's licence is not on the list of permissive ones.
    """
    packages = []
    for pin in pins:
        target = folder / f"{pin.name}-{pin.version}"
        metadata, licence_text = _metadata_of(target)
        licence = licence_of(metadata, licence_text)
        if licence is None:
            raise SourceError(
                f"{pin.name} {pin.version} is not under a licence that nano may learn from.",
                advice="Remove it from the package list; allowed: MIT, BSD, Apache-2.0, PSF, ISC.",
            )
        inner = [path for path in target.iterdir() if path.is_dir()]
        root = inner[0] if pin.sdist and len(inner) == 1 else target
        packages.append(Package(pin.name, pin.version, licence, root))
    return packages


def licence_files(folder: Path) -> list[Path]:
    """The licence and notice files of an installed package."""
    pattern = re.compile(r"^(LICEN[CS]E|COPYING|NOTICE|AUTHORS?)", re.I)
    roots = [*folder.glob("*.dist-info"), *folder.glob("*.dist-info/licenses"), folder]
    return sorted(
        path
        for root in roots
        for path in root.glob("*")
        if path.is_file() and pattern.match(path.name)
    )


def _metadata_of(folder: Path) -> tuple[str, str]:
    found = [*folder.glob("*.dist-info/METADATA"), *folder.glob("*/PKG-INFO")]
    metadata = found[0].read_text(errors="replace") if found else ""
    root = found[0].parent if found else folder
    texts = [*root.rglob("LICENSE*"), *root.rglob("LICENCE*"), *root.rglob("COPYING*")]
    texts = [path for path in texts if path.is_file()]
    return metadata, texts[0].read_text(errors="replace") if texts else ""
