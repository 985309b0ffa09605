"""What benchmarks let the engine log: warnings, so that numbers stay readable."""

import logging

import structlog


def show_warnings_only() -> None:
    """Silence what is below a warning, in this process."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
