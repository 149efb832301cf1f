"""Flags of CPU kernels."""

# Loops over square roots and selects vectorise only where neither errno nor the floating-point exception flags must be
# kept. Values are the same, NaN and infinity included.
KERNEL_COPTS = [
    "-fno-math-errno",
    "-fno-trapping-math",
]
