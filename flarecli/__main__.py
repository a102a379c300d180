"""``python -m flarecli`` is ``flare``."""

from flarecli.cli.app import main

if __name__ == "__main__":
    main()
