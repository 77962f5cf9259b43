"""What on-policy algorithms share: they learn once from each rollout of the present policy."""
