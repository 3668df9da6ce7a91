#include "forced-tool.h"

#include <stdexcept>

static std::string name_in(const json & object) {
    const json inner = json_value(object, "function", json::object());
    return json_value(inner, "name", json_value(object, "name", std::string()));
}

void server_force_tool(json & body) {
    if (!body.contains("tool_choice") || !body.at("tool_choice").is_object()) {
        return;
    }
    const std::string name = name_in(body.at("tool_choice"));
    const json tools = json_value(body, "tools", json::array());
    for (const json & tool : tools) {
        if (!name.empty() && name_in(tool) == name) {
            body["tools"]       = json::array({ tool });
            body["tool_choice"] = "required";
            return;
        }
    }
    throw std::invalid_argument("tool_choice names \"" + name + "\", which is none of the tools");
}
