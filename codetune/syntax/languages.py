"""Which language a file is written in, from its name and, where that is not enough, its start."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

_BY_SUFFIX: dict[str, str] = {
    suffix: language
    for language, suffixes in {
        "python": "py pyi pyw pyx pxd",
        "javascript": "js mjs cjs jsx",
        "typescript": "ts mts cts",
        "tsx": "tsx",
        "rust": "rs",
        "go": "go",
        "java": "java",
        "c": "c",
        "cpp": "cc cpp cxx c++ hpp hh hxx h++ ipp tpp inl cu cuh",
        "csharp": "cs csx",
        "ruby": "rb rake gemspec podspec ru",
        "php": "php phtml php5 php7",
        "bash": "sh bash zsh ksh bats",
        "kotlin": "kt kts",
        "swift": "swift",
        "scala": "scala sc",
        "lua": "lua",
        "perl": "pl pm",
        "r": "r",
        "julia": "jl",
        "haskell": "hs lhs",
        "ocaml": "ml mli",
        "elixir": "ex exs",
        "erlang": "erl hrl",
        "clojure": "clj cljs cljc edn",
        "dart": "dart",
        "zig": "zig",
        "nim": "nim",
        "fortran": "f f90 f95 f03 f08 for",
        "objectivec": "m mm",
        "powershell": "ps1 psm1 psd1",
        "vue": "vue",
        "svelte": "svelte",
        "groovy": "groovy gradle",
        "assembly": "asm s",
        "solidity": "sol",
        "verilog": "v sv svh vh",
        "vhdl": "vhd vhdl",
        "cmake": "cmake",
        "make": "mk mak",
        "nix": "nix",
        "hcl": "tf tfvars hcl",
        "jsonnet": "jsonnet libsonnet",
        "protobuf": "proto",
        "graphql": "graphql gql",
        "thrift": "thrift",
        "vimscript": "vim",
        "lisp": "el lisp lsp cl scm rkt",
        "fsharp": "fs fsi fsx",
        "starlark": "bzl star bazel",
        "markdown": "md markdown mdx mdown",
        "json": "json jsonc json5 jsonl ndjson geojson webmanifest",
        "yaml": "yaml yml",
        "toml": "toml",
        "html": "html htm xhtml j2 jinja jinja2 tmpl gotmpl ejs hbs handlebars erb",
        "css": "css scss sass less styl",
        "sql": "sql",
        "xml": "xml xsd xsl xslt plist csproj props targets",
        "rst": "rst",
        "ini": "ini cfg conf properties editorconfig",
    }.items()
    for suffix in suffixes.split()
}

_BY_NAME: dict[str, str] = {
    "makefile": "make",
    "gnumakefile": "make",
    "cmakelists.txt": "cmake",
    "dockerfile": "dockerfile",
    "containerfile": "dockerfile",
    "jenkinsfile": "groovy",
    "rakefile": "ruby",
    "gemfile": "ruby",
    "podfile": "ruby",
    "vagrantfile": "ruby",
    "build": "starlark",
    "workspace": "starlark",
    "justfile": "make",
    ".bashrc": "bash",
    ".bash_profile": "bash",
    ".zshrc": "bash",
    ".profile": "bash",
}

_BY_INTERPRETER: dict[str, str] = {
    "python": "python",
    "node": "javascript",
    "deno": "typescript",
    "bun": "typescript",
    "sh": "bash",
    "bash": "bash",
    "dash": "bash",
    "zsh": "bash",
    "ksh": "bash",
    "ruby": "ruby",
    "php": "php",
    "perl": "perl",
    "lua": "lua",
    "rscript": "r",
    "julia": "julia",
    "make": "make",
}

IS_PROSE = frozenset(["text", "markdown", "rst"])
_PROSE_AND_DATA = IS_PROSE | {"json", "yaml", "toml", "html", "css", "sql", "xml", "ini"}

# Languages whose files hold a program. Markup, styles, queries and data train as plain text.
IS_CODE: frozenset[str] = frozenset(
    {*_BY_SUFFIX.values(), *_BY_NAME.values(), *_BY_INTERPRETER.values()} - _PROSE_AND_DATA
)

_SHEBANG = re.compile(
    r"#!\s*(?:\S*/)?([A-Za-z]+)[\d.]*(?:\s+(?:-S\s+)?(?:\w+=\S+\s+)*([A-Za-z]+))?"
)
_CPP_HEADER = re.compile(
    r"^\s*(?:class\s+\w+|namespace\b|template\s*<|using\s+\w|public:|private:|protected:)"
    r"|\bstd::|#include\s*<\w+>\s*$|\bconstexpr\b|\bvirtual\b",
    re.MULTILINE,
)


def language_of(path: str, text_start: str = "") -> str:
    """The language of the file at `path`; `text_start` (a few kB of it) settles doubtful names.

    Returns "text" for everything unknown.
    """
    name = PurePosixPath(path).name.lower()
    if name in _BY_NAME:
        return _BY_NAME[name]
    if name.startswith(("dockerfile.", "makefile.")):
        return _BY_NAME[name.split(".", 1)[0]]
    suffix = name.rpartition(".")[2] if "." in name else ""
    if suffix == "h":
        return "cpp" if _CPP_HEADER.search(text_start) else "c"
    if suffix in _BY_SUFFIX:
        return _BY_SUFFIX[suffix]
    return _by_shebang(text_start) if text_start.startswith("#!") else "text"


def _by_shebang(text_start: str) -> str:
    match = _SHEBANG.match(text_start)
    if match is None:
        return "text"
    program, argument = match[1].lower(), (match[2] or "").lower()
    return _BY_INTERPRETER.get(argument if program == "env" else program, "text")
