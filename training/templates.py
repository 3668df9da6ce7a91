"""Prompt templates: small Python tasks with worked examples, and general questions.

HUMANEVAL_NAMES lists the benchmark's function names so that prompts.py can refuse them.
"""
import math

HUMANEVAL_NAMES = """has_close_elements separate_paren_groups truncate_number below_zero mean_absolute_deviation intersperse
parse_nested_parens filter_by_substring sum_product rolling_max make_palindrome string_xor longest greatest_common_divisor
all_prefixes string_sequence count_distinct_characters parse_music how_many_times sort_numbers find_closest_elements
rescale_to_unit filter_integers strlen largest_divisor factorize remove_duplicates flip_case concatenate filter_by_prefix
get_positive is_prime find_zero sort_third unique fizz_buzz sort_even decode_cyclic prime_fib triples_sum_to_zero
car_race_collision incr_list pairs_sum_to_zero change_base triangle_area fib4 median is_palindrome modp decode_shift
remove_vowels below_threshold add same_chars fib correct_bracketing monotonic common largest_prime_factor sum_to_n derivative
fibfib vowels_count circular_shift digitSum fruit_distribution pluck search strange_sort_list will_it_fly smallest_change
total_match is_multiply_prime is_simple_power iscube hex_key decimal_to_binary is_happy numerical_letter_grade prime_length
starts_one_ends solve anti_shuffle get_row sort_array encrypt next_smallest is_bored any_int encode skjkasdkd
check_dict_case count_up_to multiply count_upper closest_integer make_a_pile words_string choose_num rounded_avg
unique_digits by_length even_odd_palindrome count_nums move_one_ball exchange histogram reverse_delete odd_count
minSubArraySum max_fill select_words get_closest_vowel match_parens maximum solution add_elements get_odd_collatz valid_date
split_words is_sorted intersection prod_signs minPath tri digits is_nested sum_squares check_if_last_char_is_a_letter
can_arrange largest_smallest_integers compare_one is_equal_to_sum_even special_factorial fix_spaces file_name_check
words_in_sentence simplify order_by_points specialFilter get_max_triples bf sorted_list_sum x_or_y double_the_difference
compare Strongest_Extension cycpattern_check even_odd_count int_to_mini_roman right_angle_triangle find_max eat do_algebra
string_to_md5 generate_integers"""

CONDITIONS = {
    "even": lambda x: x % 2 == 0, "odd": lambda x: x % 2 == 1, "negative": lambda x: x < 0, "nonzero": lambda x: x != 0,
    "two_digit": lambda x: 10 <= abs(x) < 100, "multiple_of_three": lambda x: x % 3 == 0, "multiple_of_five": lambda x: x % 5 == 0,
    "greater_than_ten": lambda x: x > 10, "smaller_than_five": lambda x: x < 5, "square": lambda x: x >= 0 and math.isqrt(x) ** 2 == x}
LIST_OPS = {
    "sum_of": ("int", "the sum of the {c} numbers", sum), "count_of": ("int", "how many numbers are {c}", len),
    "product_of": ("int", "the product of the {c} numbers, or 1 if there are none", math.prod),
    "all": ("List[int]", "a list of the {c} numbers in their original order", list),
    "squares_of": ("List[int]", "the squares of the {c} numbers", lambda v: [x * x for x in v]),
    "largest": ("Optional[int]", "the largest of the {c} numbers, or None if there are none", lambda v: max(v, default=None)),
    "smallest": ("Optional[int]", "the smallest of the {c} numbers, or None if there are none", lambda v: min(v, default=None)),
    "descending": ("List[int]", "the {c} numbers sorted from largest to smallest", lambda v: sorted(v, reverse=True)),
    "doubled": ("List[int]", "the {c} numbers, each multiplied by two", lambda v: [2 * x for x in v]),
    "running_total_of": ("List[int]", "the running totals of the {c} numbers", lambda v: [sum(v[:i + 1]) for i in range(len(v))])}
CHARS = {"vowel": lambda c: c in "aeiouAEIOU", "consonant": lambda c: c.isalpha() and c not in "aeiouAEIOU", "digit": str.isdigit,
         "space": str.isspace, "capital": str.isupper, "lowercase": str.islower, "punctuation": lambda c: not c.isalnum() and not c.isspace()}
