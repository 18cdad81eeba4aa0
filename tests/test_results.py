"""The committed results: complete for their studies, valid by their schema, and what the README quotes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest

from pipeline.evaluation.accuracy import score_classes
from pipeline.expected import expected_models
from pipeline.params import read_params

STUDIES = sorted(read_params()["studies"])
SIGNATURES = {
    "BLEU": r"nrefs:.+\|version:[\d.]+",  # sacreBLEU's own
    "accuracy": r"accuracy\|n:[1-9]\d*\|boot:[1-9]\d*\|seed:\d+",
}


@pytest.fixture(params=STUDIES)
def study(request: pytest.FixtureRequest) -> str:
    """A committed study's name."""
    return str(request.param)


def _verdict(study: str) -> dict[str, Any]:
    return dict(json.loads(Path("results", study, "verdict.json").read_text(encoding="utf-8")))


def test_every_configuration_and_seed_of_the_expansion_has_a_row_with_a_status(study: str) -> None:
    entry = read_params()["report"][study]
    expected = {model.run_id for model in expected_models(entry)}
    rows = pd.read_csv(Path("results", study, "runs.csv")).set_index("run_id")
    assert set(rows.index) == expected
    assert rows.index.is_unique
    assert set(rows.status) <= {"ok", "diverged", "failed"}
    assert (rows.status == "ok").mean() > 0.9
    pd.testing.assert_index_equal(
        pd.read_parquet(Path("results", study, "runs.parquet")).set_index("run_id").index, rows.index
    )


def test_what_was_not_measured_is_null_and_never_zero(study: str) -> None:
    rows = pd.read_csv(Path("results", study, "runs.csv"))
    assert (
        (rows[rows.status == "ok"][["valid_loss", "test_loss", "size_bytes", "total_flops", "total_seconds"]] > 0)
        .all()
        .all()
    )
    scored = rows[rows.quality.notna()]
    assert len(scored) > 0
    assert scored.quality_name.isin(SIGNATURES).all()
    for name, of_name in scored.groupby("quality_name"):
        assert of_name.signature.str.fullmatch(SIGNATURES[str(name)]).all()
    assert (scored.quality_low <= scored.quality).all()
    assert (scored.quality <= scored.quality_high).all()
    assert rows[rows.quality.isna()].signature.isna().all()


def test_a_score_of_classes_has_the_signature_that_results_must_have() -> None:
    score = score_classes(np.array([True, False, True]), np.arange(3), resamples=100)
    assert re.fullmatch(SIGNATURES["accuracy"], score["signature"])


def test_no_row_of_the_verdict_cost_more_than_the_budget(study: str) -> None:
    rows = pd.read_csv(Path("results", study, "runs.csv")).set_index("run_id")
    for match in _verdict(study)["matches"]:
        for limit in match["limits"]:
            for side in ("heavy", "light"):
                chosen = rows.loc[(limit[side] or {"run_ids": []})["run_ids"]]
                assert chosen.within_budget.all()
                assert (chosen.size_bytes <= limit["limit"]).all()


def test_the_verdict_is_valid_by_the_schema_beside_it(study: str) -> None:
    schema = json.loads(Path("results", study, "verdict.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(_verdict(study), schema)


def test_the_readme_says_what_the_default_study_found() -> None:
    readme = Path("README.md").read_text(encoding="utf-8")
    assert _verdict("default")["claim"] in readme
    verdict = Path("results/default/verdict.md").read_text(encoding="utf-8")
    table = verdict.split("\n", 1)[1].strip()
    assert table in readme


def test_the_readme_says_what_the_masked_lm_study_found() -> None:
    readme = Path("README.md").read_text(encoding="utf-8")
    verdict = _verdict("mlm")
    assert verdict["claim"] in readme
    for one in verdict["first_study"]:
        assert f"{one['claim']}: **{one['answer']}**" in readme
