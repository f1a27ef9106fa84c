"""The study "Generative AI Beyond LLMs" (arXiv 2312.14385) again: its tables, figures and every number it states."""
