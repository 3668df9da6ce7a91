"""`llama-dflash serve`: llama.cpp's own server, which verifies draft trees, started with good defaults and looked after.

Here live its command line, the checks before it starts, and what is printed of it. The server itself is llama.cpp's
(native/server, patches/0031 and following); llama_dflash/server is another one, llama-cpp-python's.
"""
