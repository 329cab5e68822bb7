"""When to learn: detectors of domain shift and training budgets."""
