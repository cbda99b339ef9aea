"""``python -m trainkit`` is the command line."""

from trainkit.cli import main

if __name__ == "__main__":
    main()
