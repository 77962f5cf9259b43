"""Parts that off-policy actor-critics share: networks, critics, policies, noise, losses, learner and builder."""
