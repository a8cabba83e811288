"""Keys, tokens and passwords in source text: found, and replaced by stable placeholders.

Patterns for issued credentials are exact (a prefix that the issuer chose for this purpose).
Assignments to names like `password` are judged by the value: random enough to be real, and no
example. A placeholder has no line break in it, and a block of lines keeps its number of lines,
so that the code around a secret stays the code it was.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from codetune.corpus.literals import Literals


@dataclass(frozen=True)
class Pattern:
    """A kind of secret; `hint` is a literal that every match contains (fast to look for)."""

    kind: str
    hints: tuple[str, ...]
    regex: re.Pattern[str]
    group: int = 0  # the part that is replaced
    accept: Callable[[str], bool] | None = None


def _entropy(value: str) -> float:
    """Shannon entropy in bits a character."""
    counts = Counter(value)
    return -sum(n / len(value) * math.log2(n / len(value)) for n in counts.values())


_EXAMPLE = re.compile(
    r"(?i)example|sample|dummy|placeholder|changeme|change[-_]me|your[-_]|my[-_]?(?:secret|pass)|"
    r"xxx|redacted|insert|replace|todo|fixme|fake|mock|not[-_]?(?:a[-_])?real|123456|abcdef|"
    r"foobar|<[^>]*>|\$\{|\{\{|%\(|\.\.\.|\*\*\*|lorem|test"
)


def _issued(value: str) -> bool:
    """An issuer's prefix is proof enough unless the rest is clearly made up."""
    body = re.split(r"[-_]", value, maxsplit=1)[-1]
    return len(set(body)) > 5 and "EXAMPLE" not in value


def _random(value: str) -> bool:
    """A value that looks drawn at random: no words, no path, no example."""
    if _EXAMPLE.search(value) or len(set(value)) < 8 or "://" in value:
        return False
    if not (re.search(r"\d", value) and re.search(r"[A-Za-z]", value)):
        return False
    # Snake case, dotted names, paths: words that mean something.
    words = [word for word in re.split(r"[^A-Za-z]+", value) if len(word) > 3]
    if words and sum(map(len, words)) > 0.8 * len(value) and not re.search(r"\d\w*\d", value):
        return False
    return _entropy(value) >= (3.0 if re.fullmatch(r"[0-9a-fA-F]+", value) else 3.5)


