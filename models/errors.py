"""The root of every error that is meant for a user's eyes.

FourfoldError
├── models:   UnknownModelError, CheckpointError, ConfigError, ResumeError, ExportError, EvaluationDataError
├── engines:  EngineError ── BackendUnavailableError, InferenceError, EngineDeadError
└── server:   MediaError ── the errors of server.media.errors
"""


class FourfoldError(Exception):
    """One line that says what is wrong, why, and what to do. The command line prints it and exits with 1."""
