"""`python -m cermet`."""

from cermet.cli.app import main

if __name__ == "__main__":
    main()
