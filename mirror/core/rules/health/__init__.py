"""What is judged: is it protected, proved, late; and what is told about it."""