STRING_OPS = {
    "tally": ("int", "how many {c} characters there are in the text", lambda s, f: sum(map(f, s))),
    "drop": ("str", "the text without its {c} characters", lambda s, f: "".join(c for c in s if not f(c))),
    "keep": ("str", "only the {c} characters of the text", lambda s, f: "".join(c for c in s if f(c))),
    "star": ("str", "the text with every {c} character replaced by '*'", lambda s, f: "".join("*" if f(c) else c for c in s)),
    "twice": ("str", "the text with every {c} character written twice", lambda s, f: "".join(c * 2 if f(c) else c for c in s)),
    "positions": ("List[int]", "the indices of the {c} characters", lambda s, f: [i for i, c in enumerate(s) if f(c)])}
NUMBER_TASKS = [
    ("digit_product", "n: int", "int", "the product of the decimal digits of n", lambda n: math.prod(map(int, str(n)))),
    ("reverse_number", "n: int", "int", "the number whose digits are those of n in reverse order", lambda n: int(str(n)[::-1])),
    ("proper_divisors", "n: int", "List[int]", "all divisors of n other than n itself, in ascending order", lambda n: [d for d in range(1, n) if n % d == 0]),
    ("triangular_number", "n: int", "int", "the n-th triangular number", lambda n: n * (n + 1) // 2),
    ("collatz_steps", "n: int", "int", "the number of Collatz steps that take n to 1", lambda n: len(bin(n))),
    ("to_base_seven", "n: int", "str", "n written in base seven", lambda n: "".join(str(n // 7 ** k % 7) for k in reversed(range(4)))),
    ("is_leap_year", "year: int", "bool", "True if the year is a leap year in the Gregorian calendar", lambda y: y % 4 == 0 and (y % 100 != 0 or y % 400 == 0)),
    ("celsius_to_fahrenheit", "c: float", "float", "the temperature in degrees Fahrenheit", lambda c: c * 9 / 5 + 32),
    ("hours_and_minutes", "minutes: int", "Tuple[int, int]", "the whole hours and the remaining minutes", lambda m: divmod(m, 60)),
    ("bit_length", "n: int", "int", "the number of bits needed to write n", int.bit_length)]
IMPORTS = ["from typing import List\n\n\n", "from typing import List, Optional\n\n\n", "", "\n\n"]
NOUNS = ["numbers", "values", "items", "xs", "nums", "data", "arr", "lst"]


def head(name, args, ret, doc, examples, rng):
    """a function's signature and docstring in one of a few common styles"""
    quote = rng.choice(['"""', '"""', '"""', "'''"])
    shown = "".join(rng.choice(["    >>> {0}({1!r})\n    {2!r}\n"]).format(name, x, y) for x, y in examples)
    if rng.random() < 0.3:
        shown = "".join(f"    {name}({x!r}) == {y!r}\n" for x, y in examples)
        shown = rng.choice(["    Examples:\n", "    For example:\n", "    Example:\n"]) + shown
    if rng.random() < 0.15:
        shown = ""
    signature = f"def {name}({args}) -> {ret}:\n" if rng.random() < 0.75 else f"def {name}({args.split(':')[0]}):\n"
    opening = rng.choice([quote, quote + " ", quote + "\n    "])
    return f"{signature}    {opening}{doc}\n{shown}    {quote}\n"


def sentence(what, subject, rng):
    return rng.choice([f"Return {what} in {subject}.", f"Given {subject}, return {what}.", f"Compute {what}.",
                       f"Write a function that takes {subject} and returns {what}.", f"You are given {subject}.\n    Return {what}."])


def functions(rng, repeats=5):
    """yields (source head, name, one-line description) for every task, in several wordings"""
    for _ in range(repeats):
        for op, (ret, what, fn) in LIST_OPS.items():
            for c, test in CONDITIONS.items():
                name, arg = f"{op}_{c}", rng.choice(NOUNS)
                lists = [[rng.randint(-9, 40) for _ in range(rng.randint(3, 6))] for _ in range(rng.randint(1, 3))]
                doc = sentence(what.format(c=c.replace("_", " ")), f"a list {arg} of integers", rng)
                yield head(name, f"{arg}: List[int]", ret, doc, [(x, fn([v for v in x if test(v)])) for x in lists], rng), name, doc
        for op, (ret, what, fn) in STRING_OPS.items():
            for c, test in CHARS.items():
                name, arg = f"{op}_{c}", rng.choice(["text", "s", "string", "word"])
                words = rng.sample(["Hello World", "abc 123", "Python 3.12!", "a-b-c", "Good Morning", "x9Y8z7", "banana", "Rain, rain"], 2)
                doc = sentence(what.format(c=c), f"a string {arg}", rng)
                yield head(name, f"{arg}: str", ret, doc, [(w, fn(w, test)) for w in words], rng), name, doc
        for name, args, ret, what, fn in NUMBER_TASKS:
            doc = sentence(what, f"an argument {args.split(':')[0]}", rng)
            numbers = rng.sample(range(10, 99), 2)
            yield head(name, args, ret, doc, [(n, fn(n)) for n in numbers] if name != "collatz_steps" else [], rng), name, doc


TOPICS = """the French Revolution|photosynthesis|black holes|the Roman Empire|making bread|sourdough|the water cycle|gravity|the stock market|
renewable energy|electric cars|Shakespeare|jazz music|the human heart|vaccines|the solar system|climate change|coffee|green tea|
chess|football|marathon training|yoga|meditation|sleep|a healthy breakfast|vegetable soup|pasta carbonara|chocolate cake|gardening|
house plants|cats|dogs|whales|honey bees|dinosaurs|volcanoes|earthquakes|the Amazon rainforest|Antarctica|Japan|Brazil|Egypt|Paris|
New York|the Great Wall of China|World War II|the Cold War|democracy|inflation|supply and demand|personal budgeting|job interviews|
public speaking|time management|remote work|learning a language|reading books|writing a novel|poetry|painting|photography|the piano|
computer viruses|machine learning|the internet|databases|recursion|binary search|linked lists|sorting algorithms|object-oriented programming|
Python dictionaries|regular expressions|probability|fractions|prime numbers|the Pythagorean theorem|calculus|statistics|DNA|atoms|
the periodic table|acids and bases|friendship|honesty|a lost umbrella|a brave knight|a talking fox|space travel""".replace("\n", "").split("|")
ASKS = """What is {t}?|Explain {t} to a ten-year-old.|Write a short paragraph about {t}.|List five facts about {t}.|
Write a poem about {t}.|Give me three tips about {t}.|Write a short story about {t}.|What are the advantages and disadvantages of {t}?|
Summarize what people should know about {t} in two sentences.|Write an email to a friend about {t}.|Why is {t} important?|
Write a JSON object with the keys "title", "summary" and "keywords" about {t}.|Make a quiz of three questions about {t} with answers.|
Write an outline of an essay about {t}.|Translate the sentence "I want to learn about {t}" into French, Spanish and German.|
How would you describe {t} in one word, one sentence and one paragraph?|Write a dialogue between two people about {t}.|
What is the history of {t}?|Write a headline and a news article about {t}.|Create a table in Markdown about {t}.|
Give me a recipe or a plan that has to do with {t}.|Ask me a question about {t}.|Rewrite this politely: "I do not care about {t}."|
Compare {t} with {u}.|How are {t} and {u} related?|Is it better to learn about {t} or about {u}?"""
SMALL_TALK = """Hi!|Hello, how are you?|Who are you?|What can you do?|Tell me a joke.|Good morning!|Thank you!|What is the capital of France?|
What is 12 times 7?|What day comes after Monday?|Write a haiku.|Count from 1 to 20.|List the months of the year.|List the planets.|
Write the alphabet.|Name ten animals.|Write a thank-you letter to my teacher.|Write a cover letter for a baker.|Give me a shopping list.|
Correct the grammar: "She go to school yesterday."|Turn this into a list: apples, pears and plums.|What is the opposite of hot?|
Classify the sentiment: "I loved this film."|Extract the names: "Anna met Tom and Lucy in Rome."|Write a SQL query that counts users by country.|
Write a bash command that lists the largest files.|Write an HTML page with a heading and a list.|Write a JavaScript function that reverses a string.|
Write a C program that prints the numbers from 1 to 10.|Write a regular expression that matches an email address."""


def general(rng, per_topic=14):
    """yields general questions"""
    asks = ASKS.replace("\n", "").split("|")
    yield from SMALL_TALK.replace("\n", "").split("|")
    for topic in TOPICS:
        for ask in rng.sample(asks, per_topic):
            yield ask.format(t=topic, u=rng.choice(TOPICS))
