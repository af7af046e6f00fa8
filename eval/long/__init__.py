"""Long contexts: facts to be found again in them, and how the loss falls along them."""
