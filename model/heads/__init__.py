"""What turns hidden states into tokens, bins or action chunks."""
