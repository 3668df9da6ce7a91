# What -march=native needs beside it.

# Whether AMX may be used. A CPU can report AMX while its kernel (or a virtual
# machine around it) refuses the tile registers: -march=native then builds a
# library that dies with SIGILL at the first large matrix product. Flags cannot
# tell, so a small program asks the kernel for the registers and uses them.

set(LLAMA_DFLASH_AMX_PROBE "${CMAKE_CURRENT_LIST_DIR}/amx_probe.c"
    CACHE INTERNAL "program that exits with 0 where AMX works")

# Sets `out` to the compiler flags that `arch_flags` needs beside it: none, or
# those that turn AMX off again because it does not run here.
function(llama_dflash_amx_flags out arch_flags)
    set(${out} "" PARENT_SCOPE)
    if(MSVC OR CMAKE_CROSSCOMPILING)
        return()
    endif()
    include(CheckCSourceCompiles)
    set(CMAKE_REQUIRED_FLAGS "${arch_flags}")
    set(CMAKE_REQUIRED_QUIET ON)
    check_c_source_compiles("
        #ifndef __AMX_TILE__
        #error no AMX
        #endif
        int main(void) { return 0; }" LLAMA_DFLASH_COMPILER_USES_AMX)
    if(NOT LLAMA_DFLASH_COMPILER_USES_AMX)
        return()
    endif()

    if(NOT DEFINED LLAMA_DFLASH_AMX_RUN)
        # the probe exits with an error, or dies, where AMX does not work
        try_run(LLAMA_DFLASH_AMX_RUN LLAMA_DFLASH_AMX_COMPILED
            "${CMAKE_BINARY_DIR}/amx_probe" "${LLAMA_DFLASH_AMX_PROBE}"
            COMPILE_DEFINITIONS ${arch_flags})
    endif()
    if(LLAMA_DFLASH_AMX_COMPILED AND LLAMA_DFLASH_AMX_RUN EQUAL 0)
        message(STATUS "AMX: works on this machine, used")
    else()
        message(STATUS "AMX: reported by the CPU but does not run on this machine, turned off")
        set(${out} -mno-amx-tile -mno-amx-int8 -mno-amx-bf16 PARENT_SCOPE)
    endif()
endfunction()

# Sets `out` to a flag that names what -march=native stands for on this machine. ccache before 4.9
# and ninja see the words only, and would reuse objects that were compiled for another CPU.
function(llama_dflash_native_cpu_flag out)
    set(${out} "" PARENT_SCOPE)
    if(MSVC)
        return()
    endif()
    file(WRITE "${CMAKE_BINARY_DIR}/empty.c" "")
    execute_process(
        COMMAND "${CMAKE_C_COMPILER}" -march=native -dM -E "${CMAKE_BINARY_DIR}/empty.c"
        OUTPUT_VARIABLE macros RESULT_VARIABLE result ERROR_QUIET)
    if(result EQUAL 0)
        string(SHA256 cpu "${macros}")
        string(SUBSTRING "${cpu}" 0 12 cpu)
        set(${out} -frandom-seed=${cpu} PARENT_SCOPE) # a flag that changes nothing else
    endif()
endfunction()
