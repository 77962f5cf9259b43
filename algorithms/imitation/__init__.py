"""What algorithms that imitate decisions share: reservoirs and their adder, networks, policies, losses, learner."""
