"""A package of somebody else, with a method of its own."""
