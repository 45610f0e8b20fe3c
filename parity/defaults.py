"""The defaults of a comparison: `check`, the commands and Problem read them here."""

EPOCHS = 10  # of the training curves
BATCH_SIZE = 256
SEED = 0
LEARNING_RATE = 0.1
CERTIFY = True  # whether every step of all epochs is judged
