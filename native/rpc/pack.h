// Messages made shorter: attention masks, and descriptions of graphs, are mostly runs of the same word.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

// Packs a message into `out`. False if that would not make it shorter by a quarter at least, or it is too long to try.
bool rpc_pack(const void * data, size_t size, std::vector<uint8_t> & out);

// The message again, in place of the packed one. False if that is damaged.
bool rpc_unpack(std::vector<uint8_t> & message);
