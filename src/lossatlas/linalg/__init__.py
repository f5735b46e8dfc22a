"""Linear algebra and statistics that do not depend on networks."""
