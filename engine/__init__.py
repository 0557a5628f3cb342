"""Recipes in, weights out: the training engine. Importing it costs nothing; each file imports what it uses."""
