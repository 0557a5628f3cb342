"""What the command `engine` can do, a file for each kind of verb. Heavy modules are imported when a verb runs."""
