"""Runs a script of examples/ with draft trees of so many nodes; 0 for no drafter. The rest is the same in all of them."""

import functools
import runpy
import sys

import llama_dflash

folder, script, budget = sys.argv[1:]
sys.path.insert(0, folder)
import pair  # noqa: E402

pair.DRAFTER = llama_dflash.DFlashDraft(pair.DRAFTER, budget=int(budget)) if int(budget) else None
llama_dflash.Llama = functools.partial(llama_dflash.Llama, flash_attn=True, n_threads=1, n_threads_batch=1)
runpy.run_path(f"{folder}/{script}", run_name="__main__")
