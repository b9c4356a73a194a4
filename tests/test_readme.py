"""The tables of results say what the recorded results say."""

from solution.results_table import END, OTHER_RESULTS, README, SHOWN, START, other_results, results_block, with_results


def test_results_are_up_to_date():
    text = README.read_text()
    assert START in text and END in text
    assert text == with_results(text, results_block(SHOWN)), "run: python -m solution.report --readme"
    assert OTHER_RESULTS.read_text() == other_results(), "run: python -m solution.report --readme"
