"""Replay a domain schedule, or watch a camera, through a network that keeps learning."""

from online_uda.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
