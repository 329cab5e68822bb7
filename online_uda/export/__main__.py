"""``python -m online_uda.export``: a network or the result of a run as an ONNX file."""

from online_uda.export.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
