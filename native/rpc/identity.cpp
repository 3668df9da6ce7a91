// See identity.h.

#include "identity.h"

#include "ggml-impl.h"

#include <vector>

#ifndef LLAMA_DFLASH_VERSION
#  define LLAMA_DFLASH_VERSION "of an unknown version"
#endif
#ifndef LLAMA_DFLASH_LLAMA_CPP
#  define LLAMA_DFLASH_LLAMA_CPP "of an unknown commit"
#endif

static constexpr size_t MAX_NAME = 256; // bytes

const char * rpc_build() {
    static const std::string name = "llama-dflash " LLAMA_DFLASH_VERSION " (llama.cpp " LLAMA_DFLASH_LLAMA_CPP ", " +
        std::to_string(GGML_OP_COUNT) + " ops)";
    return name.c_str();
}

// Framed as ggml's messages: | size (8 bytes) | name |, a request with its command, the mark, before that.
static bool send_name(socket_t & sock, bool as_request) {
    const std::string name = rpc_build();
    const uint64_t    size = name.size();
    std::vector<uint8_t> message(as_request ? 1 : 0, RPC_BUILD_MARK);
    message.insert(message.end(), (const uint8_t *) &size, (const uint8_t *) (&size + 1));
    message.insert(message.end(), name.begin(), name.end());
    return sock.send_data(message.data(), message.size()) && sock.flush();
}

static bool recv_name(socket_t & sock, bool as_request, std::string & name) {
    uint8_t  mark = 0;
    uint64_t size = 0;
    if (as_request && (!sock.recv_data(&mark, 1) || mark != RPC_BUILD_MARK)) {
        return false;
    }
    if (!sock.recv_data(&size, sizeof(size)) || size > MAX_NAME) {
        return false;
    }
    name.resize(size);
    return sock.recv_data(&name[0], size);
}

static std::string versions_differ(const std::string & endpoint, const std::string & found) {
    return "the RPC worker " + endpoint + " is " + found + ", and this is " + rpc_build() + ". Start it with `llama-dflash "
        "rpc-server` of the same version of llama-dflash";
}

std::string rpc_meet_worker(socket_t & sock, const std::string & endpoint, const std::string & protocol, uint8_t mark) {
    if (mark != RPC_BUILD_MARK) {
        return versions_differ(endpoint, "a stock llama.cpp (RPC protocol " + protocol + ")");
    }
    std::string found;
    if (!send_name(sock, true) || !recv_name(sock, false, found)) {
        return "the RPC worker " + endpoint + " closed the connection, or did not say which build it is";
    }
    return found == rpc_build() ? "" : versions_differ(endpoint, found);
}

bool rpc_meet_client(socket_t & sock) {
    std::string found;
    if (!recv_name(sock, true, found)) {
        GGML_LOG_ERROR("refused a client that is no llama-dflash (this is %s)\n", rpc_build());
        return false;
    }
    if (!send_name(sock, false)) {
        return false;
    }
    if (found != rpc_build()) {
        GGML_LOG_ERROR("refused a client that is %s (this is %s)\n", found.c_str(), rpc_build());
        return false;
    }
    return true;
}
