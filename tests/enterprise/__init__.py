"""The second floor: databases, and what stands on them."""
