"""nano's model card (README.md) and data list (data.json), from the run's own records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from codetune.models.nano.packages import Package


def data_list(
    packages: list[Package], held_out: set[str], counts: dict[str, Any]
) -> dict[str, Any]:
    """Every package with version, licence, role and bytes; kept and dropped files with reasons."""
    rows = [
        {
            "name": package.name,
            "version": package.version,
            "licence": package.licence,
            "role": "held-out" if package.name in held_out else "training",
            "bytes": counts["package_bytes"].get(package.name, 0)
            or counts["held_out_bytes"].get(package.name, 0),
        }
        for package in packages
    ]
    return {
        "packages": sorted(rows, key=lambda row: str(row["name"])),
        "bytes_by_language": counts["kept_bytes"],
        "files_by_language": counts["kept_files"],
        "dropped_files": counts["dropped"],
    }


def write_card(
    folder: Path, data: dict[str, Any], run: dict[str, Any], measured: dict[str, Any]
) -> None:
    """README.md, data.json and measurements.json in the model's folder."""
    (folder / "data.json").write_text(json.dumps(data, indent=1) + "\n")
    record = {"run": run, "measured": measured}
    (folder / "measurements.json").write_text(json.dumps(record, indent=1) + "\n")
    (folder / "README.md").write_text(card_text(data, run, measured))


def card_text(data: dict[str, Any], run: dict[str, Any], measured: dict[str, Any]) -> str:
    """The card in Markdown."""
    languages = sorted(data["bytes_by_language"].items(), key=lambda item: -item[1])
    kept = sum(data["bytes_by_language"].values())
    files = sum(data["files_by_language"].values())
    training = [row for row in data["packages"] if row["role"] == "training"]
    held_out = [row for row in data["packages"] if row["role"] == "held-out"]
    per_byte = measured["bits_per_byte"]
    others = measured["compressors"]
    lines = [
        "---",
        "license: apache-2.0",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [code, fill-in-the-middle]",
        "---",
        "",
        "# nano",
        "",
        f"A small code model: Qwen2 architecture, {run['parameters'] / 1e6:.1f} M parameters, "
        f"{run['vocabulary']} byte-level BPE tokens with the token names of Qwen2.5-Coder, "
        "bfloat16. It is trained from nothing by `codetune nano train`, from the text of "
        "permissively licensed packages that pip installs, and ships with codetune so that "
        "tuning, serving and the tests work without any download. It is a base for tuning and "
        "for trying things out; for real use pass a larger base.",
        "",
        "## Measured",
        "",
        f"On the evaluation set ({measured['evaluation_bytes']:,} bytes of packages that were "
        "never trained on; `../general/evaluation.jsonl.gz`), bits per byte:",
        "",
        "| | bits per byte |",
        "| --- | --- |",
        f"| nano, all | {per_byte['all']:.3f} |",
    ]
    lines += [f"| nano, {k} | {v:.3f} |" for k, v in sorted(per_byte.items()) if k != "all"]
    lines += [f"| {k}, all files as one | {v:.3f} |" for k, v in others.items() if v is not None]
    lines += [
        "",
        "Filling short holes (5 to 80 bytes) in its Python files, greedy, suffix first:",
        "",
        "| | cases | exact match | edit similarity |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {kind} | {s['cases']} | {s['exact_match']:.1%} | {s['edit_similarity']:.1%} |"
        for kind, s in measured["fim"].items()
    ]
    lines += [
        "",
        "## Training",
        "",
        f"{run['tokens']:,} tokens in {run['seconds'] / 60:.0f} minutes on {run['device']} "
        f"({run['tokens'] / max(1.0, run['seconds']):,.0f} tokens a second). "
        f"{run['fim_rate']:.0%} of the chunks (about half of the tokens) have a hole to fill, "
        f"{run['spm_rate']:.0%} of these suffix first; holes are syntax nodes, lines, line ends "
        "and arbitrary characters. Documents are packed into rows and "
        "isolated from each other. Muon for matrices and AdamW for the rest on float32 masters; "
        "warm-up, plateau and a linear decay; windows of "
        f"{run['windows']} tokens. All options are in `measurements.json`.",
        "",
        "Held-out bits per byte during training (another sample of the held-out packages):",
        "",
        "| tokens | bits per byte |",
        "| --- | --- |",
    ]
    lines += [f"| {tokens:,} | {value:.3f} |" for tokens, value in run["curve"]]
    for tokens in run["continued"]:
        lines += ["", f"At {tokens:,} tokens a first decay was over; the run went on from there."]
    if run["changed"]:
        lines += ["", "Options that were changed during the run (before → after):", ""]
    for tokens, options in run["changed"]:
        shown = ", ".join(f"{name} {old} → {new}" for name, (old, new) in options.items())
        lines.append(f"- at {tokens:,} tokens: {shown}")
    lines += [
        "",
        "## Data",
        "",
        f"{kept:,} bytes in {files:,} files after filtering; {run['text_share']:.0%} of the "
        "mixture below was read. Shares of the bytes read: "
        + ", ".join(f"{name} {share:.1%}" for name, share in run["shares"].items())
        + ".",
        "",
        "| language | files | bytes kept |",
        "| --- | --- | --- |",
    ]
    lines += [f"| {k} | {data['files_by_language'][k]:,} | {v:,} |" for k, v in languages]
    lines += ["", "Files left out, by reason:", ""]
    lines += [
        f"- {reason}: {count:,}"
        for reason, count in sorted(data["dropped_files"].items(), key=lambda item: -item[1])
    ]
    lines += [
        "",
        "Each package's licence was checked from its own metadata; files that name another "
        "licence were left out. codetune's own code and the repositories that codetune is "
        "evaluated on (datasette, mypy, netbox, gin, zod, cJSON, ripgrep, deno std, hugo, loki) "
        "are not in the data.",
        "",
        f"Trained on ({len(training)}):",
        "",
        "| package | version | licence | bytes |",
        "| --- | --- | --- | --- |",
    ]
    for rows, title in ((training, ""), (held_out, "\nNever trained on, only measured on:\n")):
        if title:
            lines += [title, "| package | version | licence | bytes |", "| --- | --- | --- | --- |"]
        lines += [
            f"| {row['name']} | {row['version']} | {row['licence']} | {row['bytes']:,} |"
            for row in rows
        ]
    lines += [
        "",
        "A few modules of the standard library are held out, too: argparse, calendar, "
        "configparser, csv, difflib, fractions, heapq, sched, shlex, statistics, textwrap.",
        "",
        "## Limits",
        "",
        "A few million parameters know little: names, idioms and short completions of common "
        "Python, less of other languages. nano has seen no conversation: "
        "instruction tuning has to teach it, in plain words, for the chat tokens exist but were "
        "never trained. transformers' Qwen2 tokenizer "
        "normalises text to NFC; `tokenizer.json` itself does not, so codetune and llama.cpp "
        "keep every byte.",
        "",
    ]
    return "\n".join(lines)
