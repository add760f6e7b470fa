"""What does each command of the shell take? One file per command; what it needs is imported when it runs."""
