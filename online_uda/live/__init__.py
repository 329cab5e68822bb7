"""The live page of a run: pictures, curves, events and buttons for a browser, metrics for Prometheus."""
