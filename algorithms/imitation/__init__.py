"""Parts that imitation shares: reservoirs and their adder, networks, policies, losses, learner."""
