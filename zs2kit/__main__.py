"""Makes ``python -m zs2kit`` the same as ``zs2kit``."""

from zs2kit.cli import main

if __name__ == "__main__":
    main()
