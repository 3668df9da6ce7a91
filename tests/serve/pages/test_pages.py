"""The pages of the server, in a headless browser, over real trees."""

import contextlib
import threading
import time

import pytest
from browser import MISSING, NoBrowser, browser

KEY = "secret"
BODY = {"prompt": "the digits: 0123", "n_predict": 40, "temperature": 0, "id_slot": 1}


@pytest.fixture(scope="module")
def chromium():
    with contextlib.ExitStack() as stack:
        try:
            made = stack.enter_context(browser())
        except NoBrowser:
            pytest.skip(MISSING)
        yield made


@pytest.fixture(params=["light", "dark"])
def scheme(request):
    return request.param


@pytest.fixture
def page(chromium, scheme):
    """A page whose errors, and requests to anybody but the server, are in `page.problems`."""
    context = chromium.new_context(color_scheme=scheme, viewport={"width": 1100, "height": 800})
    page = context.new_page()
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: page.problems.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: request.url.startswith(("http://127.0.0.1:", "data:")) or page.problems.append(request.url))
    yield page
    context.close()


@pytest.fixture(scope="module")
def locked(start, pair):
    return start("-m", pair.target, "--draft-model", "ngram", "--api-key", KEY)


def last_tree(server, slot=1):
    return server.http.get(f"{server.url}/slots").json()[slot]["speculative"]


def test_a_slots_last_tree_is_drawn_as_the_server_tells_it(trees, page):
    assert trees.http.post(f"{trees.url}/completion", json=BODY).status_code == 200
    page.goto(f"{trees.url}/tree")
    page.wait_for_selector("#slot-1 .node")
    told = last_tree(trees)
    nodes = told["tree"]["nodes"]
    assert len(nodes) > 1 and any(node["accepted"] for node in nodes[1:])

    shown = page.locator("#slot-1 .node")
    assert shown.count() == len(nodes)
    for i, node in enumerate(nodes):
        group = page.locator(f'#slot-1 [data-node="{i}"]')
        assert ("taken" in group.get_attribute("class")) == node["accepted"]
        assert group.locator("text").first.text_content() == node["text"].replace(" ", "␣").replace("\n", "↵")
    assert page.locator("#slot-1 .edge").count() == len(nodes) - 1
    assert page.locator("#slot-1 .edge.taken").count() == sum(node["accepted"] for node in nodes[1:])

    counts = told["acceptance_lengths"]
    assert sum(counts) == told["rounds"]
    assert page.locator("#slot-1 .bar").count() == len(counts)
    numbers = dict(zip(page.locator("#slot-1 dt").all_text_contents(), page.locator("#slot-1 dd").all_text_contents()))
    assert numbers["rounds"] == str(told["rounds"]) and numbers["tokens"] == str(told["tokens"])
    assert numbers["tokens a second"] == f"{told['tokens_per_second']:.1f}"
    assert page.problems == []


def test_it_is_live(trees, page):
    page.goto(f"{trees.url}/tree")
    page.select_option("#pause-between", "250")
    page.wait_for_selector("#slot-1 .state")
    stop = threading.Event()

    def ask():
        while not stop.is_set():
            trees.http.post(f"{trees.url}/completion", json={**BODY, "n_predict": 400, "ignore_eos": True})

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        page.wait_for_selector("#slot-1.busy", timeout=20_000)
        first = page.text_content("#slot-1 .drawn figcaption")
        end = time.monotonic() + 20
        while page.text_content("#slot-1 .drawn figcaption") == first and time.monotonic() < end:
            page.wait_for_timeout(100)
        assert "generating" in page.text_content("#slot-1 .state")
        page.locator("#sum", has_text="1 of 4 generating").wait_for(timeout=20_000)
        assert page.text_content("#slot-1 .drawn figcaption") != first
        page.keyboard.press("p")  # and stays as it is when it is held
        held = page.inner_html("#slot-1")
        page.wait_for_timeout(700)
        assert page.inner_html("#slot-1") == held
    finally:
        stop.set()
        thread.join()
    assert page.problems == []


def test_the_keyboard_goes_from_node_to_node(trees, page):
    trees.http.post(f"{trees.url}/completion", json=BODY)
    page.goto(f"{trees.url}/tree")
    page.wait_for_selector("#slot-1 .node")
    nodes = last_tree(trees)["tree"]["nodes"]
    for _ in range(40):  # with the Tab key alone
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('#slot-1 .tree') !== null"):
            break
    page.keyboard.press("ArrowRight")
    assert "the root" in page.text_content("#slot-1 .about")
    page.keyboard.press("ArrowRight")
    chosen = int(page.get_attribute("#slot-1 .chosen", "data-node"))
    assert nodes[chosen]["parent"] == 0 and f"token {nodes[chosen]['id']}" in page.text_content("#slot-1 .about")
    page.keyboard.press("ArrowLeft")
    assert page.get_attribute("#slot-1 .chosen", "data-node") == "0"
    page.keyboard.press("Escape")
    assert page.locator("#slot-1 .chosen").count() == 0


def test_texts_can_be_read_in_both_colour_schemes(trees, page):
    trees.http.post(f"{trees.url}/completion", json=BODY)
    page.goto(f"{trees.url}/tree")
    page.wait_for_selector("#slot-1 .node.taken")
    pairs = [
        ("body", "color", "body", "backgroundColor"),
        ("dt", "color", "section", "backgroundColor"),
        (".node text", "fill", ".node:not(.taken) rect", "fill"),
        (".node .small", "fill", ".node:not(.taken) rect", "fill"),
        (".node.taken text", "fill", ".node.taken rect", "fill"),
        (".node.taken .small", "fill", ".node.taken rect", "fill"),
    ]
    for text, text_colour, ground, ground_colour in pairs:
        colours = [
            page.evaluate("([at, name]) => getComputedStyle(document.querySelector(at))[name]", [at, name])
            for at, name in ((text, text_colour), (ground, ground_colour))
        ]
        assert contrast(*colours) >= 4.5, (text, ground, colours)


def contrast(a: str, b: str) -> float:
    """Of two colours as the browser writes them, after WCAG."""

    def luminance(colour: str) -> float:
        channels = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(a), luminance(b)))
    return (light + 0.05) / (dark + 0.05)


def test_a_key_is_asked_for_where_the_server_wants_one(locked, page):
    page.goto(f"{locked.url}/tree")
    page.wait_for_selector("#key-form:not([hidden])")
    page.fill("#key", "wrong")
    page.keyboard.press("Enter")
    page.locator("#message", has_text="not accepted").wait_for()
    page.fill("#key", KEY)
    page.keyboard.press("Enter")
    page.wait_for_selector("#slot-0")
    assert page.is_hidden("#key-form")


def test_instead_of_a_chat_page_there_is_one_that_says_where_to_get_it(trees, page):
    page.goto(trees.url)
    if "llama-dflash serves here" not in page.content():
        pytest.skip("this build has llama.cpp's chat page")
    assert "LLAMA_DFLASH_CHAT_PAGE" in page.text_content("body")
    assert trees.url.removeprefix("http://") in page.text_content("pre")
    page.click("text=Draft trees")
    page.wait_for_selector("#slot-0")
    assert page.url == f"{trees.url}/tree" and page.problems == []
