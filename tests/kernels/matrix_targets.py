"""The GPUs of the compile matrix; imports no Triton."""

TARGETS = ("sm80", "sm90", "sm100", "gfx942")
