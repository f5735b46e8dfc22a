"""Stage 1: `lossatlas inits generate --n-samples`.

The flags of the published scripts; every option of the command may follow them.
"""

from door import open_door

if __name__ == "__main__":
    open_door("generate", "--n_samples", "--n-samples")
