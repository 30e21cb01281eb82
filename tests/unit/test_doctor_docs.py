"""docs/troubleshooting.md and the catalogue of checks say the same."""

import re
from pathlib import Path

from chadthrottle.doctor.catalogue import CHECKS
from chadthrottle.doctor.examine import BUG

PAGE = (Path(__file__).parents[2] / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
ROW = re.compile(r'^\| <a id="(ct-[a-z0-9-]+)"></a>(CT-[A-Z0-9]+-[0-9]{2}) \|(.*)\|$', re.MULTILINE)
LINK = re.compile(r"\[(CT-[A-Z0-9]+-[0-9]{2})\]\(#(ct-[a-z0-9-]+)\)")


def known() -> list[str]:
    return [*(check.id for check in CHECKS), BUG]


def test_ids_are_unique_and_well_formed() -> None:
    assert len(known()) == len(set(known()))
    for each in known():
        assert re.fullmatch(r"CT-[A-Z0-9]+-[0-9]{2}", each)


def test_every_check_has_a_row_and_every_row_a_check() -> None:
    documented = [identifier for _, identifier, _ in ROW.findall(PAGE)]
    assert len(documented) == len(set(documented))
    assert set(documented) == set(known())


def test_rows_say_something() -> None:
    for anchor, identifier, rest in ROW.findall(PAGE):
        assert anchor == identifier.lower()
        cells = [cell.strip() for cell in rest.split(" | ")]
        assert len(cells) == 3, identifier
        assert all(cells), identifier


def test_branches_lead_to_rows() -> None:
    anchors = {anchor for anchor, _, _ in ROW.findall(PAGE)}
    links = LINK.findall(PAGE)
    assert links
    for identifier, anchor in links:
        assert anchor == identifier.lower()
        assert anchor in anchors


def test_every_id_in_the_page_exists() -> None:
    assert set(re.findall(r"CT-[A-Z0-9]+-[0-9]{2}", PAGE)) <= set(known())
