"""``python -m wellposed.cli``: the command, where its script is not on the path."""

from wellposed.cli.main import main

if __name__ == "__main__":
    main()
