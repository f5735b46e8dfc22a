"""Stage 2: `lossatlas inits fit-surrogate --epochs`.

The flags of the published scripts; every option of the command may follow them.
"""

from door import open_door

if __name__ == "__main__":
    open_door("fit-surrogate", "--epochs", "--epochs")
