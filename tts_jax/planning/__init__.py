"""What a search would take on a machine that is not there: memory, operations, seconds."""
