"""What both sides share, in NumPy alone: data, schedule, weights, history."""
