"""keepstep: a PyTorch training runtime that never loses a step."""
