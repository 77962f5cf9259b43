"""What off-policy actor-critics share: networks and critics, policies and noise, losses, learner and builder."""
