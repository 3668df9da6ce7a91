// `tool_choice` that names a tool, which llama.cpp reads as "auto".
#pragma once

#include "server-common.h"

// Of a chat request whose tool_choice is an object (OpenAI's {"type": "function", "function": {"name": ...}}, or with the name
// beside the type, as in /v1/responses): leaves that tool alone, required. Throws std::invalid_argument if there is no such tool.
void server_force_tool(json & body);
