"""What a check found, as a table, JSON, a page and pictures."""
