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
def test_install(script, tmp_path):
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
