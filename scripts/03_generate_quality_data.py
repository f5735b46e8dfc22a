"""Stage 3: `lossatlas inits label --n-samples`.

The flags of the published scripts; every option of the command may follow them.
"""

from door import open_door

if __name__ == "__main__":
    open_door("label", "--n_samples", "--n-samples")
