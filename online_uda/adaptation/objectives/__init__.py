"""Losses: functions from logits, labels and features to a scalar."""
