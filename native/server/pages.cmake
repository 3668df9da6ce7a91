# Adds what people see of it to llama.cpp's server (patches/0049).
foreach(page tree home)
    set(file "${CMAKE_CURRENT_SOURCE_DIR}/pages/${page}.html")
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${file}")
    file(READ "${file}" ${page}_html)
endforeach()
configure_file(pages.cpp.in pages.cpp @ONLY)

target_sources(server-context PRIVATE
    "${CMAKE_CURRENT_SOURCE_DIR}/forced-tool.cpp" "${CMAKE_CURRENT_SOURCE_DIR}/request-log.cpp" "${CMAKE_CURRENT_BINARY_DIR}/pages.cpp")
