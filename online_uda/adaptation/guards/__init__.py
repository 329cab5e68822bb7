"""Guards: what keeps a method from predicting with weights that are worse than the frozen network's."""
