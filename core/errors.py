"""Every error specd raises on purpose. No imports, so that any layer can raise them.

SpecdError
├── ConfigError        a setting is unknown, out of bounds or impossible together with another
├── RequestError       a client's request is wrong; carries the HTTP status and the field
├── CheckpointError    model files are missing, broken or of a kind we do not read
├── DiskError          a file cannot be written, or read, for want of room or rights
├── DataError          training data are missing, broken or made from something else
├── ShapeError         an array or tensor does not have the shape its contract names
├── EngineError
│   ├── OutOfBlocks    the KV pool cannot hold what was asked
│   └── ReplicaLost    a process of a replica on several is gone: the others are past use
└── QueueError         Redis is out of reach or answered what it should not
"""


class SpecdError(Exception):
    """Base of every deliberate error."""


class ConfigError(SpecdError):
    """A setting is unknown, out of bounds or impossible together with another."""


class RequestError(SpecdError):
    """A client's request is wrong: `status` is the HTTP status, `param` the field, `code` a stable word.

    retry_after_s says when it may be right, where that is known.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str = "invalid_value",
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s


class CheckpointError(SpecdError):
    """Model files are missing, broken or of a kind we do not read."""


class DiskError(SpecdError):
    """A file cannot be written, or read, for want of room or rights."""


class DataError(SpecdError):
    """Training data are missing, broken or made from something else."""


class ShapeError(SpecdError):
    """An array or tensor does not have the shape its contract names."""


class EngineError(SpecdError):
    """The engine cannot go on with what it was given."""


class OutOfBlocks(EngineError):
    """The KV pool cannot hold what was asked."""


class ReplicaLost(EngineError):
    """A process of a replica on several is gone, or at another place than the others; none of them can go on."""


class QueueError(SpecdError):
    """Redis is out of reach or answered what it should not."""
