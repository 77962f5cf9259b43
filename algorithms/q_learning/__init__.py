"""What Q-learners of teams share: networks and mixers, policies, losses, learner and builder."""
