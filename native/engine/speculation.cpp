// One round of speculation, from top to bottom.

#include "speculation.h"

#include "sampling.h"
#include "top-sampling.h"
#include "tree/best-nodes.h"

#include "llama-tree.h"

#include <algorithm>
#include <iterator>
#include <new>
#include <sstream>
#include <stdexcept>
#include <string>

// the largest tree that "auto" considers: with its root, fewer queries than those from which llama.cpp computes attention in tiles,
// and rounds otherwise than plain decoding
static constexpr int32_t max_auto_nodes = 62;

int32_t speculation::most_nodes(const llama_dflash_params & params) {
    return params.budget > 0 ? params.budget : max_auto_nodes;
}

bool speculation::keeps_outputs_on_device(const llama_context * target, const llama_dflash_params & params) {
    return params.device_outputs < 0 ? llama_tree_outputs_on_device(llama_get_model(target)) : params.device_outputs > 0;
}

speculation::speculation(llama_context * target, std::vector<std::unique_ptr<drafter>> given, const llama_dflash_params & params) :
        drafts(std::move(given), params.n_lanes, params.calibrated != 0), trees(llama_tree_supported(target)), target(target),
        params(params), device_outputs(keeps_outputs_on_device(target, params)), stats(params.n_lanes) {
    for (int32_t id = 0; id < params.n_lanes; ++id) {
        lanes.emplace_back(id);
    }
    const int32_t n_nodes = std::min(params.n_lanes*(most_nodes(params) + 1), (int32_t) llama_n_ubatch(target));
    if (trees && llama_tree_reserve(target, n_nodes, std::min(drafts.max_depth(), n_nodes - 1)) != 0) {
        throw std::runtime_error(llama_tree_last_error());
    }
    n_wanted = device_outputs ? 1 : 0;
    fetch(n_wanted); // the last: no destructor takes it back if this throws
}

speculation::~speculation() {
    for (lane & lane : lanes) {
        if (lane.is_walking()) {
            abandon(target, lane);
        }
    }
    llama_tree_set_top(target, 0);
}

lane & speculation::lane_of(int32_t id) {
    if (id < 0 || id >= (int32_t) lanes.size()) {
        throw std::out_of_range("there is no lane " + std::to_string(id) + ", only 0 to " + std::to_string((int32_t) lanes.size() - 1));
    }
    return lanes[id];
}

//
// a round
//

round_status speculation::start(const std::vector<round_request> & requests) {
    for (const lane & lane : lanes) {
        settle(lane.id);
    }
    clock.start();
    begin(requests);
    fetch(n_wanted);

    propose();
    choose();
    const round_status status = verify(target, round, trees);
    clock.end_phase(LLAMA_DFLASH_PHASE_VERIFY);

    if (status == round_status::done) {
        n_walking = (int32_t) round.size();
        drafts.target_decoded();
    }
    return status;
}

sampled_token speculation::next(int32_t id, llama_sampler * sampler, llama_dflash_choice choice) {
    const int32_t row = this->row(id);
    want(choice);
    return sampled(id, sample_at(target, row, n_top, sampler, choice));
}

int32_t speculation::row(int32_t id) {
    lane & lane = lane_of(id);
    const int32_t node = enter(lane);
    clock.resume();
    return lane.row(node);
}

llama_token speculation::decided(int32_t id, llama_sampler * sampler, llama_dflash_choice choice) {
    const int32_t row = this->row(id);
    want(choice);
    return decided_at(target, row, n_top, sampler, choice);
}

sampled_token speculation::sampled(int32_t id, llama_token sampled) {
    lane & lane = lane_of(id);
    const llama_token   token  = taken(lane, enter(lane), sampled);
    const sampled_token result = lane.sampled(token, is_last(lane, token));
    clock.end_phase(LLAMA_DFLASH_PHASE_SAMPLE);
    if (result.child < 0) {
        finish(lane, false);
    }
    return result;
}

int32_t speculation::settle(int32_t id) {
    lane & lane = lane_of(id);
    if (lane.is_walking()) {
        clock.resume();
        finish(lane, true);
    }
    return lane.n_after();
}

void speculation::begin(const std::vector<round_request> & requests) {
    round.clear();
    for (const round_request & request : requests) {
        lane & lane = lane_of(request.lane);
        if (std::find(round.begin(), round.end(), &lane) != round.end()) {
            throw std::invalid_argument("lane " + std::to_string(request.lane) + " is named twice in one round");
        }
        lane.begin(request, synthetic.on() ? std::min(synthetic.next_length(), request.n_max) : request.n_max);
        round.push_back(&lane);
    }
    cut_short = false;
    n_walking = 0;
}

