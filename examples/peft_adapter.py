"""An adapter on texts of one's own, from Python.

python peft_adapter.py FOLDER-WITH-TEXTS [--model nano] [--question "What is …?"]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from codetune import FineTuningConfig, PEFTAdapterManager


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("documents", type=Path, help="a folder with .md and .txt files")
    arguments.add_argument("--model", default="microsoft/DialoGPT-medium")
    arguments.add_argument("--epochs", type=float, default=3)
    arguments.add_argument("--question", default="What is artificial intelligence?")
    given = arguments.parse_args()
    files = sorted(file for end in ("*.md", "*.txt") for file in given.documents.rglob(end))
    documents = [file.read_text() for file in files]

    # Initialize configuration
    config = FineTuningConfig(
        model_name=given.model,
        num_epochs=given.epochs,
        learning_rate=2e-4,
    )

    # Create manager
    manager = PEFTAdapterManager(config)

    # Setup and train
    success = manager.setup_fine_tuning_pipeline(documents)
    if success:
        summary = manager.train_model()
        print(f"Loss on texts held out: {summary['validation']['first']:.3f}", end="")
        print(f" → {summary['validation']['best']:.3f}")

    # Query the fine-tuned model
    response = manager.generate_response(given.question)
    print(response)


if __name__ == "__main__":
    main()
