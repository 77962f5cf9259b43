"""Parts that Q-learners share: networks and mixers, policies, losses, learner and builder."""
