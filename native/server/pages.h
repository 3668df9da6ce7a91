// The pages of llama-dflash's server, from pages/*.html: CMake writes their texts into pages.cpp.
#pragma once

#include <vector>

struct server_page {
    const char * path;
    const char * html;
};

const std::vector<server_page> & server_pages();

// Nothing but what is in the page, and this server's API. (A Content-Security-Policy.)
constexpr const char * server_page_policy =
    "default-src 'none'; connect-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
