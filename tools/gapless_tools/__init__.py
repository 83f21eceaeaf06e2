"""The `gapless` command and what stands behind it."""