//
// draft
//

// A number of lanes that is new begins with what is known of the one that is nearest.
auto_budget & speculation::budget() {
    const auto above = budgets.lower_bound(round.size());
    if (above != budgets.end() && above->first == round.size()) {
        return above->second;
    }
    if (budgets.empty()) {
        return budgets.emplace(round.size(), device_outputs).first->second;
    }
    const bool more   = above == budgets.end() || (above != budgets.begin() && round.size() - std::prev(above)->first <= above->first - round.size());
    const auto nearest = more ? std::prev(above) : above;
    return budgets.emplace(round.size(), nearest->second.for_lanes(more)).first->second;
}

int32_t speculation::room_beside_root(const lane & lane) const {
    const int32_t n_cells  = (int32_t) llama_n_ctx_seq(target) - lane.n_past - 1; // one is the root's
    const int32_t n_ubatch = (int32_t) (llama_n_ubatch(target) - round.size());
    return std::max(0, std::min({ most_nodes(params), n_cells, n_ubatch }));
}

// Gives the lanes the trees that drafters propose: of none, a lane's tree is its root.
void speculation::propose() {
    std::vector<draft_request> requests;
    for (const lane * lane : round) {
        const int32_t n_nodes = room_beside_root(*lane);
        const bool    chain   = !trees || params.mode == LLAMA_DFLASH_MODE_CHAIN;
        requests.push_back({ lane->id, lane->tree.tokens[0], lane->n_past, std::min(lane->n_left - 1, n_nodes), n_nodes, chain, synthetic.on() });
    }
    std::vector<merged_tree> proposed = drafts.propose(requests, is_auto() ? &budget() : nullptr);
    for (size_t i = 0; i < round.size(); ++i) {
        round[i]->take(std::move(proposed[i]));
    }
    drafted = drafts.drafted();
    clock.end_phase(LLAMA_DFLASH_PHASE_DRAFT);
}

// Which of the proposed nodes to verify.
void speculation::choose() {
    std::vector<draft_tree *> proposed;
    for (lane * lane : round) {
        proposed.push_back(&lane->tree);
    }
    int32_t n_nodes = (int32_t) (llama_n_ubatch(target) - round.size());
    if (is_auto() && drafted != 0) {
        n_nodes = std::min(n_nodes, budget().choose(proposed, drafts.seconds(), drafted));
        drafted = n_nodes == 0 && budget().costs_nothing(drafts.seconds()) ? 0 : drafted;
    } else if (!is_auto()) {
        n_nodes = std::min(n_nodes, params.budget*(int32_t) round.size());
    }
    keep_best_nodes(proposed, n_nodes);
    clock.end_phase(LLAMA_DFLASH_PHASE_BUILD);
}

// Before the target's next decode: of every row of logits, the n best entries come to the host.
void speculation::fetch(int32_t n) {
    if (n > 1) {
        llama_tree_set_top_logits(target, n);
    } else {
        llama_tree_set_top(target, n);
    }
    n_top = n;
}

//
// accept
//

// The node where the lane's next token is sampled.
int32_t speculation::enter(lane & lane) {
    if (!lane.is_walking()) {
        throw std::logic_error("no round is going on: start one first");
    }
    return lane.enter();
}

// How much of the next rounds' rows is fetched.
void speculation::want(llama_dflash_choice choice) {
    if (device_outputs && choice == LLAMA_DFLASH_CHOICE_TOP_K) {
        n_wanted = TOP_SAMPLING_ENTRIES; // and so it stays: a change makes graphs anew, which takes longer than a few more entries
    }
}

// What is taken for the token that was sampled at the node.
llama_token speculation::taken(const lane & lane, int32_t node, llama_token token) const {
    const bool on_path = synthetic.on() && (int32_t) lane.path.size() < lane.n_max;
    return on_path ? synthetic.accepted_token(lane.tree, node, token) : token;
}

bool speculation::is_last(const lane & lane, llama_token token) const {
    return (int32_t) lane.tokens.size() + 1 >= lane.n_max || llama_vocab_is_eog(llama_model_get_vocab(llama_get_model(target)), token);
}

//
// commit
//

void speculation::finish(lane & lane, bool early) {
    n_walking -= 1;
    cut_short  = cut_short || early;
    try {
        if (early) {
            lane.stop();
        }
        const std::vector<llama_token> tokens = lane.path_tokens();
        const std::vector<int32_t>     rows   = lane.path_rows();
        drafts.observe({ lane.id, lane.n_past, tokens.data(), rows.data(), (int32_t) rows.size(), 0, true });
        commit(target, lane);
    } catch (const std::exception &) { // no tree stays pending
        abandon(target, lane);
        throw;
    }
    clock.end_phase(LLAMA_DFLASH_PHASE_COMMIT);
    add_counts(lane, stats[lane.id]);
    try {
        learn(lane);
    } catch (const std::bad_alloc &) { // it is of no use to anybody that would be worth an error
    }
}

