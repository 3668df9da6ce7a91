"""Draft trees and statistics as text and in notebooks."""

from html.parser import HTMLParser

from drafter_models import make_predictable, write_drafter
from models import write_target

from llama_dflash import DFlashDraft, DraftTree, Llama, SpeculativeStats

TREE = DraftTree(
    tokens=[0, 1, 2, 3], parents=[-1, 0, 0, 1], logprobs=[0.0, -0.2231, -1.6094, -0.6931], path=[0, 1], sampled=[1, 4],
    text_of="abc<e".__getitem__,
)  # fmt: skip


class Text(HTMLParser):
    """The text of a page whose tags are all closed."""

    def __init__(self, page):
        super().__init__()
        self.open, self.text = [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data.replace("\xa0", " "))

    def __str__(self):
        return "|".join(self.text)


def test_a_tree_is_drawn_with_its_probabilities_and_its_accepted_path():
    assert str(TREE).splitlines() == [
        "'a'  root: the token sampled before this round",
        "├─ 'b' 0.80  <- accepted",
        "│  └─ '<' 0.50",
        "└─ 'c' 0.20",
        "'e'  sampled by the target where the accepted path ends",
    ]


def test_a_notebook_shows_the_same():
    shown = str(Text(TREE._repr_html_()))
    assert "1 of 3 nodes accepted" in shown
    for line in ("├─ |'b'| 0.80|accepted", "│  └─ |'<'| 0.50", "└─ |'c'| 0.20", "'e'|sampled by the target where the path ends"):
        assert line in shown


def test_a_tree_of_no_model_shows_numbers_and_one_whose_walk_goes_on_no_last_token():
    tree = DraftTree(tokens=[7, 8], parents=[-1, 0], logprobs=[0.0, 0.0], path=[0, 1], sampled=[8])
    assert str(tree).splitlines()[1:] == ["└─ '#8' 1.00  <- accepted"]
    assert str(DraftTree([7], [-1], [0.0], [0], [])) == "'#7'  root: the token sampled before this round"


def test_a_chain_of_a_thousand_nodes_is_drawn():
    n = 1000
    tree = DraftTree(list(range(n)), list(range(-1, n - 1)), [0.0] * n, [0], [])
    assert len(str(tree).splitlines()) == n


def test_the_last_tree_of_a_model_has_its_texts(tmp_path):
    target = make_predictable(write_target(tmp_path / "target.gguf", n_layer=4))
    drafter = write_drafter(tmp_path / "drafter.gguf", target)
    llm = Llama(str(target), draft_model=DFlashDraft(str(drafter), budget=4), n_ctx=256, n_threads=1, verbose=False)
    llm.create_completion("0123", max_tokens=8)
    tree, stats = llm.last_tree, llm.speculative_stats
    assert tree is llm.last_tree and str(tree).count("─ ") == 4 and "'0'" in str(tree)
    shown = str(Text(stats._repr_html_()))
    assert f"{stats.tokens} in {stats.rounds}" in shown and "verify" in shown
    llm.close()
    assert "#" in str(tree) and "'0'" not in str(tree)


def test_statistics_of_nothing_are_shown():
    assert "0 in 0" in str(Text(SpeculativeStats()._repr_html_()))
    assert "drafts <do> pay" in str(Text(SpeculativeStats(why="drafts <do> pay")._repr_html_()))