# What code may say without quotes beside a telling name: a number, a date, a path, a variable, a
# name of one case (db-tls-v2, X509_V3).
_NAMED = re.compile(
    r"[+-]?[\d._]+(?:[eE][+-]?\d+)?\w{0,3}|0[xX][0-9a-fA-F_]+\w{0,3}|\d{4}-\d\d-\d\d.*|"
    r"[$%@&*!/~.].*|[a-z0-9]+(?:[-_.][a-z0-9]+)+|[A-Z0-9]+(?:[-_.][A-Z0-9]+)+"
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def _drawn(value: str) -> bool:
    """A random-looking value that is no name either: names have words, and few numbers."""
    if not _random(value) or _NAMED.fullmatch(value):
        return False
    words = _WORD.findall(value)
    return sum(map(len, words)) < 3 * len(words) or len(re.findall(r"\d+", value)) > 2


def _password(value: str) -> bool:
    """A password inside an address: anything but a variable or an example."""
    if _EXAMPLE.search(value) or value.lower() in _USUAL_PASSWORDS:
        return False
    if re.fullmatch(r"[A-Za-z]+(?:[_-][A-Za-z]+)+", value):  # secret_access_key
        return False
    return len(set(value)) > 3 and not value.startswith(("$", "{", "%", "<", "["))


def _basic(value: str) -> bool:
    """A name and a password as HTTP's basic scheme writes them (RFC 7617)."""
    try:
        return ":" in base64.b64decode(value + "=" * (-len(value) % 4), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return False


# The header's name up to its value, in a file of settings, a command or code.
_HEADER = r"(?i:\bauthorization)[\"'`\]]{0,2}\s{0,3}(?:=>|=|:|,)\s{0,3}[bruf]{0,2}[\"'`]?"

_USUAL = (
    "password passwd pass pwd secret admin root postgres mysql guest user redis rabbitmq "
    "hunter2 token pw p"
)
_USUAL_PASSWORDS = frozenset(_USUAL.split())

_PATTERNS: tuple[Pattern, ...] = (
    Pattern(
        "PRIVATE_KEY",
        ("PRIVATE KEY",),
        re.compile(
            r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
            r"([A-Za-z0-9+/=\s\\\"'`,:;.*#|>-]{40,20000}?)"
            r"-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
        ),
        group=1,
    ),
    Pattern(
        "AWS_KEY_ID",
        ("AKIA", "ASIA"),
        re.compile(r"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b"),
        accept=_issued,
    ),
    Pattern(
        "GITHUB_TOKEN",
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
        re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{60,255})\b"),
        accept=_issued,
    ),
    Pattern(
        "GITLAB_TOKEN",
        ("glpat-", "glptt-", "gldt-", "glrt-"),
        re.compile(r"\b(?:glpat|glptt|gldt|glrt)-[A-Za-z0-9_-]{20,}"),
        accept=_issued,
    ),
    Pattern(
        "SLACK_TOKEN",
        ("xox", "xapp-"),
        re.compile(r"\b(?:xox[abeoprs]-[A-Za-z0-9-]{10,}|xapp-\d-[A-Za-z0-9-]{20,})"),
        accept=_issued,
    ),
    Pattern(
        "SLACK_WEBHOOK",
        ("hooks.slack.com/services/",),
        re.compile(r"hooks\.slack\.com/services/(T[A-Z0-9]{6,}/B[A-Z0-9]{6,}/[A-Za-z0-9]{20,})"),
        group=1,
        accept=_issued,
    ),
    Pattern(
        "GOOGLE_KEY",
        ("AIza",),
        re.compile(r"\bAIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])"),
        accept=_issued,
    ),
    Pattern(
        "GOOGLE_SECRET", ("GOCSPX-",), re.compile(r"\bGOCSPX-[A-Za-z0-9_-]{28}"), accept=_issued
    ),
    Pattern(
        "HUGGING_FACE_TOKEN",
        ("hf_", "api_org_"),
        re.compile(r"\b(?:hf_[A-Za-z]{34}|hf_[A-Za-z0-9]{34,40}|api_org_[A-Za-z0-9]{34})\b"),
        accept=_issued,
    ),
    Pattern(
        "STRIPE_KEY",
        ("sk_live_", "rk_live_", "sk_test_", "rk_test_", "whsec_"),
        re.compile(r"\b(?:(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9+/=]{24,})"),
        accept=_issued,
    ),
    Pattern(
        "ANTHROPIC_KEY", ("sk-ant-",), re.compile(r"\bsk-ant-[A-Za-z0-9_-]{32,}"), accept=_issued
    ),
    Pattern(
        "OPENAI_KEY",
        ("sk-",),
        re.compile(
            r"\bsk-(?:(?:proj|svcacct|admin|None)-[A-Za-z0-9_-]{32,}|[A-Za-z0-9]{32,64})(?![\w-])"
        ),
        accept=_issued,
    ),
    Pattern(
        "PYPI_TOKEN", ("pypi-AgE",), re.compile(r"\bpypi-AgE[A-Za-z0-9_-]{50,}"), accept=_issued
    ),
    Pattern("NPM_TOKEN", ("npm_",), re.compile(r"\bnpm_[A-Za-z0-9]{36}\b"), accept=_issued),
    Pattern(
        "SENDGRID_KEY",
        ("SG.",),
        re.compile(r"\bSG\.[A-Za-z0-9_-]{20,24}\.[A-Za-z0-9_-]{39,50}"),
        accept=_issued,
    ),
    Pattern("TWILIO_KEY", ("SK",), re.compile(r"\bSK[0-9a-f]{32}\b"), accept=_issued),
    Pattern(
        "DIGITALOCEAN_TOKEN",
        ("dop_v1_", "doo_v1_"),
        re.compile(r"\bdo[op]_v1_[0-9a-f]{64}\b"),
        accept=_issued,
    ),
    Pattern("TELEGRAM_TOKEN", (":AA",), re.compile(r"\b\d{8,10}:AA[A-Za-z0-9_-]{33}(?![\w-])")),
    Pattern(
        "JWT",
        ("eyJ",),
        re.compile(r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{20,}"),
    ),
    Pattern(
        "AZURE_KEY",
        ("AccountKey=", "SharedAccessKey="),
        re.compile(r"(?:AccountKey|SharedAccessKey)=([A-Za-z0-9+/]{40,}={0,2})"),
        group=1,
        accept=_random,
    ),
    Pattern(
        "PASSWORD",
        ("://",),
        re.compile(
            r"://[^\s:/@'\"`<>]{1,80}:([^\s/@'\"`<>]{4,200})@"
            r"[A-Za-z0-9.\[-]"
        ),
        group=1,
        accept=_password,
    ),
    Pattern(
        "BASIC_LOGIN",
        ("Authorization", "authorization", "AUTHORIZATION"),
        re.compile(_HEADER + r"(?i:basic)\s{1,3}([A-Za-z0-9+/]{8,2000}={0,2})"),
        group=1,
        accept=_basic,
    ),
    Pattern(
        "BEARER_TOKEN",
        ("Authorization", "authorization", "AUTHORIZATION"),
        re.compile(_HEADER + r"(?i:bearer|token)\s{1,3}([A-Za-z0-9+/_.~-]{16,2000}={0,2})"),
        group=1,
        accept=_random,
    ),
)

# What follows a telling name: the rest of the name, an assignment, and a quoted value, or one
# that ends the line. Behind these, a value that is judged with more care, since code has no
# quotes either: of .env, YAML and properties files, before a blank, a semicolon or the line's
# end; of NAME=value with any bracket in it.
_ASSIGNED = re.compile(
    r"""(?x)
    [\w.-]{0,24}["'`\]]{0,2}(?:\s?:\s?[\w.\[\]&*]{1,30})?\s{0,3}(?::=|=>|=|:|,)\s{0,3}
    (?:[bruf]{0,2}["'`]([^\s"'`]{12,200})["'`]|([A-Za-z0-9+/_=-]{20,200})[ \t]*\r?$)
    """,
    re.MULTILINE,
)
_UNQUOTED = re.compile(
    r"""(?x)
    [\w.-]{0,24}(?:
        [ \t]{0,3}[=:][ \t]{0,3}([^\s"'`;,(){}\[\]<>|\\]{12,200})(?=[ \t;]|\r?$)
        | (?<=[A-Z0-9_])=([^\s"'`;]{12,200})(?=(?:[ \t]+(?:\#.*)?)?\r?$)
    )
    """,
    re.MULTILINE,
)
_TELLING = Literals(
    (
        "password",
        "passwd",
        "passphrase",
        "secret",
        "token",
        "apikey",
        "api_key",
        "api-key",
        "accesskey",
        "access_key",
        "authkey",
        "auth_key",
        "private_key",
        "privatekey",
        "credential",
    )
)


_HINTS = Literals(hint for pattern in _PATTERNS for hint in pattern.hints)


@dataclass(frozen=True)
class Redacted:
    """A text without its secrets; `kinds` counts what was replaced."""

    text: str
    kinds: Counter[str]


def redact(text: str) -> Redacted:
    """Replace every secret by REDACTED_<KIND>, line for line."""
    kinds: Counter[str] = Counter()
    hints = _HINTS.found_in(text)
    for pattern in _PATTERNS:
        if not hints.isdisjoint(pattern.hints):
            text = _replace(text, pattern, kinds)
    return Redacted(_hide_assigned(text, kinds), kinds)


def _hide_assigned(text: str, kinds: Counter[str]) -> str:
    """Replace random-looking values that are assigned to telling names."""
    lowered = text.lower()
    if len(lowered) != len(text):  # one Turkish letter grows when lowered
        lowered = text.replace("\u0130", "i").lower()
    found: dict[int, int] = {}  # start → end of each value
    for name in _TELLING.found_in(lowered):
        at = lowered.find(name)
        while at >= 0:
            for assigned, accept in ((_ASSIGNED, _random), (_UNQUOTED, _drawn)):
                match = assigned.match(text, at + len(name))
                if match:
                    group = match.lastindex or 1
                    value = match[group]
                    if not value.startswith("REDACTED_") and accept(value):
                        found[match.start(group)] = match.end(group)
            at = lowered.find(name, at + len(name))
    spans = _apart(found)
    for start, end in reversed(spans):
        text = f"{text[:start]}REDACTED_SECRET{text[end:]}"
    kinds.update({"SECRET": len(spans)} if spans else {})
    return text


def _apart(found: dict[int, int]) -> list[tuple[int, int]]:
    """The spans in order, those that overlap as one: a value may hold a name and its value."""
    spans: list[tuple[int, int]] = []
    for start, end in sorted(found.items()):
        if spans and start < spans[-1][1]:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((start, end))
    return spans


def _replace(text: str, pattern: Pattern, kinds: Counter[str]) -> str:
    def placeholder(match: re.Match[str]) -> str:
        secret = match[pattern.group]
        if pattern.accept is not None and not pattern.accept(secret):
            return match[0]
        kinds[pattern.kind] += 1
        start, end = match.start(pattern.group), match.end(pattern.group)
        new = _same_lines(secret, f"REDACTED_{pattern.kind}")
        return match[0][: start - match.start()] + new + match[0][end - match.start() :]

    return pattern.regex.sub(placeholder, text)


def _same_lines(secret: str, placeholder: str) -> str:
    """The placeholder in place of each line's characters, quotes and indentation kept."""
    if "\n" not in secret:
        return placeholder
    return re.sub(r"[A-Za-z0-9+/=]{8,}", placeholder, secret)
