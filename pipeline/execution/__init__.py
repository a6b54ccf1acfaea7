"""Who does the work: a job's units on Ray or in this process."""
