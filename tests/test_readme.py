"""The tables of results say what the recorded results say."""

from solution.results_table import ALL_RESULTS, README, all_results, read_results, results_block, with_results


def test_results_are_up_to_date():
    text, results = README.read_text(), read_results()
    assert text == with_results(text, results_block(results)), "run: python -m solution.report --readme"
    assert ALL_RESULTS.read_text() == all_results(results), "run: python -m solution.report --readme"
