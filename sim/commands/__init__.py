"""The commands of `minibench`, by what they are about. Each module lists its own in `COMMANDS`."""
