"""The command line: one file a command.

How an option reaches a function: fields of a settings model (`lossatlas.settings`, those of
several commands in `shared_options`) become options in `command`, which reads the command
line and `--config` back into one model and calls the `run` of the command's file with it.
"""
