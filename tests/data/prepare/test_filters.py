"""Each rule drops what it names and nothing else of a plain text, at its bound."""

import pytest

from keepstep.data.prepare.text.filters import RULES, Measured, dropped_by, parse_filters

# Sixty words, no two lines alike.
PLAIN = "\n\n".join(
    f"In year {n} the {a} ship went {b} with its {c} and never came home again."
    for n, (a, b, c) in enumerate(
        [
            ("northern", "eastward", "cargo"),
            ("slender", "aground", "captain"),
            ("wooden", "missing", "passengers"),
            ("heavy", "under", "treasure"),
        ]
    )
)


def first_rule(text: str, *filters: str) -> str | None:
    bounds = parse_filters(filters or ["gopher"])
    place = dropped_by(text, bounds)
    return None if place is None else bounds[place][0]


def test_a_plain_text_passes_all_rules_of_quality_and_repetition() -> None:
    assert len(PLAIN.split()) >= 50
    # Four sentences of one pattern are too alike for the n-grams; the first three rules on lines.
    assert first_rule(PLAIN, "gopher_quality") is None
    assert first_rule(PLAIN, *(rule for rule in RULES if "gram" not in rule)) is None


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("min_words", "too short"),
        ("max_words", "word and " * 50_001),
        ("min_mean_word_length", "a b " * 40),
        ("max_mean_word_length", "incomprehensibilities " * 60),
        ("max_symbol_word_ratio", PLAIN + " #" * 12),
        ("max_symbol_word_ratio", PLAIN + " well..." * 12),
        ("max_bullet_lines", "\n".join(f"- {line}" for line in PLAIN.split("\n\n"))),
        ("max_ellipsis_lines", "\n".join(f"{line} so\u2026" for line in PLAIN.split("\n\n"))),
        ("min_alphabetic_words", PLAIN + " 123" * 20),
        ("max_duplicate_lines", PLAIN + "\nagain" * 9),
        ("max_duplicate_paragraphs", PLAIN + "\n\nagain" * 9),
        ("max_duplicate_line_characters", "\n".join([*PLAIN.split("\n\n"), PLAIN[-75:] * 2] * 2)),
        ("max_duplicate_paragraph_characters", "\n\n".join([PLAIN.split("\n\n")[0]] * 3)),
        ("max_top_2_gram", "of the king " * 30),
        ("max_top_3_gram", "of the king " * 30),
        ("max_top_4_gram", "by order of the king " * 30),
        *((f"max_duplicate_{n}_grams", (" ".join(PLAIN.split()) + " ") * 2) for n in range(5, 11)),
    ],
)
def test_a_text_that_breaks_a_rule_is_dropped_by_it(rule: str, text: str) -> None:
    assert first_rule(text, rule) == rule


def test_every_rule_is_tried_by_a_text_that_breaks_it() -> None:
    (mark,) = (
        mark
        for mark in test_a_text_that_breaks_a_rule_is_dropped_by_it.pytestmark  # type: ignore[attr-defined]
        if mark.name == "parametrize"
    )
    assert {case[0] for case in mark.args[1]} == set(RULES)


@pytest.mark.parametrize(
    ("rule", "text", "wanted"),
    [
        ("max_duplicate_lines", "a\nb\na\nc", 1 / 4),
        ("max_duplicate_line_characters", "aaaa\nb\naaaa\nc", 4 / 10),
        ("max_top_2_gram", "ab cd ef ab cd gh", 8 / 12),
        ("max_top_2_gram", "ab cd ef gh", 0.0),
        ("max_top_3_gram", "ab", 0.0),
        ("max_duplicate_5_grams", "a b c d e f a b c d e g", 5 / 12),
        ("max_duplicate_5_grams", "a a a a a a a", 6 / 7),
        ("max_symbol_word_ratio", "# a b\u2026 c", 1 / 4),
        ("min_mean_word_length", "ab abcd", 3.0),
        ("min_mean_word_length", "", 0.0),
    ],
)
def test_a_measure_is_the_number_it_says(rule: str, text: str, wanted: float) -> None:
    assert RULES[rule].measure(Measured(text)) == pytest.approx(wanted)


def test_a_bound_of_ones_own_wins_and_the_first_broken_rule_counts() -> None:
    assert first_rule("too short", "min_words=3") == "min_words"
    assert first_rule("too short", "min_words=3", "min_words=2") is None
    assert parse_filters(["min_words=2", "gopher_quality", "max_words=9"])[:2] == [
        ("min_words", 50),
        ("max_words", 9.0),
    ]
    assert first_rule("a b c", "max_words=2", "min_mean_word_length") == "max_words"
    assert dropped_by("anything", []) is None


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("gofer", "found 'gofer', needed one of gopher"),
        ("gopher=3", "found 'gopher=3', needed one of"),
        ("min_words=many", "found 'min_words=many', needed a number behind min_words="),
    ],
)
def test_a_rule_that_is_none_is_refused(item: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_filters([item])
