"""The commands of `llama-dflash`, a module each: its arguments, and what it does with them."""
