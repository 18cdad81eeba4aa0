"""From measured rows to an answer: the table, differences with intervals, the verdict, figures and the page."""
