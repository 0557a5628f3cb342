"""`engine bench`: how fast a recipe is here, part by part, and what limits it."""

RATES = {"data": "data alone", "model": "model alone", "all": "both together"}  # and what tables call them
HANDS = ("eager", "compile", "vitkiln")  # who may compute the same step
