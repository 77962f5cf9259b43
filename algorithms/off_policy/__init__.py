"""Parts that off-policy algorithms share: configuration, replay and its adder, gradient steps, target networks."""
