"""`torchrun ... -m keepstep.trainer.doctor`: the doctor on as many ranks as a run would have."""

from ..commands.app import main

if __name__ == "__main__":
    main("doctor")
