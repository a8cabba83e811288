"""How an instruction is put: several ways for each kind, one of them drawn by the seed.

Only the question is worded here; every answer is text of the repository. Each phrase names the
thing that it asks about.
"""

from __future__ import annotations

from codetune.dataset.catalogue import seeded

_PHRASES: dict[str, tuple[str, ...]] = {
    "explain": (
        "Explain what the {what} `{name}` in `{path}` does.",
        "What does the {what} `{name}` from `{path}` do?",
        "Describe the purpose of the {what} `{name}` in `{path}`.",
        "Summarise the {what} `{name}` from `{path}` in words.",
        "I am reading `{path}`. What is the {what} `{name}` for?",
    ),
    "explain type": (
        "Explain what the {what} `{name}` in `{path}` is for.",
        "What does the {what} `{name}` from `{path}` represent?",
        "Describe the purpose of the {what} `{name}` in `{path}`.",
        "I am reading `{path}`. What is the {what} `{name}`?",
    ),
    "explain section": (
        "What does the documentation say about the {what} `{name}` from `{path}`?",
        "How is the {what} `{name}` from `{path}` meant to be used?",
        "Explain the {what} `{name}` in `{path}` and how it is used.",
    ),
    "explain commit": (
        "Explain why this change to `{path}` was made.",
        "What does this change to `{path}` do, and why?",
        "Describe this change to `{path}` for a reviewer.",
        "Write the commit message for this change to `{path}`.",
    ),
    "explain module": (
        "What is the module `{path}` for?",
        "Describe what `{path}` provides.",
        "Give an overview of the module `{path}`.",
    ),
    "complete body": (
        "Complete the {what} `{name}` from `{path}`.",
        "Write the body of the {what} `{name}` in `{path}`.",
        "Implement the {what} `{name}` of `{path}`.",
        "Fill in the implementation of the {what} `{name}` from `{path}`.",
    ),
    "complete rest": (
        "Continue the {what} `{name}` from `{path}`.",
        "Finish the {what} `{name}` in `{path}` from where it stops.",
        "The beginning of the {what} `{name}` from `{path}` is given. Write the rest.",
    ),
    "document": (
        "Write the {form} of the {what} `{name}` in `{path}`.",
        "Document the {what} `{name}` from `{path}` with a {form}.",
        "The {what} `{name}` in `{path}` has no {form}. Write one.",
        "Add a {form} to the {what} `{name}` from `{path}`.",
    ),
    "test": (
        "Write a test for the {what} `{name}` from `{path}`.",
        "How is the {what} `{name}` in `{path}` tested? Write one test.",
        "Write a unit test called `{test}` for the {what} `{name}` of `{path}`.",
        "Cover the {what} `{name}` from `{path}` with a test.",
    ),
    "commit": (
        "Change `{path}` as this commit message says, and answer with a unified diff: {message}",
        "Write the unified diff for `{path}` that does this: {message}",
        "Apply this change to `{path}` and show the diff: {message}",
        "Make this commit to `{path}`, as a patch: {message}",
    ),
    "question": (
        "What does `{path}` say about \"{heading}\"?",
        "Tell me about \"{heading}\" as documented in `{path}`.",
        "Look up \"{heading}\" in `{path}` and answer from it.",
        "In the documentation (`{path}`), what is written under \"{heading}\"?",
    ),
    "question asked": (
        "{heading}",
        "{heading} (See `{path}`.)",
    ),
    "question how": (
        "How do I {heading}? The answer stands in `{path}`.",
        "Show me how to {heading}, as `{path}` describes it.",
        "I want to {heading}. What does `{path}` tell me to do?",
    ),
}  # fmt: skip


def phrase(kind: str, seed: int, key: str, **names: str) -> str:
    """One of the kind's phrases, always the same one for a seed and a key."""
    options = _PHRASES[kind]
    chosen: str = seeded(seed, "phrase", kind, key).choice(options)
    return chosen.format(**names)
