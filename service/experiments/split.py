"""Which arm a request has where requests are split."""

from core.experiments.assignment import arm_of_key
from core.experiments.spec import Experiment
from service.storage.claims import job_id_of


def arm_of_request(experiment: Experiment, run_id: str) -> str:
    """Return the arm of a request, the same in every worker that takes its job over."""
    return arm_of_key(experiment.salt, experiment.weights, job_id_of(run_id))
