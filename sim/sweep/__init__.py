"""Sweeps: many variants of one architecture, simulated, kept, drawn, and searched for the largest that fits.

`grid` says which variants there are, `point` what one of them costs, `runner` works through them over processes,
`ledger` keeps what is finished in a file, `budget` searches; `metrics`, `listing` and `pictures` show.
"""
