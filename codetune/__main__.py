"""`python -m codetune` is the command line."""

from codetune.cli.main import main

if __name__ == "__main__":
    main()
