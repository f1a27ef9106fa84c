"""Three counts of an operator's FLOPs, which differ where a causal mask hides pairs of query and key.

- `Op.flops`: the operator's own. Attention counts all n x m pairs, as torch's FlopCounterMode does.
- `model_flops`: without the hidden pairs, whatever the kernel does: what the model asks for. MFU counts these.
- `executed_flops`: without them where the kernel skips them (fused attention), with them where it computes the
  whole matrix (the baseline). Rates, the sentences and the roofline count these: no kernel exceeds its peak.
"""

from __future__ import annotations

from fractions import Fraction

from minimodels.sim.profile import Attention, Op

Exact = int | Fraction
UNFUSED = ("baseline", "math")  # attention backends that compute every pair


def exact(value: Exact) -> Exact:
    """`value` as an int where it is whole."""
    return int(value) if value == int(value) else value


def visible(facts: Attention) -> Fraction:
    """The share of the query-key pairs that a causal mask leaves; it aligns the last query with the last key."""
    n, m = facts.query_length, facts.key_length
    if not facts.causal:
        return Fraction(1)
    pairs = n * m - n * (n - 1) // 2 if n <= m else m * (m + 1) // 2
    return Fraction(pairs, n * m)


def model_flops(op: Op) -> Exact:
    """FLOPs of one execution without the pairs that a causal mask hides; 0 where unknown."""
    flops = op.flops or 0
    return exact(flops * visible(op.attention)) if flops and op.attention is not None else flops


def executed_flops(op: Op) -> Exact:
    """FLOPs that the kernels of one execution compute; 0 where unknown."""
    whole = op.attention is None or op.attention.backend in UNFUSED
    return op.flops or 0 if whole else model_flops(op)
