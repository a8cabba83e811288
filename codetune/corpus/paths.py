"""What a file's name alone says: vendored, generated, minified, binary or data."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codetune.corpus.config import CorpusOptions

# Folders that hold other people's code wherever they stand in a tree.
_VENDORED_FOLDERS = frozenset(
    {
        "node_modules",
        "bower_components",
        "jspm_packages",
        "vendor",
        "vendored",
        "_vendor",
        "third_party",
        "third-party",
        "thirdparty",
        "3rdparty",
        "3rd_party",
        "site-packages",
        "dist-packages",
        ".venv",
        ".tox",
        ".nox",
        ".eggs",
        "Pods",
        "Carthage",
        "Godeps",
        "_esy",
        ".yarn",
        ".pnpm-store",
    }
)
# Folders of this name hold other people's code where it comes with a licence file of its own.
MAYBE_VENDORED = frozenset(
    {"external", "externals", "extern", "deps", "dependencies", "vendors", "contrib", "libs", "ext"}
    | {"lib", "import", "submodules", "bundled", "packages-external"}
)
_VENDORED_FILES = re.compile(
    r"(?:^|/)(?:jquery(?:-ui)?(?:[.-]\d[\w.]*)?|bootstrap(?:\.bundle)?|lodash|underscore|d3|"
    r"react(?:-dom)?\.(?:development|production)|angular|vue\.(?:global|esm)[\w.-]*|htmx|"
    r"handlebars|modernizr[\w.-]*|font-?awesome)\.(?:js|css)$|"
    r"(?:^|/)(?:normalize\.css|gradlew|gradlew\.bat|mvnw|mvnw\.cmd)$",
    re.IGNORECASE,
)
_GENERATED_FOLDERS = frozenset({"__pycache__", "__snapshots__", "__generated__", ".next", ".nuxt"})
_GENERATED_FILES = re.compile(
    r"(?:\.pb(?:\.gw)?\.(?:go|cc|h)|_pb2(?:_grpc)?\.pyi?|\.pb\.[\w.]+|_pb\.(?:js|ts)|\.g\.dart|"
    r"\.freezed\.dart|\.designer\.cs|\.g\.cs|\.generated\.\w+|_generated\.\w+|\.gen\.\w+|"
    r"zz_generated[\w.]*\.go|bindata\.go|\.snap|\.\w+\.map|\.egg-info/[\w.]+|"
    r"\.tsbuildinfo|parsetab\.py)$",
    re.IGNORECASE,
)
_LOCK_FILES = frozenset(
    {
        "package-lock.json",
        "npm-shrinkwrap.json",
        "yarn.lock",
        "pnpm-lock.yaml",
        "bun.lock",
        "bun.lockb",
        "deno.lock",
        "cargo.lock",
        "go.sum",
        "go.work.sum",
        "poetry.lock",
        "pdm.lock",
        "uv.lock",
        "pipfile.lock",
        "gemfile.lock",
        "composer.lock",
        "podfile.lock",
        "mix.lock",
        "flake.lock",
        "pubspec.lock",
        "packages.lock.json",
        "gradle.lockfile",
        "package.resolved",
        ".terraform.lock.hcl",
    }
)
_DATA_SUFFIXES = (
    "csv tsv svg geojson ndjson jsonl parquet arrow xlsx sarif har lock sum dat data tfstate "
    "ipynb pem crt cer key pub asc sig diff patch log out golden po pot"
)
# Formats that may hold configuration (worth learning) or data (not): decided by size.
MAYBE_DATA = frozenset({"json", "yaml", "xml", "toml", "html", "ini"})
_BINARY_SUFFIXES = (
    "png jpg jpeg gif bmp ico icns webp avif tif tiff psd ai eps pdf doc docx xls ppt pptx odt "
    "zip gz tgz bz2 xz zst 7z rar tar jar war ear whl egg class pyc pyo o a so dylib dll exe lib "
    "obj bin wasm ttf otf woff woff2 eot mp3 mp4 m4a wav ogg flac avi mov mkv webm swf db sqlite "
    "sqlite3 pkl pickle npy npz pt pth onnx safetensors gguf h5 mo rpm deb dmg iso keystore jks "
    "p12 pfx der"
)
_DATA, _BINARY = frozenset(_DATA_SUFFIXES.split()), frozenset(_BINARY_SUFFIXES.split())
_MINIFIED = re.compile(r"[.-]min\.(?:js|mjs|css)$|\.bundle\.js$", re.IGNORECASE)


def judge_path(path: str, options: CorpusOptions) -> tuple[str, str] | None:
    """(reason, detail) for a file whose name is enough to drop it, else None."""
    lower = path.lower()
    folders = path.split("/")[:-1]
    name = lower.rpartition("/")[2]
    suffix = name.rpartition(".")[2] if "." in name else ""
    if not options.keep_vendored:
        vendored = next((folder for folder in folders if folder in _VENDORED_FOLDERS), None)
        if vendored:
            return "vendored", f"in a {vendored} folder"
        if _VENDORED_FILES.search(lower):
            return "vendored", "a well-known library's file"
    if suffix in _BINARY:
        return "binary", f".{suffix}"
    if name in _LOCK_FILES:
        return "data", "a lock file"
    if not options.keep_generated:
        generated = next((folder for folder in folders if folder in _GENERATED_FOLDERS), None)
        if generated:
            return "generated", f"in a {generated} folder"
        if _GENERATED_FILES.search(lower):
            return "generated", "by its name"
    if _MINIFIED.search(name):
        return "minified", "by its name"
    if suffix in _DATA:
        return "data", f".{suffix}"
    return None
