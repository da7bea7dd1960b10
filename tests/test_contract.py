"""Every promise is shown by a test or stands in the open list, and the open list only shrinks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from contract import OPEN, RULES, Claim, claims

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "shared" / "design" / "semantics.md"


@pytest.fixture(scope="module")
def made() -> list[Claim]:
    return claims(HERE)


def test_each_rule_is_shown_by_a_test_or_open(made: list[Claim]) -> None:
    shown = {claim.rule for claim in made}
    assert [] == sorted(RULES.keys() - shown - OPEN), "no test shows these, and they aren't in OPEN"


def test_the_open_list_shrinks(made: list[Claim]) -> None:
    done = [f"{claim.rule} ({claim.where})" for claim in made if claim.rule in OPEN and not claim.partly]
    assert [] == done, "a test shows these: take them out of OPEN, or mark the test partly=True"


def test_only_rules_of_the_contract_are_claimed(made: list[Claim]) -> None:
    unknown = [f"{claim.rule} ({claim.where})" for claim in made if claim.rule not in RULES]
    assert [] == unknown
    assert [] == sorted(OPEN - RULES.keys())


@pytest.mark.skipif(not PAGE.is_file(), reason="the contract's page is kept outside this repository")
def test_the_rules_are_those_of_the_page() -> None:
    assert sorted(set(re.findall(r"\*\*(S\d+\.\d+)\*\*", PAGE.read_text()))) == sorted(RULES)


# --- the collector ----------------------------------------------------------------------------------------------------


def collected(tmp_path: Path, source: str) -> list[tuple[str, bool, str]]:
    (tmp_path / "test_sample.py").write_text(source)
    return [(claim.rule, claim.partly, claim.where) for claim in claims(tmp_path)]


def test_claims_are_found_on_functions_classes_modules_and_parameters(tmp_path: Path) -> None:
    source = (
        'pytestmark = [pytest.mark.contract("S1.1")]\n'
        '@contract("S2.3", "S2.4")\n'
        "class TestX:\n"
        '    @pytest.mark.contract("S9.4", partly=True)\n'
        '    @pytest.mark.parametrize("n", [pytest.param(1, marks=contract("S3.1"))])\n'
        "    def test_y(self, n): ...\n"
    )
    expected = [
        ("S1.1", False, "test_sample.py:1"),
        ("S2.3", False, "test_sample.py:2"),
        ("S2.4", False, "test_sample.py:2"),
        ("S3.1", False, "test_sample.py:5"),
        ("S9.4", True, "test_sample.py:4"),
    ]
    assert expected == sorted(collected(tmp_path, source))


def test_other_calls_and_other_files_claim_nothing(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text('@contract("S1.1")\ndef test_x(): ...\n')
    assert [] == collected(tmp_path, '@pytest.mark.skip("S1.1")\ndef test_x(): ...\n')


@pytest.mark.parametrize("marker", ["contract(ID)", "contract()", 'contract("S1.1", part=1)', 'contract(*["S1.1"])'])
def test_a_marker_that_cannot_be_read_is_an_error(tmp_path: Path, marker: str) -> None:
    with pytest.raises(ValueError, match=r"^test_sample\.py:1: expected "):
        collected(tmp_path, f"@{marker}\ndef test_x(): ...\n")
