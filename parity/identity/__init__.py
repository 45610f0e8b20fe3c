"""The same function for all inputs: both graphs over finite fields."""
