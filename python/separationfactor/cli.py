"""The command `separationfactor`, which is part of the laboratory."""

from separationfactor_lab.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
