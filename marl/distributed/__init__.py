"""Work of several ranks: communicators, flat parameters and gradients, replica checks, the vote to stop."""
