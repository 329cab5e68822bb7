"""Labels that a network's own predictions stand in for."""
