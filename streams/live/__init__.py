"""Streams that are no schedule: cameras, addresses, video files and lists of images."""
