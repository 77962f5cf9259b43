"""Parts of learners: returns, losses, the replicated optimizer, schedules, compilation, checks of configurations."""
