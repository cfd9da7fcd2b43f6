"""``python -m zs2kit`` is ``zs2kit``."""

from zs2kit.cli import main

if __name__ == "__main__":
    main()
