"""The tests. How long they take depends on the machine; see PATIENCE."""

PATIENCE = 1800
"""Seconds after which a process that a test waits for is given up, lest a run of the tests never end. The slowest takes a
minute or two on a quiet machine; how long any takes beside other work is no error."""
