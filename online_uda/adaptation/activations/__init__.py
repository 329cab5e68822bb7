"""What a step's graph keeps for its backward pass: no more than it needs, or less at a price."""
