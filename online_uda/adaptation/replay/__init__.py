"""Labelled source images kept for replay, and how they are drawn."""
