// Which build is at the other end. Ops have numbers that differ between builds, and graphs travel by them: only the same
// llama-dflash of the same llama.cpp is accepted.
//
// After ggml's HELLO, in whose answer a worker of ours puts a mark, the client says who it is and the worker answers the
// same. Neither a stock worker, which leaves the mark 0, nor a stock client, which never says it, gets further.
#pragma once

#include "transport.h"

#include <cstdint>
#include <string>

static constexpr uint8_t RPC_BUILD_MARK = 0xdf;

const char * rpc_build(); // "llama-dflash 0.1.0 (llama.cpp 0c1e57098, 106 ops)"

// The client's part. Returns what is wrong with the worker, a sentence; empty: nothing.
std::string rpc_meet_worker(socket_t & sock, const std::string & endpoint, const std::string & protocol, uint8_t mark);

// The worker's part. False: not a client to serve, and the log says so.
bool rpc_meet_client(socket_t & sock);
