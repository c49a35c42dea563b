"""The feedback process: builds its parts and hands them down. `main` is the console command `trimtab feedback`.

An event goes `servicer` -> `intake`, which judges it (`validation`, `placing`), appends it to topic `feedback` and only
then says yes; `imports` does the same for preferences from elsewhere. docs/concepts/feedback.md follows one vote.
"""

from trimtab.feedback import imports, intake, servicer
from trimtab.feedback import settings as feedback_settings
from trimtab.rpc import process


def build(settings: feedback_settings.FeedbackSettings) -> process.Process:
    """The process, ready to run."""
    made = process.Process("feedback", settings)
    log = made.open_log()
    ring, digest = made.secrets.signing, settings.digest()
    importer = imports.Importer(log, ring, made.secrets.hash_key, config_digest=digest)
    door = servicer.FeedbackServicer(
        intake.Intake(log, ring, made.secrets.hash_key, config_digest=digest),
        importer,
    )
    made.on_close(importer.close)
    made.add_service(door.register, servicer.FULL_NAME)
    return made


def main(config: feedback_settings.FeedbackSettings) -> None:
    process.launch(config, "feedback", build)
