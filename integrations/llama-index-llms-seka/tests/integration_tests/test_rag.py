"""The embedded model through the whole query engine of `rag`, plain and highlighted."""

import pytest
import rag
import torch


@pytest.fixture(scope="module")
def rates():
    torch.set_num_threads(1)  # two get in each other's way where the machine is busy
    return rag.rates(["qa_template"])["qa_template"]


def test_a_notice_that_answers_is_followed(rates):
    assert len(rag.ROWS) >= 200
    assert rates["grounded"]["highlighted"] >= 0.95 * len(rag.ROWS)
    assert rates["grounded"]["plain"] <= 0.75 * len(rag.ROWS)


def test_notices_beside_the_point_mislead_no_more_than_before(rates):
    wrong = rates["wrong_beside"]
    assert wrong["highlighted"] <= wrong["plain"] + 0.02 * len(rag.ROWS)
