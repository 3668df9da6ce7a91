"""install() puts our class where other people's code looks for the stock one."""

import subprocess
import sys

import pytest

SCRIPTS = {
    "code that imports the class later": """
import llama_dflash
llama_dflash.install()
from llama_cpp import Llama
assert Llama is llama_dflash.Llama
""",
    "a module that imported the class by name": """
import sys, types
import llama_dflash
early = types.ModuleType("early")
exec("from llama_cpp import Llama", early.__dict__)
sys.modules["early"] = early
assert early.Llama is not llama_dflash.Llama
llama_dflash.install()
llama_dflash.install()
assert early.Llama is llama_dflash.Llama
""",
    "our class is still built on the stock one": """
import llama_dflash, llama_cpp.llama
llama_dflash.install()
assert llama_cpp.llama.Llama in llama_dflash.Llama.__mro__[1:]
""",
    "grammars are checked, and an argmax is one": """
import sys, llama_dflash, llama_cpp
llama_dflash.install()
llm = llama_cpp.Llama(sys.argv[1], n_ctx=256, n_threads=1, verbose=False)
from llama_dflash import _engine
assert llm._init_sampler(temp=0.0, repeat_penalty=1.0).choice == _engine.ARGMAX
wrong = llama_cpp.LlamaGrammar.from_string("root ::= (", verbose=False)
try:
    llm.create_completion("def f():", max_tokens=4, grammar=wrong)
except ValueError as error:
    assert "the grammar is wrong" in str(error)
else:
    raise AssertionError
""",
    "a stock class replaced by hand is not taken for it": """
import llama_dflash, llama_cpp.llama
llama_cpp.llama.Llama = llama_dflash.Llama
try:
    llama_dflash.install()
except RuntimeError as error:
    assert "replaced by hand" in str(error)
else:
    raise AssertionError
""",
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_install(script, tmp_path, shipped):
    done = subprocess.run([sys.executable, "-c", script, shipped["model_path"]], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
