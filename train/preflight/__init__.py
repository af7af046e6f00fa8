"""What is checked on every host before the first step, so that a mistake is told in a line and not met in a hang."""
