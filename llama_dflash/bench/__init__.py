"""Measures plain decoding, chains and draft trees on the same prompts: `llama-dflash bench`.

`prompts` reads what to go on after, `methods` are the ways of decoding, `measure` runs all of them prompt by prompt and
`results` keeps what they did, as `results.schema.json` says; `summary` makes the numbers that `tables` and `plots` show.
`command` is the command line. What only measures this repository is in its folder benchmarks/.
"""
