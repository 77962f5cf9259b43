"""The subcommands of ``marl`` that neither train nor rate: one file each."""
