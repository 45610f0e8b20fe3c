"""The exercises of the book, answered by many runs."""
