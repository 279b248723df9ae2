"""`torchrun ... -m keepstep.trainer OVERRIDES`: the main job, on as many ranks as there are."""

from .identity import text_label
from .language_model import language_model
from .loop import Trainer
from .supervise import supervise

if __name__ == "__main__":
    supervise(Trainer.fit, language_model, label=text_label)
