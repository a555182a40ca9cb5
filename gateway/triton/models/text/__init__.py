"""From text to the ids that a voice's graphs take."""
