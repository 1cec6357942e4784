"""Run the command line as `python -m ratelease.cli`."""

from ratelease.cli import main

if __name__ == "__main__":
    main()