void speculation::learn(const lane & lane) {
    drafts.learn(lane);
    if (n_walking == 0) {
        learn_of_round();
    }
}

// What an early end would have accepted is unknown, so that nothing can be learned from it about drafts.
void speculation::learn_of_round() {
    const double verify_seconds = clock.seconds[LLAMA_DFLASH_PHASE_VERIFY];
    std::vector<draft_tree *> verified;
    int32_t n_tokens = 0;
    for (lane * lane : round) {
        verified.push_back(&lane->tree);
        n_tokens += (int32_t) lane->tokens.size();
    }
    if (drafted == 0) {
        budget().record_plain((int32_t) round.size(), verify_seconds, clock.total());
    } else if (!cut_short) {
        budget().record_draft(verified, n_tokens, drafts.seconds(), verify_seconds, clock.total(), drafted);
    }
    clock.end_phase(LLAMA_DFLASH_PHASE_OTHER);
    for (const lane * lane : round) {
        add_seconds(stats[lane->id]);
    }
}

//
// numbers
//

void speculation::add_counts(const lane & lane, llama_dflash_stats & sum) const {
    sum.rounds   += 1;
    sum.drafted  += drafted != 0;
    sum.nodes    += lane.tree.n_nodes() - 1;
    sum.accepted += (int64_t) lane.tokens.size() - 1;
    sum.tokens   += (int64_t) lane.tokens.size();
}

// The lanes of a round share its time.
void speculation::add_seconds(llama_dflash_stats & sum) const {
    for (int phase = 0; phase < LLAMA_DFLASH_PHASE_COUNT; ++phase) {
        sum.seconds[phase] += clock.seconds[phase]/round.size();
    }
}

llama_dflash_stats speculation::stats_of(int32_t id) const {
    llama_dflash_stats sum = stats[lane_of(id).id];
    const lane & lane = lane_of(id);
    if (lane.is_walking() && !lane.tokens.empty()) {
        add_counts(lane, sum);
    }
    if (n_walking > 0 && std::find(round.begin(), round.end(), &lane) != round.end()) {
        add_seconds(sum);
    }
    return sum;
}

void speculation::reset_stats(int32_t id) {
    stats[lane_of(id).id] = {};
}

std::string speculation::explain() const {
    if (!is_auto()) {
        return "Every round verifies " + std::to_string(params.budget) + " draft nodes, as the budget says. It is not \"auto\", which looks for what pays.";
    }
    const auto found = round.empty() ? budgets.begin() : budgets.find(round.size()); // of as many lanes as the last round had
    return found == budgets.end() ? auto_budget().explain() : found->second.explain();
}

static const char * const learned_title = "llama-dflash-learned 1";

std::string speculation::learned() const {
    std::ostringstream out;
    out.precision(9);
    out << learned_title << '\n';
    for (const tended_drafter & drafter : drafts.drafters()) {
        out << "drafter ";
        drafter.save(out);
        out << '\n';
    }
    for (const auto & budget : budgets) {
        out << "lanes " << budget.first;
        budget.second.save(out);
        out << '\n';
    }
    return out.str();
}

void speculation::learn_from(const std::string & text) {
    std::istringstream lines(text);
    std::string line;
    if (!std::getline(lines, line) || line != learned_title) {
        throw std::invalid_argument("it begins with \"" + line.substr(0, 40) + "\", expected \"" + learned_title + "\"");
    }
    size_t n_drafters = 0;
    while (std::getline(lines, line)) {
        std::istringstream words(line);
        std::string what;
        size_t n_lanes = 0;
        words >> what;
        const bool good = what == "drafter" ? n_drafters < drafts.drafters().size() && drafts.drafters()[n_drafters++].load(words) :
                          what == "lanes"   ? (words >> n_lanes) && budgets.try_emplace(n_lanes, device_outputs).first->second.load(words) : false;
        if (!good) {
            throw std::invalid_argument("its line \"" + line.substr(0, 40) + "\" is damaged, or of other drafters than these");
        }
    }
    if (n_drafters != drafts.drafters().size()) {
        throw std::invalid_argument("it is of " + std::to_string(n_drafters) + " drafters, these are " + std::to_string(drafts.drafters().size()));
    }
}
