"""What several rooms need: the choice of an implementation, random numbers, argument errors, registration."""
