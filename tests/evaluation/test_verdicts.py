"""Verdicts: what passes, what counts, what is written and read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adit_scale.atoms import CRYSTAL, MOLECULE
from adit_scale.errors import DataError
from adit_scale.evaluation.verdicts import FAILED, NOT_ASKED, PASSED, Check, Verdicts


def four() -> Verdicts:
    verdicts = Verdicts(MOLECULE, ["a", "b", "c", "d"], np.array([3, 5, 0, 9]))
    verdicts.add_check("valid", Check.from_faults([None, None, "broken", None], "by hand"))
    verdicts.add_check("unique", Check.from_faults([None, "repeated", "broken", None]))
    verdicts.add_check(
        "stable", Check(np.array([PASSED, FAILED, FAILED, NOT_ASKED]), ["", "hot", "broken", ""])
    )
    return verdicts


def test_rates_by_hand():
    verdicts = four()
    counts = {
        ("valid",): (3, 4),
        ("valid", "unique"): (2, 4),
        ("stable",): (1, 3),  # one was not asked
        ("valid", "stable"): (1, 3),
    }
    for names, expected in counts.items():
        rate = verdicts.rate(*names)
        assert (rate.successes, rate.trials) == expected
    given_valid = verdicts.rate("unique", given=("valid",), confidence=0.68)
    assert (given_valid.successes, given_valid.trials, given_valid.confidence) == (2, 3, 0.68)
    assert verdicts.rate("stable", given=("valid",)).trials == 2


def test_reasons_account_for_every_failure():
    verdicts = four()
    assert verdicts.checks["unique"].reason_table() == {"repeated": 1, "broken": 1}
    for check in verdicts.checks.values():
        assert sum(check.reason_table().values()) == int((check.verdict == FAILED).sum())


def test_joint_takes_the_reason_of_the_first_that_fails():
    verdicts = four()
    verdicts.joint("both", ("valid", "stable"))
    both = verdicts.checks["both"]
    assert both.verdict.tolist() == [PASSED, FAILED, FAILED, NOT_ASKED]
    assert both.reasons == ["", "hot", "broken", ""]
    assert both.protocol == "valid and stable"
    assert verdicts.passed("both").tolist() == verdicts.passed("valid", "stable").tolist()


def test_columns_of_another_length_or_twice_are_refused():
    verdicts = four()
    with pytest.raises(AssertionError, match="valid is there already"):
        verdicts.add_check("valid", Check.from_faults([None] * 4))
    with pytest.raises(AssertionError, match="x has 3 rows; expected 4"):
        verdicts.add_value("x", [1.0, 2.0, 3.0])
    with pytest.raises(AssertionError, match="5 rows"):
        verdicts.add_label("y", ["a"] * 5)


# Any text without surrogates and NUL, which no file holds; quotes, commas and line breaks included.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), n=st.integers(1, 6), domain=st.sampled_from([CRYSTAL, MOLECULE]))
def test_csv_both_ways(data: st.DataObject, n: int, domain: int, tmp_path: Path):
    def column(values: st.SearchStrategy) -> list:
        return data.draw(st.lists(values, min_size=n, max_size=n))

    verdicts = Verdicts(domain, column(TEXT), np.array(column(st.integers(0, 300))))
    verdict = np.array(column(st.sampled_from([PASSED, FAILED, NOT_ASKED])))
    reasons = [text if v == FAILED else "" for text, v in zip(column(TEXT), verdict, strict=True)]
    verdicts.add_check("is_valid", Check(verdict, reasons, "rule 1"))
    verdicts.add_value("density_g_cm3", column(st.floats(allow_nan=True, allow_infinity=True)))
    verdicts.add_label("smiles", column(TEXT))
    path = tmp_path / "v.csv"
    verdicts.write_csv(path)
    found = Verdicts.read_csv(path, {"is_valid": "rule 1"})
    assert (found.domain, found.ids, found.labels) == (domain, verdicts.ids, verdicts.labels)
    assert found.n_atoms.tolist() == verdicts.n_atoms.tolist()
    assert found.checks["is_valid"].verdict.tolist() == verdict.tolist()
    assert found.checks["is_valid"].reasons == reasons
    assert found.checks["is_valid"].protocol == "rule 1"
    np.testing.assert_array_equal(found.values["density_g_cm3"], verdicts.values["density_g_cm3"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "domain,id,n_atoms\n",
        "id\nx\n",
        "domain,id,n_atoms\nmetal,a,3\n",
        "domain,id,n_atoms\ncrystal,a,three\n",
        "domain,id,n_atoms,check:valid\ncrystal,a,3,1\n",
        "domain,id,n_atoms,check:valid,why:valid\ncrystal,a,3\n",
        "domain,id,n_atoms,check:valid,why:valid\ncrystal,a,3,7,\n",
    ],
)
def test_foreign_tables_are_refused_by_name(text: str, tmp_path: Path):
    path = tmp_path / "v.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=r"v\.csv: not verdicts written by `adit evaluate`"):
        Verdicts.read_csv(path)
    with pytest.raises(DataError, match="no such file"):
        Verdicts.read_csv(tmp_path / "w.csv")
