#include "server-prompt-files.h"

#include "server-task.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <vector>

namespace fs = std::filesystem;

static constexpr char magic[]  = "llama-dflash prompt 1\n";
static constexpr char suffix[] = ".prompt";

struct server_prompt_files::file {
    fs::path      path;
    size_t        n_bytes;
    server_tokens tokens;
};

//
// a file: its magic, what model it is of, and parts
//

namespace {
class writer {
public:
    explicit writer(const fs::path & path) : out(path, std::ios::binary) {}

    template<typename T> void number(T value) { bytes(&value, sizeof(value)); }

    template<typename T> void part(const std::vector<T> & data) {
        number<uint64_t>(data.size()*sizeof(T));
        bytes(data.data(), data.size()*sizeof(T));
    }

    void bytes(const void * data, size_t n) { out.write(static_cast<const char *>(data), (std::streamsize) n); }

    bool close() {
        out.close();
        return (bool) out;
    }

private:
    std::ofstream out;
};

// Throws std::runtime_error where a file ends too early.
class reader {
public:
    explicit reader(const fs::path & path) : in(path, std::ios::binary), n_left(fs::file_size(path)) {}

    template<typename T> T number() {
        T value;
        bytes(&value, sizeof(value));
        return value;
    }

    template<typename T> std::vector<T> part() {
        const uint64_t n = number<uint64_t>();
        if (n > n_left || n % sizeof(T) != 0) {
            throw std::runtime_error("it is damaged");
        }
        std::vector<T> data(n/sizeof(T));
        bytes(data.data(), n);
        return data;
    }

    void bytes(void * data, size_t n) {
        if (n > n_left || !in.read(static_cast<char *>(data), (std::streamsize) n)) {
            throw std::runtime_error("it is damaged");
        }
        n_left -= n;
    }

private:
    std::ifstream in;
    uint64_t      n_left;
};
}

static void write_state(writer & out, uint64_t model, const std::vector<char> & tokens, const server_prompt_cache_state & state) {
    out.bytes(magic, strlen(magic));
    out.number(model);
    out.part(tokens);
    out.part(state.data.main);
    out.part(state.data.drft);
    out.number<uint64_t>(state.prompt.checkpoints.size());
    for (const common_prompt_checkpoint & checkpoint : state.prompt.checkpoints) {
        out.number(checkpoint.n_tokens);
        out.number(checkpoint.pos_min);
        out.number(checkpoint.pos_max);
        out.part(checkpoint.data_tgt);
        out.part(checkpoint.data_dft);
        out.part(checkpoint.data_spec);
    }
}

// False if it is none of ours, or of another model.
static bool read_head(reader & in, uint64_t model) {
    std::string found(strlen(magic), '\0');
    in.bytes(&found[0], found.size());
    return found == magic && in.number<uint64_t>() == model;
}

static common_prompt_checkpoint read_checkpoint(reader & in) {
    common_prompt_checkpoint result = {};
    result.id_task   = -1;
    result.n_tokens  = in.number<int64_t>();
    result.pos_min   = in.number<llama_pos>();
    result.pos_max   = in.number<llama_pos>();
    result.data_tgt  = in.part<uint8_t>();
    result.data_dft  = in.part<uint8_t>();
    result.data_spec = in.part<uint8_t>();
    return result;
}

//
// what states depend on
//

static uint64_t hash_of(const std::string & text) { // FNV-1a
    uint64_t hash = 0xcbf29ce484222325;
    for (const char c : text) {
        hash = (hash ^ (uint8_t) c)*0x100000001b3;
    }
    return hash;
}

static std::string identity(const std::string & path) {
    std::error_code error;
    const auto size = fs::file_size(path, error);
    const auto time = fs::last_write_time(path, error);
    return path + " " + std::to_string(size) + " " + std::to_string(time.time_since_epoch().count()) + "\n";
}

static uint64_t hash_of_model(const common_params & params) {
    std::string text = identity(params.model.path) + identity(params.mmproj.path);
    for (const auto & lora : params.lora_adapters) {
        text += identity(lora.path) + std::to_string(lora.scale) + "\n";
    }
    text += std::to_string(params.cache_type_k) + " " + std::to_string(params.cache_type_v) + " " + std::to_string(params.swa_full);
    return hash_of(text);
}

//
// files
//

std::string server_prompt_files::misfits(const common_params & params) {
    if (params.slot_save_path.empty()) {
        return "--cache-disk needs a folder to write to: give --slot-save-path";
    }
    if (params.cache_ram_mib == 0) {
        return "--cache-disk takes what no longer fits into --cache-ram, which must not be 0";
    }
    return "";
}

