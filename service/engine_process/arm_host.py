"""The arms of an experiment in the engine of this process: made once, served by turns, forgotten at the end."""

from core.config import Settings
from core.errors import ConfigError
from core.experiments.spec import Experiment, arm_policies
from engine.arms import forget_arms, make_arms, serve_arms
from engine.build import COSTLESS
from engine.engine import Engine
from engine.groups import Arm, Choose


class EngineArms:
    """Serves arms in one engine (`ArmHost`)."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine, self._settings = engine, settings

    def make(self, experiment: Experiment) -> dict[str, Arm]:
        """Return the arms, each with a policy of its own; raises ConfigError for one that cannot be served here."""
        for name, told in arm_policies(experiment, self._settings).items():
            if self._settings.engine.profile and not isinstance(told, COSTLESS) and not self._engine.costs:
                raise ConfigError(
                    f"arms.{name}: policy {experiment.arms[name].policy!r} decides by what steps cost, which no policy "
                    "of the server's settings asked to measure; name it there, as the default or in [policies.NAME]"
                )
        return make_arms(experiment, self._settings)

    def serve(self, choose: Choose | None) -> None:
        """Let requests be served by the arms that `choose` returns."""
        serve_arms(self._engine, choose)

    def forget(self, arms: dict[str, Arm]) -> None:
        """Let go of arms."""
        forget_arms(self._engine, [arm.name for arm in arms.values()])
