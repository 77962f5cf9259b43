"""Parts of on-policy algorithms, which learn once from each rollout of the present policy."""