server_prompt_files::server_prompt_files(const common_params & params) :
        folder(params.slot_save_path), limit((size_t) params.cache_disk_mib*1024*1024), model(hash_of_model(params)),
        has_mtmd(!params.mmproj.path.empty()) {
    find_files();
    make_room(0);
    SRV_INF("prompts on disk: %zu in %s, limit %d MiB\n", files.size(), folder.c_str(), params.cache_disk_mib);
}

server_prompt_files::~server_prompt_files() = default;

void server_prompt_files::find_files() {
    std::vector<fs::path> paths;
    for (const auto & entry : fs::directory_iterator(folder)) {
        if (entry.is_regular_file() && entry.path().extension() == suffix) {
            paths.push_back(entry.path());
        }
    }
    std::sort(paths.begin(), paths.end(), [](const fs::path & a, const fs::path & b) { return fs::last_write_time(a) < fs::last_write_time(b); });
    for (const fs::path & path : paths) {
        try {
            reader in(path);
            if (read_head(in, model)) {
                files.push_back({ path, fs::file_size(path), server_tokens::deserialize(in.part<llama_token>(), has_mtmd) });
            }
        } catch (const std::exception & e) {
            SRV_WRN("prompts on disk: %s is left alone: %s\n", path.c_str(), e.what());
        }
    }
}

void server_prompt_files::make_room(size_t n_bytes) {
    size_t n = n_bytes;
    for (const file & file : files) {
        n += file.n_bytes;
    }
    while (!files.empty() && n > limit) {
        n -= files.front().n_bytes;
        std::error_code ignored;
        fs::remove(files.front().path, ignored);
        files.pop_front();
    }
}

void server_prompt_files::put(const server_prompt_cache_state & state) {
    try {
        if (state.size() > limit) {
            return;
        }
        make_room(state.size());
        const std::vector<char> tokens = state.prompt.tokens.serialize();
        char name[32];
        snprintf(name, sizeof(name), "%016llx", (unsigned long long) hash_of({ tokens.begin(), tokens.end() }));
        const fs::path path = fs::path(folder) / (std::string(name) + suffix);
        const fs::path part = path.string() + ".part";
        writer out(part);
        write_state(out, model, tokens, state);
        if (!out.close()) {
            fs::remove(part);
            throw std::runtime_error("it could not be written");
        }
        fs::permissions(part, fs::perms::owner_read | fs::perms::owner_write); // they hold what users wrote
        fs::rename(part, path);
        files.remove_if([&](const file & file) { return file.path == path; });
        files.push_back({ path, fs::file_size(path), state.prompt.tokens.clone() });
    } catch (const std::exception & e) {
        SRV_WRN("prompts on disk: a prompt of %d tokens is dropped: %s\n", state.prompt.n_tokens(), e.what());
    }
}

std::optional<server_prompt_cache_state> server_prompt_files::take(const server_tokens & tokens, float f_keep, float f_sim) {
    auto best = files.end();
    for (auto it = files.begin(); it != files.end(); ++it) {
        const size_t n_common = it->tokens.get_common_prefix(tokens);
        const float  keep     = (float) n_common/it->tokens.size();
        const float  sim      = (float) n_common/tokens.size();
        if (keep >= 0.25f && keep > f_keep && sim > f_sim) { // as in memory
            best   = it;
            f_keep = keep;
            f_sim  = sim;
        }
    }
    if (best == files.end()) {
        return std::nullopt;
    }
    const fs::path path = best->path;
    std::optional<server_prompt_cache_state> result;
    try {
        reader in(path);
        if (!read_head(in, model)) {
            throw std::runtime_error("it was replaced");
        }
        server_prompt_cache_state state;
        state.prompt.tokens = server_tokens::deserialize(in.part<llama_token>(), has_mtmd);
        state.data.main     = in.part<uint8_t>();
        state.data.drft     = in.part<uint8_t>();
        for (uint64_t n = in.number<uint64_t>(); n > 0; --n) {
            state.prompt.checkpoints.push_back(read_checkpoint(in));
        }
        result = std::move(state);
    } catch (const std::exception & e) {
        SRV_WRN("prompts on disk: %s can't be read: %s\n", path.c_str(), e.what());
    }
    files.erase(best);
    std::error_code ignored;
    fs::remove(path, ignored);
    return result;
}
