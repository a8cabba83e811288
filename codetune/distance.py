"""Levenshtein distance, fast enough for thousands of answers without a C library.

Myers' bit-parallel algorithm (J. ACM 46, 1999) in Hyyrö's form (2003): a Python integer holds
one column of the table, so a step costs one pass over `len(a) / 64` machine words.
"""

from __future__ import annotations

from collections.abc import Iterator


def edit_distance(a: str, b: str) -> int:
    """The fewest insertions, deletions and substitutions that turn `a` into `b`."""
    if a == b:
        return 0
    if not a or not b:
        return len(a) + len(b)
    *_, distance = _distances(a, b)
    return distance


def distance_to_beginning(a: str, b: str) -> int:
    """The fewest edits that turn `a` into a text that `b` begins with: what follows is free."""
    if not a:
        return 0
    return min((len(a), *_distances(a, b)))  # at worst all of it is deleted


def _distances(a: str, b: str) -> Iterator[int]:
    """The edit distances of `a`, not empty, and `b[:1]`, `b[:2]`, … `b`."""
    places: dict[str, int] = {}
    for position, character in enumerate(a):
        places[character] = places.get(character, 0) | (1 << position)
    mask, last = (1 << len(a)) - 1, 1 << (len(a) - 1)
    plus, minus, distance = mask, 0, len(a)
    for character in b:
        matches = places.get(character, 0)
        diagonal = (((matches & plus) + plus) ^ plus) | matches | minus
        up, down = minus | (~(diagonal | plus) & mask), plus & diagonal
        distance += bool(up & last) - bool(down & last)
        yield distance
        up, down = ((up << 1) | 1) & mask, (down << 1) & mask
        plus, minus = down | (~(diagonal | up) & mask), up & diagonal


def edit_similarity(a: str, b: str) -> float:
    """1 - distance / longer length: 1 for equal texts, 0 for texts with nothing in common."""
    longer = max(len(a), len(b))
    return 1.0 - edit_distance(a, b) / longer if longer else 1.0


def normalised(text: str) -> str:
    """`text` without white space at line ends and at its own end: nobody sees that in an editor.

    White space at the beginning stays: in Python it is the program.
    """
    return "\n".join(line.rstrip() for line in text.splitlines()).rstrip()
