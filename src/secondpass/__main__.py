"""`python -m secondpass` is the command `secondpass`."""

from secondpass.cli import main

if __name__ == "__main__":
    main()
