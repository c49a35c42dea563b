"""What the feedback process can be told: what every process can."""

from trimtab.rpc import settings


class FeedbackSettings(settings.ProcessSettings):
    """Takes in what people think of answers, and says yes once the log has it."""
