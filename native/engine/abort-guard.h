// ggml's abort callback is one for the whole process. While a guard exists, what would be an abort of llama.cpp on the
// guard's own thread is an exception there; other threads abort as ever. Guards of several threads may overlap in time.
#pragma once

class abort_guard {
public:
    abort_guard()  { begin(); }
    ~abort_guard() { end(); }

    abort_guard(const abort_guard &) = delete;

    // for callers in C
    static void begin();
    static void end();
};
