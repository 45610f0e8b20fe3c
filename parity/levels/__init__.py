"""The levels of the ladder, from the first input byte to the last weight."""
