from benchmarks.cost.packets import ratio
from benchmarks.cost.page import merged

TITLE, HEADINGS = "# Page", ("## One", "## Two")


def test_a_section_replaces_its_own_and_no_other() -> None:
    page = merged("", ["## Two", "", "old"], TITLE, HEADINGS)
    page = merged(page, ["## One", "", "first"], TITLE, HEADINGS)
    page = merged(page, ["## Two", "", "new"], TITLE, HEADINGS)
    assert page == "# Page\n\n## One\n\nfirst\n\n## Two\n\nnew\n"
    assert merged(page, ["## One", "", "first"], TITLE, HEADINGS) == page


def test_sections_measured_in_their_order_stay_apart() -> None:
    page = merged("", ["## One", "", "first"], TITLE, HEADINGS)
    assert merged(page, ["## Two", "", "new"], TITLE, HEADINGS) == "# Page\n\n## One\n\nfirst\n\n## Two\n\nnew\n"


def test_ratios_are_of_pairs() -> None:
    # The machine was three times as slow the second time: by medians apart it would be 2.5.
    assert ratio([2, 6, 20], [1, 3, 8]) == 2
