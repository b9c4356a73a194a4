"""README's table of results is what the recorded results say."""

from solution.results_table import END, README, START, results_block, with_results


def test_results_are_up_to_date():
    text = README.read_text()
    assert START in text and END in text
    assert text == with_results(text, results_block()), "run: python -m solution.report --readme"
