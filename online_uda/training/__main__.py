"""``python -m online_uda.training``: train a source network from labelled images."""

from online_uda.training.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
