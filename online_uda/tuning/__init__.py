"""Finds a method and its settings for a network before it is deployed, on streams made of labelled source frames."""
