#!/usr/bin/env bash
# Builds llama.cpp's own llama-server, unpatched, from the llama-cpp-python sdist that this package is built from.
#
#   benchmarks/build_llama_server.sh [FOLDER]     (default: build/llama-server; about 20 minutes on 2 cores)
#
# The sdist comes from where a build of the package takes it: LLAMA_CPP_SDIST, the cache, or the package index.
# CMAKE_ARGS and ccache work as for the package. The server is FOLDER/bin/llama-server.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
out=$(mkdir -p "${1:-$root/build/llama-server}" && cd "${1:-$root/build/llama-server}" && pwd)

version=$(sed -n 's/^set(LLAMA_CPP_PYTHON_VERSION *"\{0,1\}\([0-9.]*\).*/\1/p' "$root/CMakeLists.txt")
sha256=$(grep -oE '[0-9a-f]{64}' "$root/CMakeLists.txt" | head -1)
if [ -z "$version" ] || [ -z "$sha256" ]; then
    echo "build_llama_server.sh: CMakeLists.txt names no version and sha256 of the sdist" >&2
    exit 1
fi

sdist=${LLAMA_CPP_SDIST:-${XDG_CACHE_HOME:-$HOME/.cache}/llama-dflash/llama_cpp_python-$version.tar.gz}
if [ ! -f "$sdist" ]; then
    sdist=$out/llama_cpp_python-$version.tar.gz
    [ -f "$sdist" ] || "${PYTHON:-python3}" -m pip download --no-deps --no-binary llama-cpp-python --dest "$out" \
        "llama-cpp-python==$version"
fi
echo "$sha256  $sdist" | sha256sum --check --quiet || {
    echo "build_llama_server.sh: $sdist is not the sdist that CMakeLists.txt names; delete it to download it anew" >&2
    exit 1
}

source=$out/src/llama_cpp_python-$version/vendor/llama.cpp
[ -d "$source" ] || { mkdir -p "$out/src" && tar -xzf "$sdist" -C "$out/src"; }

launcher=()
if command -v ccache >/dev/null; then
    launcher=(-DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
fi
# shellcheck disable=SC2086  # CMAKE_ARGS is several words
cmake -S "$source" -B "$out" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TOOLS=ON -DLLAMA_BUILD_SERVER=ON \
    -DLLAMA_BUILD_COMMON=ON -DLLAMA_OPENSSL=OFF -DLLAMA_USE_PREBUILT_UI=OFF ${launcher[@]+"${launcher[@]}"} ${CMAKE_ARGS:-}
cmake --build "$out" --target llama-server --parallel "$(nproc)"
echo "$out/bin/llama-server"
